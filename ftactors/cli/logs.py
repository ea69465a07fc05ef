"""What the processes of a job printed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
    """
    reading = await open_reading(config, output)
    status = await reading.status(job_id)
    files = log_files(Path(status.run_dir))
    chosen = attempt if attempt is not None else max(files, default=None)
    follow = follow and reading.is_live and not status.is_terminal
    if chosen not in files and not follow:
        have = f"there are logs of attempts {', '.join(map(str, files))}" if files else "there are no logs yet"
        wanted = "" if attempt is None else f" of attempt {attempt}"
        output.say(f"no log{wanted} of job {job_id} in {status.run_dir}; {have}")
        return
    if not follow:
        _print(Tail(files[chosen]), chosen, output, to_the_end=True) if chosen else None
        return
    await _follow(reading, job_id, Path(status.run_dir), attempt, output)


async def _follow(reading: Reading, job_id: str, run_dir: Path, only: int | None, output: Output) -> None:
    """Print what is there of the newest attempt, or of the one named, and what comes, until the job has ended."""
    tails: dict[int, Tail] = {}
    begin = only if only is not None else max(log_files(run_dir), default=1)
    is_over = False
    while True:
        for attempt, path in log_files(run_dir).items():
            if attempt != only and (only is not None or attempt < begin):
                continue
            if attempt not in tails:
                output.say(f"--- attempt {attempt}")
            _print(tails.setdefault(attempt, Tail(path)), attempt, output, to_the_end=is_over)
        if is_over:
            return
        await asyncio.sleep(_POLL_S)
        is_over = (await reading.status(job_id)).is_terminal


def _print(tail: Tail, attempt: int, output: Output, *, to_the_end: bool) -> None:
    for line in tail.new_lines(to_the_end=to_the_end):
        if output.as_json:
            output.document({"attempt": attempt, "line": line})
        else:
            output.line(line)
