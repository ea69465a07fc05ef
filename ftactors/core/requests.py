"""A user's ask -> facts, or a refusal.

Each is idempotent: asked again with the same ids, it makes no second fact and gets the same answer.
"""

from __future__ import annotations

from ftactors.core.errors import (
    ConfigProblem,
    IdempotencyConflictError,
    InvalidJobConfigError,
    JobNotFoundError,
    JobStateError,
    ModelConflictError,
    ModelNotFoundError,
    ServiceError,
)
from ftactors.core.events import (
    AnyJobEvent,
    CancelRequested,
    JobCancelled,
    JobSubmitted,
    ModelDeleted,
    ModelImported,
    PauseRequested,
    ResumeRequested,
    ServiceStarted,
    ServiceStopRequested,
)
from ftactors.core.job import Job
from ftactors.core.models import Model
from ftactors.core.phases import WAITING_PHASES, Phase
from ftactors.core.problems import close_names, value_of
from ftactors.core.service_config import ServiceConfig
from ftactors.core.state import State


def submit(state: State, submitted: JobSubmitted) -> tuple[str, JobSubmitted | None]:
    """Return the job's id, and the fact where the job is new.

    Raises:
        IdempotencyConflictError: the key was used for another configuration.
        InvalidJobConfigError: the new model's id is taken or reserved.
        ModelNotFoundError: the base model was deleted meanwhile.
        ServiceError: the service is stopping.
    """
    known = _known_job(state, submitted)
    if known is not None:
        return known, None
    if not state.places:
        raise ServiceError("the service is stopped: no job is accepted until the next start()")
    _refuse_a_taken_id(state, str(submitted.config["new_model_id"]))
    base = submitted.base
    model = state.models.get(base.model_id)
    if base.registered_seq is not None and (model is None or model.registered_seq != base.registered_seq):
        raise ModelNotFoundError(
            f"base model {base.model_id!r} was deleted; {close_names(base.model_id, state.models)}"
        )
    return submitted.job_id, submitted


def _known_job(state: State, submitted: JobSubmitted) -> str | None:
    if state.last_seq(submitted.job_id):
        return submitted.job_id
    key = submitted.idempotency_key
    return None if key is None else job_of_key(state, key, submitted.config_digest)


def job_of_key(state: State, key: str, config_digest: str) -> str | None:
    """Return the job that an idempotency key was used for; None where it was not.

    Raises:
        IdempotencyConflictError: it was used for another configuration.
    """
    if key not in state.idempotency:
        return None
    job_id, digest = state.idempotency[key]
    if digest != config_digest:
        raise IdempotencyConflictError(
            f"idempotency key {key!r} was used for job {job_id!r} with another configuration; "
            "use a new key for a new job"
        )
    return job_id


def _refuse_a_taken_id(state: State, new_model_id: str) -> None:
    if new_model_id in state.models:
        taken = "is registered; choose another id, or delete that model first"
    elif new_model_id in state.reserved:
        taken = f"is reserved by job {state.reserved[new_model_id]!r}; choose another id, or cancel that job first"
    else:
        return
    raise InvalidJobConfigError([ConfigProblem("new_model_id", taken, value_of(new_model_id))])


def cancel(
    state: State, job_id: str, *, request_id: str, by: str, grace_s: float
) -> tuple[bool, CancelRequested | JobCancelled | None]:
    """Return whether the job is or will be cancelled by this request, and the fact that does it.

    False for a job that is unknown or has ended, as the usage guide says. A request that finds the job being cancelled
    is recorded too, so that it is answered the same when it is repeated after the end.
    """
    job = state.jobs.get(job_id)
    if job is None:
        ended = state.finished.get(job_id)
        return ended is not None and request_id in ended.cancelled_by, None
    if job.cancel is not None and request_id in job.cancel.request_ids:
        return True, None
    if job.phase in WAITING_PHASES:
        return True, JobCancelled(job_id=job_id, request_id=request_id, by=by)
    return True, CancelRequested(job_id=job_id, request_id=request_id, by=by, grace_s=grace_s)


def pause(state: State, job_id: str, *, request_id: str, by: str) -> AnyJobEvent | None:
    """Return the fact that pauses the job; None where this request was granted before.

    A request that finds the job paused is recorded too, so that it pauses nothing when it is repeated after a resume.

    Raises:
        JobNotFoundError: there is no such job.
        JobStateError: it has ended or is being cancelled.
    """
    job = _changeable(state, job_id, "paused")
    if request_id in job.asked:
        return None
    return PauseRequested(job_id=job_id, request_id=request_id, by=by)


def resume(state: State, job_id: str, *, request_id: str, by: str) -> AnyJobEvent | None:
    """Return the fact that resumes the job; None where this request was granted before.

    A request that finds the job not paused is recorded too, so that it resumes nothing when it is repeated after a
    pause.

    Raises:
        JobNotFoundError: there is no such job.
        JobStateError: it has ended or is being cancelled.
    """
    job = _changeable(state, job_id, "resumed")
    if request_id in job.asked:
        return None
    return ResumeRequested(job_id=job_id, request_id=request_id, by=by)


def _changeable(state: State, job_id: str, what: str) -> Job:
    job = state.jobs.get(job_id)
    if job is not None and job.phase is not Phase.CANCELLING:
        return job
    if job is not None:
        raise JobStateError(f"job {job_id!r} is being cancelled: it cannot be {what}")
    if job_id in state.finished:
        raise JobStateError(f"job {job_id!r} is {state.finished[job_id].status}: it cannot be {what}")
    raise JobNotFoundError(f"there is no job {job_id!r}")


def import_model(state: State, event: ModelImported) -> ModelImported | None:
    """Return the fact that registers a model; None where the same source and revision have the same id.

    Raises:
        ModelConflictError: the id belongs to another model, or is reserved by a job.
    """
    known = state.models.get(event.model_id)
    if known is not None:
        if (known.source, known.revision) == (event.source, event.revision):
            return None
        raise ModelConflictError(
            f"model id {event.model_id!r} is registered for {_origin(known)}, "
            f"so it cannot be imported from {_origin(event)}; choose another id, or delete that model first"
        )
    if event.model_id in state.reserved:
        raise ModelConflictError(f"model id {event.model_id!r} is reserved by job {state.reserved[event.model_id]!r}")
    return event


def _origin(model: Model | ModelImported) -> str:
    return model.source if model.revision is None else f"{model.source} at revision {model.revision}"


def delete_model(state: State, model_id: str, registered_seq: int, *, by: str) -> ModelDeleted | None:
    """Return the fact that deletes a model; None where it is no longer registered.

    Raises:
        ModelConflictError: a job that has not ended, or an adapter, needs it.
    """
    model = state.models.get(model_id)
    if model is None or model.registered_seq != registered_seq:
        return None
    users = _users_of(state, model)
    if users:
        raise ModelConflictError(f"model {model_id!r} is in use by {', '.join(users)}: it cannot be deleted")
    return ModelDeleted(model_id=model_id, registered_seq=registered_seq, by=by)


def _users_of(state: State, model: Model) -> list[str]:
    key = (model.model_id, model.registered_seq)
    jobs = [
        f"job {job.job_id!r}"
        for job in state.jobs.values()
        if (job.submitted.base.model_id, job.submitted.base.registered_seq) == key
    ]
    adapters = [
        f"adapter {other.model_id!r}"
        for other in state.models.values()
        if other.kind == "adapter" and other.base and (other.base.model_id, other.base.registered_seq) == key
    ]
    return jobs + adapters


def start(state: State, config: ServiceConfig, *, by: str) -> ServiceStarted | None:
    """Return the fact that starts the service; None where it runs by this configuration."""
    told = config.told()
    if state.places and state.rules == told:
        return None
    return ServiceStarted(config=told.model_dump(mode="json"), by=by)


def stop(state: State, *, grace_s: float, by: str) -> ServiceStopRequested | None:
    """Return the fact that stops the service; None where it was asked for before."""
    return ServiceStopRequested(grace_s=grace_s, by=by) if state.places else None
