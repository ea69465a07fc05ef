"""Writes histories: logs as this version of ftactors writes them, which every later version must replay.

    python -m tests.histories.write                     the stories of `stories.py` that this version has not written
    python -m tests.histories.write NAME events.jsonl   from `ftactors log export -o events.jsonl`

A history that is there is never written again. Beside it lies what it adds up to, NAME.state.json: read it before it is
committed, for it says what is held to be right.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ftactors import __version__
from ftactors.cli.log_replay import document_of
from ftactors.core.events import AnyEvent, LogOpened
from ftactors.core.state import State
from ftactors.log.reader import Reader
from ftactors.log.rows import START, Head, Row, row_of
from ftactors.log.transcript import line_of, rows_of
from ftactors.log.upcast import UPCASTERS, Upcasters
from ftactors.log.verify import verified
from tests.histories.stories import STORIES

FOLDER = Path(__file__).parent
_BEGIN_AT = 1_769_860_800.25
"""On 2026-01-31, in seconds since 1970."""


def rows_of_story(events: Iterable[AnyEvent]) -> Iterator[Row]:
    """Yield the rows that a log has when this happened, each fact 1.5 s after the one before."""
    state, last = State(), START
    for event in events:
        if isinstance(event, LogOpened):
            state.epoch += 1
        recorded = state.recorded(event, _BEGIN_AT + 1.5 * state.seq)
        state.apply(recorded)
        row = row_of(recorded, last.hash)
        last = row.mark
        yield row


def stored(file: Path) -> list[Row]:
    """Return the rows of a history."""
    with file.open(encoding="utf-8") as lines:
        return list(rows_of(lines))


def replayed(rows: list[Row], upcasters: Upcasters = UPCASTERS) -> Iterator[State]:
    """Verify a history, and yield the state after each of its events; always the same object."""
    state, reader = State(), Reader(upcasters)
    for row in verified(rows, Head(end=rows[-1].mark, epoch=rows[-1].epoch + 1)):
        state.apply(reader.recorded(row))
        yield state


def adds_up_to(state: State) -> dict[str, Any]:
    """Return all of a state that a later version must come to as well."""
    live = {
        job.job_id: {"phase": job.phase, "job_seq": job.job_seq, "checkpoints": [one.path for one in job.checkpoints]}
        for job in state.jobs.values()
    }
    keys = {key: list(used_for) for key, used_for in state.idempotency.items()}
    return {**document_of(state), "live": live, "reserved": state.reserved, "idempotency": keys}


def write(name: str, rows: Iterable[Row]) -> bool:
    """Write a history and what it adds up to; return False, and change nothing, where there is one of that name."""
    kept = list(rows)
    *_, state = replayed(kept)
    try:
        with (FOLDER / f"{name}.jsonl").open("x", encoding="utf-8") as file:
            file.writelines(f"{line_of(row)}\n" for row in kept)
    except FileExistsError:
        return False
    document = json.dumps(adds_up_to(state), ensure_ascii=False, indent=1, sort_keys=True)
    (FOLDER / f"{name}.state.json").write_text(f"{document}\n", encoding="utf-8")
    return True


def main(arguments: list[str]) -> int:
    """Write what is asked for; return the exit code."""
    match arguments:
        case []:
            asked = {f"{__version__}-{name}": list(rows_of_story(story())) for name, story in STORIES.items()}
        case [name, file]:
            asked = {name: stored(Path(file))}
        case _:
            print(__doc__)  # noqa: T201
            return 2
    written = [write(name, rows) for name, rows in asked.items()]
    for name, was_written in zip(asked, written, strict=True):
        print(f"{name}: {'written' if was_written else 'is there already, and stays as it is'}")  # noqa: T201
    return 0 if any(written) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
