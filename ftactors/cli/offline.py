"""The event log, read while no service has it open."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ftactors.core.events import JobEvent, Recorded
from ftactors.core.state import State
from ftactors.log.rows import recorded_of
from ftactors.log.urls import storage_at
from ftactors.log.verify import verified

_SQLITE = "sqlite:///"
_LOCK_WAIT_S = 2.0
"""A service that just ended, or another reader, may hold the log for a moment longer."""


@dataclass(slots=True)
class LogContent:
    """What a log says."""

    state: State = field(default_factory=State)
    events: dict[str, list[Recorded]] = field(default_factory=dict)
    """Of each job, oldest first."""


def read_log(url: str, *, lock_wait_s: float = _LOCK_WAIT_S) -> LogContent | None:
    """Return what a log says; None where there is none. Nothing is written to it, and it is given back at once.

    Raises:
        LogRefusedError: another process holds it, it is damaged, or it is newer than this version.
    """
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists():
        return None  # opening would make one
    storage, content = storage_at(url, timeout_s=lock_wait_s), LogContent()
    head = storage.open()
    try:
        for row in verified(storage.read(), head):
            recorded = recorded_of(row)
            content.state.apply(recorded)
            if isinstance(recorded.event, JobEvent):
                content.events.setdefault(recorded.event.job_id, []).append(recorded)
    finally:
        storage.close()
    return content
