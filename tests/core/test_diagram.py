from __future__ import annotations

from pathlib import Path

from ftactors.core.diagram import state_diagram
from ftactors.core.events import AttemptPlaced, JobCancelled, PauseRequested, ResumeRequested
from ftactors.core.phases import TRANSITIONS, Phase

ARCHITECTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"
BEGIN, END = "<!-- state diagram: generated -->", "<!-- state diagram: end -->"


def test_the_diagram_in_architecture_md_is_current():
    _, _, rest = ARCHITECTURE.read_text(encoding="utf-8").partition(BEGIN)
    drawn, _, _ = rest.partition(END)

    assert drawn.strip() == state_diagram(), (
        f"put what `python -m ftactors.core.diagram` prints between {BEGIN} and {END}"
    )


def test_every_transition_is_drawn_once():
    lines = [line.strip() for line in state_diagram().splitlines()]
    drawn = [
        (phase, event, target)
        for phase, target, events in (_parts(line) for line in lines if " --> " in line and "[*]" not in line)
        for event in events
    ]

    assert sorted(drawn) == sorted(
        (phase.value, event.__name__, target.value)
        for phase, allowed in TRANSITIONS.items()
        for event, target in allowed.items()
    )


def test_events_that_lead_to_the_same_phase_share_an_arrow():
    table = {
        Phase.SUBMITTED: {
            PauseRequested: Phase.SUBMITTED,
            ResumeRequested: Phase.SUBMITTED,
            AttemptPlaced: Phase.PREPARING,
            JobCancelled: Phase.CANCELLED,
        },
        Phase.CANCELLED: {},
    }

    assert state_diagram(table).splitlines() == [
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> submitted: JobSubmitted",
        "    submitted --> submitted: PauseRequested<br/>ResumeRequested",
        "    submitted --> preparing: AttemptPlaced",
        "    submitted --> cancelled: JobCancelled",
        "    cancelled --> [*]",
        "```",
    ]


def _parts(line: str) -> tuple[str, str, list[str]]:
    arrow, _, events = line.partition(": ")
    phase, _, target = arrow.partition(" --> ")
    return phase, target, events.split("<br/>")
