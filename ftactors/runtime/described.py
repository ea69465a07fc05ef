"""What a trainer actor tells about itself. No Ray in here, so that anything may read it."""

from __future__ import annotations

from dataclasses import dataclass

from ftactors.core.work import Failed


@dataclass(frozen=True, slots=True)
class Described:
    """A trainer actor at the moment it was asked."""

    job_id: str
    attempt: int
    rank: int
    incarnation: str
    """Made anew by every actor, so that two of the same name are told apart."""
    node_id: str
    devices: tuple[str, ...]
    """The accelerators that Ray gave it, by Ray's ids; empty where it holds none."""
    pid: int
    """The actor's own process; the work's is a child of it."""
    begun: bool
    """Whether it was told to begin, or told to stop before it had begun."""
    quiet_s: float
    """Seconds since the work last said a word, or began; 0 where no work is under way."""
    last_report: int
    """The number of the latest report, 0 before the first."""
    ended: bool
    """Whether the last word was said and the work's process is gone."""
    address: str | None = None
    """`host:port` that it keeps for ranks to meet at, where it is the first one."""
    failed: Failed | None = None
    """The last word of a rank that does not report, where its work failed."""
