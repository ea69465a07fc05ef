"""A whole state as bytes, and back. A cache of what the log says, never the truth itself.

The document is canonical: states that are equal have the same bytes, in whatever order they came to be. Its first line
is JSON; each line after it is the status document of a job that has ended, oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from json import loads
from operator import attrgetter

from pydantic import TypeAdapter

from ftactors.core.canonical import canonical
from ftactors.core.finished import Finished
from ftactors.core.job import Job
from ftactors.core.models import Model
from ftactors.core.state import Service, State
from ftactors.core.status import JobStatus

_SERVICE = TypeAdapter(Service)
_JOBS = TypeAdapter(list[Job])
_MODELS = TypeAdapter(list[Model])


@dataclass(frozen=True, slots=True)
class Taken:
    """A state at one moment; what it holds is frozen, so it can be written while the state itself goes on."""

    seq: int
    at: float
    epoch: int
    service: Service
    jobs: Sequence[Job]
    finished: Sequence[Finished]
    models: Sequence[Model]
    idempotency: dict[str, tuple[str, str]]


def taken(state: State) -> Taken:
    """Return the state as it is at this moment, in milliseconds."""
    return Taken(
        seq=state.seq,
        at=state.at,
        epoch=state.epoch,
        service=state.service,
        jobs=[*state.jobs.values()],
        finished=[*state.finished.values()],
        models=[*state.models.values()],
        idempotency=dict(state.idempotency),
    )


def written(taken: Taken) -> bytes:
    """Return the document of a state."""
    finished = sorted(taken.finished, key=attrgetter("submitted_seq"))
    jobs = sorted(taken.jobs, key=attrgetter("submitted_seq"))
    models = sorted(taken.models, key=attrgetter("registered_seq"))
    first = {
        "seq": taken.seq,
        "at": taken.at,
        "epoch": taken.epoch,
        "service": _SERVICE.dump_python(taken.service, mode="json"),
        "jobs": _JOBS.dump_python(jobs, mode="json"),
        "models": _MODELS.dump_python(models, mode="json"),
        "idempotency": taken.idempotency,
        "finished": [[job.job_id, job.submitted_seq, job.seq, job.status, job.cancelled_by] for job in finished],
    }
    return b"\n".join([canonical(first).encode(), *(job.json for job in finished)])


def frozen(state: State) -> bytes:
    """Return the document of a state as it is now."""
    return written(taken(state))


def thawed(document: bytes) -> State:
    """Return the state of a document.

    Raises:
        ValueError: it is no document that `frozen` of this version has made.
    """
    head, *documents = document.split(b"\n")
    first = loads(head)
    state = State()
    state.seq, state.at, state.epoch = first["seq"], first["at"], first["epoch"]
    state.service = _SERVICE.validate_python(first["service"])
    state.idempotency = {key: (job_id, digest) for key, (job_id, digest) in first["idempotency"].items()}
    for job in _JOBS.validate_python(first["jobs"]):
        state.restore(job)
    for (job_id, submitted_seq, seq, status, cancelled_by), json in zip(first["finished"], documents, strict=True):
        state.restore_finished(Finished(job_id, submitted_seq, seq, JobStatus(status), json, tuple(cancelled_by)))
    state.models = {model.model_id: model for model in _MODELS.validate_python(first["models"])}
    return state
