"""What the service knew at a moment: its log, folded up to there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from ftactors.cli.lines import JOB_COLUMNS, MODEL_COLUMNS, job_row, model_row, time
from ftactors.cli.offline import apply
from ftactors.cli.output import Output
from ftactors.core.errors import LogRefusedError
from ftactors.core.service_config import ServiceConfig
from ftactors.core.state import State
from ftactors.log.reader import Reader
from ftactors.log.rows import Row

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment_of(text: str, now: datetime) -> int | datetime:
    """Return what `--until` names: an event by its number, or a moment.

    Args:
        text: `812`, `2026-01-31T12:00` in local time, `2026-01-31T12:00Z`, `2026-01-31`, or `2h ago`.
        now: The time it is, with its zone.

    Raises:
        ValueError: it is none of these; the message says so.
    """
    if text.isdecimal():
        return int(text)
    if ago := re.fullmatch(r"(\d{1,6}) ?([smhd])( ago)?", text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither an event's number, such as 812, nor a time, such as 2026-01-31T12:00, "
            f"2026-01-31T12:00Z or 2h ago"
        ) from None
    return moment.astimezone()  # without a zone it is local time


def rows_until(rows: Iterable[Row], moment: int | datetime | None) -> Iterator[Row]:
    """Yield the rows up to an event or a moment, both included; all of them for None."""
    for row in rows:
        if isinstance(moment, datetime) and row.at > moment.timestamp():
            return
        yield row
        if row.seq == moment:
            return


def fold(state: State, rows: Iterable[Row]) -> LogRefusedError | None:
    """Let the state take rows in, all from the first on; return why they could not be read to their end, if so."""
    reader = Reader()
    try:
        for row in rows:
            apply(state, reader.recorded(row))
    except LogRefusedError as error:
        return error
    return None


def document_of(state: State) -> dict[str, Any]:
    """Return all that was known, for programs."""
    jobs = [state.describe(job_id) for job_id in state.newest_first()]
    return {
        "seq": state.seq,
        "at": _at(state),
        "epoch": state.epoch,
        "places_jobs": state.places,
        "rules": state.rules.model_dump(mode="json"),
        "jobs": [job.model_dump(mode="json") for job in jobs if job],
        "models": [model.model_dump(mode="json") for model in state.models.values()],
    }


def show_state(state: State, output: Output) -> None:
    """Tell what was known: the service, then its jobs, the newest first, and its models.

    In a pipe each line begins with what it is about.
    """
    rules, defaults = state.rules.model_dump(mode="json"), ServiceConfig().model_dump(mode="json")
    changed = {f"rules.{name}": str(value) for name, value in rules.items() if value != defaults[name]}
    places = "yes" if state.places else "no"
    output.facts({"as of event": str(state.seq), "at": _at(state) or "", "places jobs": places, **changed})
    jobs = [job_row(job) for job_id in state.newest_first() if (job := state.describe(job_id))]
    models = [model_row(model) for model in state.models.values()]
    if not output.to_person:
        jobs, models = [("job", *job) for job in jobs], [("model", *model) for model in models]
    output.rows(JOB_COLUMNS, jobs, empty="no jobs")
    output.rows(MODEL_COLUMNS, models, empty="no models")


def _at(state: State) -> str | None:
    return time(datetime.fromtimestamp(state.at, tz=UTC)) if state.seq else None
