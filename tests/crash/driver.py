"""A driver that outlives the scheduler: what it was told is in a file, and after a crash it asks again.

Its reply may have been lost, so it makes again each call that it has noted no answer of, with the same ids. Calls that
give the same answer for ever, such as a submit, it makes again in any case, and must be answered the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftactors.core.errors import FtactorsError, LogFullError
from ftactors.core.events import AnyEvent, JobSubmitted, ModelImported
from ftactors.core.job import Job
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import JobStatus
from ftactors.log.log import EventLog
from ftactors.runtime.desk import Desk
from ftactors.runtime.scheduler import Scheduler
from tests.crash.cluster import OutlivingCluster
from tests.invariants import Ledger

WHO = "a driver"
_PATIENCE_S = 15.0
_LOOK_S = 0.5
"""A scheduler that refuses tells of no changes."""


@dataclass(frozen=True)
class Note:
    """An answer that a driver got."""

    call: list[str]
    answer: Any
    fact: dict[str, Any] | None
    """What an event of the log must have, for the answer to be true."""


class Notes:
    """All answers that drivers got, in a file."""

    def __init__(self, path: Path, cross: Callable[[str], None] = lambda _: None) -> None:
        self._path = path
        self._cross = cross
        lines = path.read_text().splitlines() if path.exists() else []
        self._notes = {tuple(note.call): note for note in (Note(**json.loads(line)) for line in lines)}

    def find(self, *call: str) -> Note | None:
        """Return the answer to a call; None where it has had none."""
        return self._notes.get(call)

    def take(self, note: Note) -> None:
        """Note an answer; where there is one from before, it must be the same."""
        known = self.find(*note.call)
        if known is None:
            self._cross("an answer arrives")
            self._notes[tuple(note.call)] = note
            with self._path.open("a") as file:
                file.write(f"{json.dumps(vars(note))}\n")
        assert known is None or known.answer == note.answer, f"{note.call} was answered {known} before, and now {note}"

    def ledger(self) -> Ledger:
        """Return what the invariants must know of them."""
        ledger = Ledger()
        for note in self._notes.values():
            match note.call:
                case ["submit", job_id, *_] if note.fact is not None:
                    ledger.submitted[job_id] = note.answer
                case ["cancel", job_id, request_id]:
                    ledger.cancelled[job_id, request_id] = note.answer
        return ledger

    def check_kept(self, events: Iterable[AnyEvent]) -> None:
        """Check that what each answer rests on is in the log."""
        stored = [*events]
        for note in self._notes.values():
            fact = note.fact
            known = fact is None or any(
                all(getattr(event, name, None) == it for name, it in fact.items()) for event in stored
            )
            assert known, f"{note.call} was answered {note.answer}, and no event of the log has {fact}"


class Driver:
    """What a story has to tell: calls, in their order, that are answered over any number of crashes.

    Args:
        desk: The scheduler's.
        scheduler: To wait for what happens to jobs, as a driver may who watches them.
        cluster: To lose nodes of.
        notes: The answers so far.
        rules: The service's configuration.
    """

    def __init__(
        self, desk: Desk, scheduler: Scheduler, cluster: OutlivingCluster, notes: Notes, rules: ServiceConfig
    ) -> None:
        self._rules = rules
        self._desk = desk
        self._scheduler = scheduler
        self._cluster = cluster
        self._notes = notes

    async def start(self, time: str = "first") -> None:
        """Start the service, for the time that is named."""
        fact = {"type": "service_started"}
        await self._once(["start", time], lambda: self._desk.start(self._rules, WHO, by_owner=True), fact)

    async def stop(self) -> None:
        """Stop the service, and wait until it holds nothing."""
        await self._once(["stop"], lambda: self._desk.stop(WHO), {"type": "service_stop_requested"})
        state = self._scheduler.state  # which places jobs where the second start was recorded, and its reply lost
        await self._wait(lambda: self._desk.is_stopped() or state.places, "the service to stop")

    async def submit(self, submitted: JobSubmitted) -> str:
        """Submit a job and return the id that was answered, or the name of the refusal."""
        try:
            answer = (await self._desk.submit(submitted)).job_id
            fact = {"type": "job_submitted", "job_id": answer}
        except FtactorsError as error:
            answer, fact = type(error).__name__, None
        self._notes.take(Note(["submit", submitted.job_id, submitted.config_digest], answer, fact))
        return answer

    async def cancel(self, job_id: str, request_id: str) -> bool:
        """Cancel a job and return the answer."""
        answer = await self._desk.cancel(job_id, request_id, WHO)
        fact = {"job_id": job_id, "request_id": request_id} if answer else None
        self._notes.take(Note(["cancel", job_id, request_id], answer, fact))
        return answer

    async def pause(self, job_id: str) -> None:
        """Pause a job."""
        call, fact = ["pause", job_id], {"type": "pause_requested", "job_id": job_id}
        await self._once(call, lambda: self._desk.pause(job_id, f"pause of {job_id}", WHO), fact)

    async def resume(self, job_id: str) -> None:
        """Resume a job."""
        call, fact = ["resume", job_id], {"type": "resume_requested", "job_id": job_id}
        await self._once(call, lambda: self._desk.resume(job_id, f"resume of {job_id}", WHO), fact)

    async def import_model(self, event: ModelImported) -> int:
        """Import a model and return the seq of its registration."""

        async def imported() -> int:
            return (await self._desk.import_model(event)).registered_seq

        fact = {"type": "model_imported", "model_id": event.model_id}
        return int(await self._once(["import", event.model_id], imported, fact))

    async def delete_model(self, model_id: str) -> None:
        """Delete the model that has this id now."""
        call, fact = ["delete", model_id], {"type": "model_deleted", "model_id": model_id}
        model = next((model for model in await self._desk.models() if model.model_id == model_id), None)
        if model is not None:
            seq = model.registered_seq
            await self._once(call, lambda: self._desk.delete_model(model_id, seq, WHO), fact)

    async def fill_disk(self) -> None:
        """Have the database's file grow no more."""
        if self._notes.find("free disk") is None:
            await set_room(self._scheduler.log, full=True)
            self._notes.take(Note(["fill disk"], answer=True, fact=None))

    async def be_refused(self, submitted: JobSubmitted) -> None:
        """Submit a job for which the disk has no room."""
        if self._notes.find("free disk") is None:
            with suppress(LogFullError):
                await self._desk.submit(submitted)
                raise AssertionError(f"job {submitted.job_id} was accepted, and the disk is full")

    async def free_disk(self) -> None:
        """Have the database's file grow again."""
        await set_room(self._scheduler.log, full=False)
        self._notes.take(Note(["free disk"], answer=True, fact=None))

    def lose_node_of(self, job_id: str) -> None:
        """Have the node die on which a job trains, unless one did in an earlier life."""
        node_id = self._node_of(job_id)
        if node_id is not None:
            self._cluster.lose(node_id)

    def drain_node_of(self, job_id: str) -> None:
        """Have the node be about to go on which a job trains, unless one was in an earlier life."""
        node_id = self._node_of(job_id)
        if node_id is not None:
            self._cluster.drain(node_id)

    def _node_of(self, job_id: str) -> str | None:
        job, nodes = self._scheduler.state.jobs.get(job_id), self._cluster.nodes.values()
        if job is None or job.attempt is None or any(node.state != "up" for node in nodes):
            return None
        return job.attempt.started[0].node_id if job.attempt.started else None

    async def until(self, job_id: str, holds: Callable[[Job], bool]) -> None:
        """Wait until a job has come so far, or has ended."""

        def reached() -> bool:
            job = self._scheduler.state.jobs.get(job_id)
            return job is None or holds(job)

        await self._wait(reached, f"job {job_id} to come so far")

    async def ended(self, job_id: str, *ways: JobStatus) -> JobStatus:
        """Wait until a job has ended, in one of these ways; its status must be the same for ever."""
        await self._wait(lambda: job_id in self._scheduler.state.finished, f"job {job_id} to end")
        status = await self._desk.status(job_id)
        assert status is not None
        assert status.status in ways, f"job {job_id} is {status.status} ({status.error_message}), not one of {ways}"
        self._notes.take(Note(["ended", job_id], status.model_dump(mode="json"), {"job_id": job_id}))
        return status.status

    async def rest(self) -> None:
        """Wait until nothing is left to do: all jobs have ended, or the service has stopped."""
        state, log = self._scheduler.state, self._scheduler.log

        def quiet() -> bool:
            at_rest = not state.jobs or self._desk.is_stopped()
            return at_rest and not self._cluster.trainers and log.durable_seq == log.seq == state.seq

        await self._wait(quiet, "the service to be at rest")

    async def _once(self, call: list[str], ask: Callable[[], Awaitable[Any]], fact: dict[str, Any]) -> Any:
        """Return the answer to a call that is not made again once it was answered: made later, it means another."""
        known = self._notes.find(*call)
        if known is not None:
            return known.answer
        answer = await ask()
        answer = answer if isinstance(answer, int) else None
        self._notes.take(Note(call, answer, fact))
        return answer

    async def _wait(self, holds: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not holds():
                    if self._scheduler.log.refusal is not None:
                        raise copy(self._scheduler.log.refusal)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_S):
                            await self._scheduler.changed()
        except TimeoutError:
            state, trainers = self._scheduler.state, [*self._cluster.trainers]
            jobs = {job.job_id: f"{job.phase}, attempt {job.attempts}" for job in state.jobs.values()}
            raise AssertionError(
                f"waited {_PATIENCE_S:g} s for {what}; jobs: {jobs}; ended: {[*state.finished]}; "
                f"trainers: {trainers}; places: {state.places}"
            ) from None


async def set_room(log: EventLog, *, full: bool) -> None:
    """Let an SQLite file grow as long as it is open, or not."""
    pages = 1 if full else 1_000_000  # at the least, it may be as large as it is
    connection = log._storage._driver
    await log._in_writer(lambda: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())
