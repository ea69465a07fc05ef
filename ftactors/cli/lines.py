"""What a command says, as plain text: lines for pipes, and the cells of tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ftactors.core.events import Recorded
from ftactors.core.job import TRAINING_STAGES
from ftactors.core.models import Model
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus

JOB_COLUMNS = ("job", "status", "progress", "name", "model", "created", "now")
EVENT_COLUMNS = ("seq", "at", "event", "what")
MODEL_COLUMNS = ("model", "kind", "base", "created", "path")
_DIGITS = 4
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
_ID_LENGTH = 12
"""So much of a node's id is shown beside other things; `status` shows all of it."""
_LEFT_OUT_OF_EVENTS = {"type", "v", "job_id"}


def one_line(value: object) -> str:
    """Return the value's text on one line, without characters that would steer a terminal."""
    return "".join(char for char in " ".join(str(value).split()) if char.isprintable())


def number(value: float) -> str:
    """Return a number with as many digits as a person reads."""
    short = f"{value:.{_DIGITS}g}"
    return f"{value:.0f}" if "e+" in short or value == round(value, 0) else short


def time(at: datetime | None) -> str:
    """Return a moment in UTC, to the second; empty for none."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds: float) -> str:
    """Return a duration in its two greatest units, such as `3m 12s`."""
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole}s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}m {whole % _MINUTE_S:02d}s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S}h {whole % _HOUR_S // _MINUTE_S:02d}m"
    return f"{whole // _DAY_S}d {whole % _DAY_S // _HOUR_S:02d}h"


def percentage(status: FineTuningJobStatusInfo) -> str:
    """Return how far the training is; empty before it began."""
    return "" if status.progress_percentage is None else f"{status.progress_percentage:g}%"


def job_row(status: FineTuningJobStatusInfo) -> tuple[str, ...]:
    """Return a job's cells under `JOB_COLUMNS`."""
    cells = (status.job_id, status.status, percentage(status), status.job_name, status.new_model_id)
    return (*map(one_line, cells), time(status.created_at), now_of(status))


def now_of(status: FineTuningJobStatusInfo) -> str:
    """Return in a few words where a job stands: its place in the queue, or what it holds and the time that is left."""
    if status.is_terminal:
        return ""
    if status.queue_position is not None:
        starts = f", starts by {clock(status.estimated_start_at)}" if status.estimated_start_at else ""
        return f"{status.queue_position} in line{starts}"
    left = f"{duration(status.eta_seconds)} left" if status.eta_seconds is not None else ""
    return ", ".join(filter(None, ("stopping" if status.yield_reason else left, place_of(status))))


def place_of(status: FineTuningJobStatusInfo) -> str:
    """Return what a job holds, and where, such as `2 x 0.5 GPU on node-a`; empty while it holds nothing."""
    if not status.nodes:
        return ""
    where = status.nodes[0][:_ID_LENGTH] if len(status.nodes) == 1 else f"{len(status.nodes)} nodes"
    share = f"{status.share:g} GPU" if status.share else "CPU"
    workers = f"{status.num_workers} x " if status.num_workers > 1 else ""
    return one_line(f"{workers}{share} on {where}")


def clock(at: datetime) -> str:
    """Return a moment to come, in UTC and to the minute."""
    return at.astimezone(UTC).strftime("%m-%dT%H:%MZ")


def event_row(recorded: Recorded) -> tuple[str, ...]:
    """Return an event's cells under `EVENT_COLUMNS`."""
    fields = recorded.event.model_dump(mode="json", exclude=_LEFT_OUT_OF_EVENTS, exclude_none=True)
    what = " ".join(f"{name}={short(value)}" for name, value in fields.items() if value not in ({}, [], ()))
    return (str(recorded.seq), time(datetime.fromtimestamp(recorded.at, tz=UTC)), recorded.event.type, one_line(what))


def model_row(model: Model) -> tuple[str, ...]:
    """Return a model's cells under `MODEL_COLUMNS`."""
    base = model.base.model_id if model.base else ""
    created = time(datetime.fromtimestamp(model.created_at, tz=UTC))
    return (one_line(model.model_id), model.kind, one_line(base), created, one_line(model.path))


def facts_of_job(status: FineTuningJobStatusInfo) -> dict[str, str]:
    """Return all that is known of a job, by name; what is not known, or not so, is left out."""
    facts = {name: _fact(name, value) for name, value in status}
    return {name: fact for name, fact in facts.items() if fact}


def facts_of_model(model: Model) -> dict[str, str]:
    """Return all that is known of a model, by name."""
    known = model.model_dump(mode="json", exclude={"base", "created_at"}, exclude_none=True)
    facts = {name: one_line(value) for name, value in known.items()}
    facts["owned"] = "yes" if model.owned else "no: its files are never deleted"
    facts["created_at"] = time(datetime.fromtimestamp(model.created_at, tz=UTC))
    if model.base:
        facts["base"] = one_line(f"{model.base.model_id} ({model.base.path})")
    return facts


def numbers(values: Mapping[str, Any]) -> str:
    """Return named values on one line, such as `loss=2.81 perplexity=16.6`."""
    shown = ((name, number(value) if isinstance(value, float | int) else value) for name, value in values.items())
    return one_line(" ".join(f"{name}={value}" for name, value in shown if value is not None))


def progress_line(status: FineTuningJobStatusInfo) -> str:
    """Return a job's status on one line, for logs."""
    return " ".join(filter(None, (status.job_id, status.status, stage_of(status), *_progress(status))))


def stage_of(status: FineTuningJobStatusInfo) -> str:
    """Return what the job does now."""
    if status.cancel_requested and not status.is_terminal:
        return "cancelling"
    return status.stage or "" if status.status in (JobStatus.PREPROCESSING, JobStatus.RUNNING) else ""


def step_of(status: FineTuningJobStatusInfo) -> str:
    """Return the step of the training and how many there are, such as `9/20`; empty before it began."""
    if status.current_step is None or status.total_steps is None:
        return ""
    return f"{status.current_step}/{status.total_steps}"


def loss_of(status: FineTuningJobStatusInfo) -> str:
    """Return the newest loss; empty where there is none yet."""
    loss = (status.metrics or {}).get("loss")
    return "" if loss is None else number(float(loss))


def ending(status: FineTuningJobStatusInfo) -> list[str]:
    """Return what a person wants to know of a job that has ended."""
    took = duration((status.completed_at - status.created_at).total_seconds()) if status.completed_at else "?"
    match status.status:
        case JobStatus.COMPLETED:
            said = [f"completed after {took}: {status.job_id}"]
            said += [f"  metrics: {numbers(status.metrics)}"] if status.metrics else []
            said += [f"  model:   {status.fine_tuned_model_id}", f"  path:    {status.output_model_path}"]
        case _:
            said = [f"{status.status} after {took}: {status.job_id}"]
            said += [f"  error:   {one_line(status.error_message)}"] if status.error_message else []
            said += [f"  hint:    {one_line(status.error_hint)}"] if status.error_hint else []
    return [*said, *(f"  warning: {one_line(warning)}" for warning in status.warnings)]


def json_of_event(recorded: Recorded) -> dict[str, Any]:
    """Return an event in its place in the log, for programs."""
    place = {"seq": recorded.seq, "at": recorded.at, "epoch": recorded.epoch, "job_seq": recorded.job_seq}
    return {**place, "event": recorded.event.model_dump(mode="json")}


def short(value: object) -> str:
    """Return a text as it is, and anything else as JSON without spaces."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _progress(status: FineTuningJobStatusInfo) -> list[str]:
    if status.is_terminal:
        return [numbers(status.metrics or {}), one_line(status.error_message or "")]
    if status.status in (JobStatus.QUEUED, JobStatus.PAUSED):
        starts = f", starts by {clock(status.estimated_start_at)}" if status.estimated_start_at else ""
        position = f"(position {status.queue_position}{starts})" if status.queue_position else ""
        return [one_line(status.wait_reason or ""), position]
    if status.yield_reason:
        return [one_line(status.yield_reason)]
    in_training = status.stage in TRAINING_STAGES
    of_stage = status.progress_percentage if in_training else status.stage_progress_percentage
    loss, eta = loss_of(status), status.eta_seconds
    return [
        "" if of_stage is None else f"{of_stage:g}%",
        f"step {step_of(status)}" if step_of(status) else "",
        f"loss {loss}" if loss else "",
        "" if eta is None else f"eta {duration(eta)}",
        f"({place_of(status)})" if status.nodes else "",
    ]


def _fact(name: str, value: object) -> str:
    match value:
        case bool():
            shown = "yes" if value else ""
        case datetime():
            shown = time(value)
        case dict():
            shown = numbers(value)
        case list():
            shown = "; ".join(map(one_line, value))
        case float():
            shown = duration(value) if name == "eta_seconds" else number(value)
        case _:
            shown = "" if value is None else one_line(value)
    return shown
