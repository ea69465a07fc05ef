"""The table of transitions as a Mermaid state diagram; `python -m ftactors.core.diagram` prints it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from ftactors.core.events import JobEvent, JobSubmitted
from ftactors.core.phases import TERMINAL_PHASES, TRANSITIONS, Phase


def state_diagram(transitions: Mapping[Phase, Mapping[type[JobEvent], Phase]] = TRANSITIONS) -> str:
    """Return the diagram, fenced as Markdown wants it: an arrow for each pair of phases, with its events in order."""
    return "\n".join(["```mermaid", "stateDiagram-v2", *(f"    {arrow}" for arrow in _arrows(transitions)), "```"])


def _arrows(transitions: Mapping[Phase, Mapping[type[JobEvent], Phase]]) -> Iterator[str]:
    yield f"[*] --> {Phase.SUBMITTED}: {JobSubmitted.__name__}"
    for phase, allowed in transitions.items():
        for target in dict.fromkeys(allowed.values()):
            events = [event.__name__ for event, leads_to in allowed.items() if leads_to is target]
            yield f"{phase} --> {target}: {'<br/>'.join(events)}"
        if phase in TERMINAL_PHASES:
            yield f"{phase} --> [*]"


if __name__ == "__main__":
    sys.stdout.write(state_diagram() + "\n")
