"""A job that has ended: its status document, and the little else that is asked of it."""

from __future__ import annotations

from dataclasses import dataclass

from ftactors.core.status import FineTuningJobStatusInfo, JobStatus


@dataclass(frozen=True, slots=True)
class Finished:
    """An ended job. There may be hundreds of thousands, so the document is kept as JSON, a fifth of the size."""

    job_id: str
    submitted_seq: int
    seq: int
    """Its last event."""
    status: JobStatus
    json: bytes
    """The status document."""
    cancelled_by: tuple[str, ...] = ()
    """The requests that cancelled it, so that a repeated one gets the same answer."""

    def document(self) -> FineTuningJobStatusInfo:
        """Return the status document."""
        return FineTuningJobStatusInfo.model_validate_json(self.json)
