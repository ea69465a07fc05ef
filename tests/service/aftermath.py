"""What every test of a service ends with: the invariants of its log, kept promises, and nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray

from ftactors.core.events import AttemptStarted
from ftactors.log.urls import storage_at
from ftactors.runtime.client import SchedulerClient
from tests.invariants import Ledger, check_log, events_of

_OPENED_STARTED_STOPPED = 3
_GONE_S = 10.0


def note_answers(client: SchedulerClient, ledger: Ledger) -> None:
    """Keep what a driver is told in the ledger; a call that is repeated must be answered the same."""
    ask = client.ask

    async def noted(method: str, *args: Any, **options: Any) -> Any:
        answer = await ask(method, *args, **options)
        if method == "submit":
            known = ledger.submitted.setdefault(args[0].job_id, answer.job_id)
            assert known == answer.job_id, f"job {args[0].job_id} is {known}, and is {answer.job_id} when asked again"
        if method == "cancel":
            known = ledger.cancelled.setdefault((args[0], args[1]), answer)
            assert known == answer, f"cancel {args[1]} was answered {known}, and is answered {answer} when repeated"
        return answer

    client.ask = noted  # type: ignore[method-assign]


async def check_aftermath(url: str, ledger: Ledger, *, namespace: str, directory: Path) -> None:
    """Check the log of a service that has stopped, and that nothing of it is left.

    Args:
        url: Of the log.
        ledger: What drivers were told.
        namespace: Where its actors had their names.
        directory: Where its jobs wrote, each attempt in a directory of its own.
    """
    check_log(storage_at(url), ledger, least=_OPENED_STARTED_STOPPED + len(ledger.submitted))
    trainers = trainers_in(url)
    async with asyncio.timeout(_GONE_S):
        while left := [*actors_of(namespace), *map(repr, still_there(trainers)), *map(repr, at_work_in(directory))]:
            await asyncio.sleep(0.05)
    assert not left


def trainers_in(url: str) -> set[int]:
    """Return the process ids of all trainer actors that a log knows."""
    storage = storage_at(url)
    storage.look()
    events = [recorded.event for recorded in events_of(storage.read())]
    storage.close()
    return {rank.pid for event in events if isinstance(event, AttemptStarted) for rank in event.ranks}


def actors_of(namespace: str) -> list[str]:
    """Return the names of the actors that live in a namespace."""
    return [
        actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == namespace
    ]


def still_there(pids: set[int]) -> list[psutil.Process]:
    """Return those of the processes that are workers of Ray, and live."""
    return [process for process in living() if process.pid in pids and "ray::" in process.name()]


def at_work_in(directory: Path) -> list[psutil.Process]:
    """Return the processes of attempts that write somewhere in a directory."""
    return [
        process
        for process in living()
        if "ftactors.runtime.process" in process.cmdline() and Path(process.cwd()).is_relative_to(directory)
    ]


def living() -> Iterator[psutil.Process]:
    """Yield all processes that are no zombies; what ends while it is looked at is left out."""
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.NoSuchProcess:
            continue
