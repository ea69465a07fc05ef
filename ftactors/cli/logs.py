"""What the processes of a job printed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftactors.cli.edge import LogNotFoundError
from ftactors.cli.output import Output
from ftactors.cli.reading import Reading, open_reading
from ftactors.core.service_config import ServiceConfig

_LOG_NAME = "train.log"
_POLL_S = 0.5


def log_files(run_dir: Path) -> dict[int, Path]:
    """Return the log file of each attempt that has one, the oldest first."""
    found = (path for path in run_dir.glob(f"attempts/*/{_LOG_NAME}") if path.parent.name.isdecimal())
    return dict(sorted((int(path.parent.name), path) for path in found))


@dataclass(slots=True)
class Tail:
    """A file that is read as it grows."""

    path: Path
    _at: int = 0
    _rest: bytes = b""

    def new_lines(self, *, to_the_end: bool = False) -> Iterator[str]:
        """Yield the lines that were completed since the last call; a last one without its end where asked for."""
        with self.path.open("rb") as file:
            file.seek(self._at)
            read = file.read()
        self._at += len(read)
        *lines, self._rest = (self._rest + read).split(b"\n")
        if to_the_end and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            yield line.rpartition(b"\r")[2].decode(errors="replace")  # the last of what was drawn over one another


async def print_log(job_id: str, config: ServiceConfig, output: Output, *, attempt: int | None, follow: bool) -> None:
    """Print the log of an attempt, the newest where none is named; follow it, and those after it, where asked for.

    Raises:
        JobNotFoundError: there is no such job.
        LogNotFoundError: there is no such log on this machine.
    """
    reading = await open_reading(config, output)
    status = await reading.status(job_id)
    run_dir = Path(status.run_dir)
    if follow and reading.is_live and not status.is_terminal:
        await follow_log(reading, job_id, run_dir, attempt, output)
    else:
        print_log_of(run_dir, attempt, output)


def print_log_of(run_dir: Path, attempt: int | None, output: Output) -> None:
    """Print what there is of an attempt's log, of the newest where none is named.

    Raises:
        LogNotFoundError: there is no such log on this machine.
    """
    files = log_files(run_dir)
    chosen = attempt if attempt is not None else max(files, default=0)
    if chosen not in files:
        raise _not_found(run_dir, attempt)
    _print(Tail(files[chosen]), chosen, output, to_the_end=True)


async def follow_log(
    reading: Reading, job_id: str, run_dir: Path, only: int | None, output: Output, *, poll_s: float = _POLL_S
) -> None:
    """Print what is there of the newest attempt and what comes, until the job has ended; or of the attempt named.

    That one has ended, too, once there is a newer.

    Raises:
        LogNotFoundError: none of it has come to light on this machine until then.
    """
    tails: dict[int, Tail] = {}
    first = only if only is not None else max(log_files(run_dir), default=1)
    is_over = False
    while True:
        for attempt, path in log_files(run_dir).items():
            if attempt < first or only not in (None, attempt):
                continue
            if attempt not in tails:
                output.say(f"--- attempt {attempt}")
            _print(tails.setdefault(attempt, Tail(path)), attempt, output, to_the_end=is_over)
        if is_over:
            break
        await asyncio.sleep(poll_s)
        status = await reading.status(job_id)
        is_over = status.is_terminal or (only is not None and status.attempt > only)
    if not tails:
        raise _not_found(run_dir, only)


def _not_found(run_dir: Path, attempt: int | None) -> LogNotFoundError:
    """Return what tells where a log was looked for, and which ones are there."""
    which, files = "no log" if attempt is None else f"no log of attempt {attempt}", log_files(run_dir)
    have = f"; there are those of attempts {', '.join(map(str, files))}" if files else ""
    return LogNotFoundError(f"there is {which} in {run_dir}{have}; it may be on another machine, where the job ran")


def _print(tail: Tail, attempt: int, output: Output, *, to_the_end: bool) -> None:
    for line in tail.new_lines(to_the_end=to_the_end):
        if output.as_json:
            output.document({"attempt": attempt, "line": line})
        else:
            output.line(line)
