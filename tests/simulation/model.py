"""What a service's users may rely on, and nothing of how it is kept: from what they asked, what they must be told.

It knows no phases, attempts or events. A call that was made and never answered may have been carried out or not, until
something shows which; what was answered holds for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ftactors.core.errors import FtactorsError, IdempotencyConflictError, InvalidJobConfigError, LogError, ServiceError
from ftactors.core.events import JobSubmitted
from ftactors.core.models import Model
from ftactors.core.status import TERMINAL_STATUSES, FineTuningJobStatusInfo, JobStatus
from tests.invariants import Ledger


@dataclass(eq=False)
class Asked:
    """A job that a driver has asked for."""

    job: JobSubmitted
    answered: str | None = None
    """The job that the driver was told of."""
    pending: int = 0
    """Calls that were made and are not answered yet: the job may be there."""
    lost: bool = False
    """Whether a call was made that was never answered: the same, for ever."""
    granted: set[str] = field(default_factory=set)
    """Requests to cancel it that were answered True."""
    denied: set[str] = field(default_factory=set)
    cancelling: set[str] = field(default_factory=set)
    """All requests to cancel it, answered or not."""
    paused: bool = False
    """The driver was told that it is paused, and has not asked to resume it."""
    parked: int | None = None
    """How many attempts it had had when it was seen to wait, paused."""
    end: JobStatus | None = None
    """How it was seen to end."""


class UserModel:
    """All that the drivers together know."""

    def __init__(self) -> None:
        self.asked: dict[str, Asked] = {}
        self.ledger = Ledger()
        self._keys: dict[str, str] = {}
        """Idempotency keys with the job that they are known to have made."""

    def submitting(self, job: JobSubmitted) -> None:
        """A driver asks for a job."""
        self.asked.setdefault(job.job_id, Asked(job)).pending += 1

    def submitted(self, job: JobSubmitted, answer: FineTuningJobStatusInfo | None, error: FtactorsError | None) -> None:
        """A driver was told what became of it."""
        asked = self.asked[job.job_id]
        asked.pending -= 1
        if answer is not None:
            self._accepted(asked, job, answer.job_id)
        elif isinstance(error, IdempotencyConflictError):
            known = self.asked.get(self._keys.get(str(job.idempotency_key), ""))
            same = known is not None and known.job.config_digest == job.config_digest
            assert not same, f"{job.job_id}: a conflict with a job of the same configuration: {error}"
        elif isinstance(error, InvalidJobConfigError):
            self._refused_id(asked, job, error)
        else:
            assert isinstance(error, LogError | ServiceError), repr(error)
            assert asked.answered is None or isinstance(error, LogError), (
                f"{job.job_id} was accepted, and refused when it was asked for again: {error!r}"
            )

    def lost(self, job: JobSubmitted) -> None:
        """A call will never be answered, for the scheduler died."""
        self.asked[job.job_id].pending -= 1
        self.asked[job.job_id].lost = True

    def cancelled(self, job_id: str, request_id: str, answer: bool | None) -> None:  # noqa: FBT001 - an answer
        """A driver was told whether its request cancels the job; None: it was not told."""
        asked = self.asked.get(job_id)
        if answer is None or asked is None:
            assert not answer, f"a cancel of {job_id!r}, which nobody has asked for, was granted"
            return
        assert answer or request_id not in asked.granted, f"{request_id} of {job_id} was granted, and now is denied"
        (asked.granted if answer else asked.denied).add(request_id)
        if answer:
            self.ledger.cancelled[job_id, request_id] = True
        elif request_id not in asked.granted:
            self.ledger.cancelled[job_id, request_id] = False

    def see(self, job_id: str, status: FineTuningJobStatusInfo | None) -> None:
        """Check what a driver is told of a job that it has asked for."""
        asked = self.asked[job_id]
        if status is None:
            assert asked.answered != job_id, f"{job_id} was accepted, and is not known any more"
            assert asked.end is None, f"{job_id} was {asked.end}, and is not known any more"
            return
        wanted = asked.answered == job_id or (asked.answered is None and (asked.pending or asked.lost))
        assert wanted, f"{job_id} exists, though its driver was told {asked.answered or 'that it was refused'}"
        ended = status.status in TERMINAL_STATUSES
        assert asked.end is None or status.status is asked.end, f"{job_id} was {asked.end}, and is {status.status}"
        asked.end = status.status if ended else None
        if asked.granted:
            kept = status.status is JobStatus.CANCELLED if ended else status.cancel_requested
            assert kept, f"a cancel of {job_id} was granted, and it is {status.status}"
        if status.status is JobStatus.CANCELLED:
            assert (asked.cancelling - asked.denied) | asked.granted, (
                f"{job_id} is cancelled, and nobody has asked for that"
            )
        if status.cancel_requested:
            assert asked.cancelling, f"{job_id} is being cancelled, and nobody has asked for that"
        assert not (asked.paused and status.status is JobStatus.QUEUED), f"{job_id} was paused, and is queued"
        if not asked.paused:
            asked.parked = None
        elif asked.parked is None and status.status is JobStatus.PAUSED:
            asked.parked = status.attempt
        started = asked.parked is not None and status.attempt != asked.parked
        assert not started, f"{job_id} was paused, and attempt {status.attempt} was made"
        waits = status.status in {JobStatus.QUEUED, JobStatus.PAUSED}
        assert bool(status.wait_reason) == waits, f"{job_id} is {status.status} with reason {status.wait_reason!r}"

    def see_all(self, listed: list[FineTuningJobStatusInfo], models: list[Model]) -> None:
        """Check what a driver is told of all jobs and models."""
        ids = [status.job_id for status in listed]
        accepted = {asked.answered for asked in self.asked.values() if asked.answered is not None}
        assert len(ids) == len(set(ids)), f"listed twice: {ids}"
        assert accepted <= set(ids), f"accepted, and not listed: {accepted - set(ids)}"
        assert set(ids) <= set(self.asked), f"listed, and nobody has asked for it: {set(ids) - set(self.asked)}"
        created = [status.created_at for status in listed]
        assert created == sorted(created, reverse=True), "the list does not have the newest job first"
        completed = {status.new_model_id for status in listed if status.status is JobStatus.COMPLETED}
        registered = [model.model_id for model in models]
        assert sorted(registered) == sorted(completed), f"completed are {completed}, and registered {registered}"
        live = [status.new_model_id for status in listed if not status.is_terminal]
        assert len(live) == len(set(live)), f"two jobs are to make one model: {live}"
        assert not completed & set(live), f"a job is to make a model that is there: {completed & set(live)}"

    def _accepted(self, asked: Asked, job: JobSubmitted, answered: str) -> None:
        before = asked.answered
        assert before in {None, answered}, f"{job.job_id} was answered with {before}, and now with {answered}"
        asked.answered = answered
        self.ledger.submitted[job.job_id] = answered
        if job.idempotency_key is not None:
            known = self._keys.setdefault(job.idempotency_key, answered)
            assert known == answered, f"key {job.idempotency_key} made {known}, and now {answered}"
        if answered != job.job_id:
            assert job.idempotency_key is not None, f"{job.job_id} was answered with {answered} without a key"
            digest = self.asked[answered].job.config_digest
            assert digest == job.config_digest, f"{job.job_id} was answered with another configuration's {answered}"

    def _refused_id(self, asked: Asked, job: JobSubmitted, error: FtactorsError) -> None:
        assert asked.answered is None, f"{job.job_id} was accepted, and refused when it was asked for again: {error!r}"
        new_model_id = job.config["new_model_id"]
        others = (
            other
            for other in self.asked.values()
            if other is not asked and other.job.config["new_model_id"] == new_model_id
        )
        holds = any(other.end in {None, JobStatus.COMPLETED} for other in others)
        assert holds, f"{job.job_id} was refused for its model's id, which nobody has: {error}"
