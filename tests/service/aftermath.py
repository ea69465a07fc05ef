"""What every test of a service ends with: the invariants of its log, kept promises, and nothing left running."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray

from ftactors.core.events import AnyEvent, AttemptStarted
from ftactors.log.urls import storage_at
from ftactors.runtime.client import SchedulerClient
from ftactors.runtime.lifeline import TEMPLATE_NAME, WORKER_NAME
from tests.invariants import Ledger, check_log, events_of

_OPENED_STARTED_STOPPED = 3
_GONE_S = 10.0
_ROUNDING = 1e-3


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
    started = [event for event in events_in(url) if isinstance(event, AttemptStarted)]
    trainers = {rank.pid for event in started for rank in event.ranks}
    deadline = time.monotonic() + _GONE_S
    while left := [
        *actors_of(namespace),
        *templates_of(namespace),
        *workers_among(trainers),
        *at_work_in(directory),
        *shares_taken(),
    ]:
        assert time.monotonic() < deadline, f"{_GONE_S:g} s after the service stopped there are: {left}"
        await asyncio.sleep(0.05)


def events_in(url: str) -> list[AnyEvent]:
    """Return the events of a log that nobody has open."""
    storage = storage_at(url)
    storage.look()
    events = [recorded.event for recorded in events_of(storage.read())]
    storage.close()
    return events


def actors_of(namespace: str) -> list[str]:
    """Return the names of the actors that live in a namespace."""
    return [
        actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == namespace
    ]


def workers_among(pids: set[int]) -> list[str]:
    """Return those of the processes that are workers of Ray, and live."""
    return [f"trainer {found['pid']}" for found in living() if found["pid"] in pids and "ray::" in found["name"]]


def at_work_in(directory: Path) -> list[str]:
    """Return the processes of attempts that write somewhere in a directory."""
    return [f"child {pid}" for pid in workers_in(directory)]


def workers_in(directory: Path) -> list[int]:
    """Return the ids of those processes."""
    return [
        found["pid"]
        for found in living()
        if found["name"] == WORKER_NAME and Path(found["cwd"]).is_relative_to(directory)
    ]


def templates_of(namespace: str) -> list[str]:
    """Return the processes that fork children for a namespace's trainers, and no child of them."""
    return [
        f"template {found['pid']}"
        for found in living()
        if found["name"] == TEMPLATE_NAME and any(f"ftactors-{namespace}-" in part for part in found["cmdline"])
    ]


def shares_taken() -> list[str]:
    """Return what of the GPUs and CPUs on the cluster's nodes is not free."""
    there, free = ray.cluster_resources(), ray.available_resources()
    taken = {name: there.get(name, 0.0) - free.get(name, 0.0) for name in ("GPU", "CPU")}
    return [f"{amount:g} {name} taken" for name, amount in taken.items() if amount > _ROUNDING]


def living() -> Iterator[dict[str, Any]]:
    """Yield what is known of each process that is no zombie and that we may look at."""
    for process in psutil.process_iter(["pid", "status", "name", "cmdline", "cwd"]):
        known = process.info
        if known["status"] != psutil.STATUS_ZOMBIE and None not in known.values():
            yield known
