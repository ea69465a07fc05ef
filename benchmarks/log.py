"""How fast the event log and the scheduler are: `python -m benchmarks.log` prints the table of docs/benchmarks.md.

Each number is compared, within one run and in turns, with what does the same work or less: system calls, the
`eventsourcing` library (`pip install 'ftactors[bench]'`), bare Ray actors. It takes minutes; `--quick` takes seconds,
and shows only that all of it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.local_ray import local_ray
from benchmarks.log_actor import listing, restarts, submits
from benchmarks.log_append import in_groups, one_at_a_time
from benchmarks.log_replay import finished_jobs, memory, replay
from benchmarks.machine import facts, is_in_memory
from benchmarks.measuring import say
from benchmarks.stories import Filler, service
from benchmarks.table import Line, table
from ftactors.log.sqlite import SqliteStorage


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done of each thing."""

    appends: int = 60
    trainers: int = 64
    groups: int = 4
    saves: int = 100
    append_rounds: int = 20
    replayed: int = 1_000_000
    sourced_jobs: int = 2_000
    jobs: int = 100_000
    restarted: int = 100_000
    restarts: int = 3
    calls: int = 150
    clients: int = 64
    lists: int = 25
    call_rounds: int = 8


QUICK = Sizes(
    appends=10,
    trainers=4,
    groups=2,
    saves=10,
    append_rounds=1,
    replayed=2_000,
    sourced_jobs=10,
    jobs=1_000,
    restarted=1_000,
    restarts=1,
    calls=10,
    clients=4,
    lists=3,
    call_rounds=1,
)


async def without_ray(directory: Path, sizes: Sizes) -> list[Line]:
    """Measure the log, and the scheduler in this process."""
    return [
        await one_at_a_time(directory, sizes.appends, sizes.append_rounds),
        *await in_groups(directory, sizes.trainers, sizes.groups, sizes.saves, sizes.append_rounds),
        *await replay(directory, sizes.replayed, sizes.sourced_jobs),
        await memory(_finished(directory, sizes), sizes.jobs),
    ]


async def on_ray(directory: Path, sizes: Sizes) -> list[Line]:
    """Measure the scheduler as an actor."""
    log = directory / "restarted.db"
    Filler(SqliteStorage(log)).write(service(sizes.restarted))
    with local_ray():
        return [
            *await submits(directory, sizes.calls, sizes.clients, sizes.call_rounds),
            await listing(_finished(directory, sizes), sizes.jobs, sizes.lists, sizes.call_rounds),
            await restarts(log, sizes.restarted, sizes.restarts),
        ]


def _finished(directory: Path, sizes: Sizes) -> Path:
    """Return the log of finished jobs, which is written once."""
    path = directory / "finished.db"
    if not path.exists():
        finished_jobs(path, sizes.jobs)
    return path


PARTS = {"log": without_ray, "actor": on_ray}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="do little of everything: a smoke test")
    parser.add_argument("--part", choices=PARTS, action="append", help="measure only this part (default: all)")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="a directory on a disk")
    chosen = parser.parse_args(arguments)
    if is_in_memory(chosen.directory) and not chosen.quick:
        parser.error(f"{chosen.directory} is in memory, where nothing is durable; choose another with --directory")
    sizes = QUICK if chosen.quick else Sizes()
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=chosen.directory) as directory:
        for part in chosen.part or PARTS:
            lines += asyncio.run(PARTS[part](Path(directory), sizes))
    say("done: a smoke test, and its numbers mean nothing" if chosen.quick else "done")
    print(f"{facts(chosen.directory)}\n\n{table(lines)}")


if __name__ == "__main__":
    main()
