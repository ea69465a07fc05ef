"""How long a driver waits for a scheduler that cannot answer now, without any actor or Ray."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field

import pytest
from ray.exceptions import RayTaskError

from ftactors.core.errors import FtactorsError, JobNotFoundError, LogRefusedError
from ftactors.log.errors import LogDamagedError, LogTakenError
from ftactors.runtime.client import SchedulerClient

AWAY = LogRefusedError("the log in database 'jobs' on db:5432 cannot be opened: connection refused")


@dataclass
class Actor:
    """The handle of an actor that answers what it was given, one after the other; errors as Ray brings them."""

    answers: Iterator[str | Exception]
    asked: list[str] = field(default_factory=list)

    @property
    def ask(self) -> Actor:
        return self

    def remote(self, method: str) -> Awaitable[str]:
        self.asked.append(method)
        return self._answer(next(self.answers))

    async def _answer(self, answer: str | Exception) -> str:
        if isinstance(answer, Exception):
            raise RayTaskError("ask", "its traceback", answer)
        return answer


def client_of(*answers: str | Exception, patience_s: float = 60.0) -> tuple[SchedulerClient, Actor]:
    actor = Actor(iter(answers))
    return SchedulerClient(actor, "ftactors", created=False, patience_s=patience_s, retry_s=0.0), actor


async def test_a_scheduler_that_has_answered_is_waited_for_while_it_cannot_reach_its_log():
    client, actor = client_of("hello", AWAY, AWAY, AWAY, "job 1")
    await client.ask("hello")

    assert await client.ask("status") == "job 1"
    assert actor.asked == ["hello", *["status"] * 4]


async def test_one_that_has_never_answered_is_not():
    client, actor = client_of(AWAY, "hello")

    with pytest.raises(LogRefusedError, match="connection refused"):
        await client.ask("hello")

    assert actor.asked == ["hello"]


async def test_it_is_not_waited_for_longer_than_for_a_while():
    client, actor = client_of("hello", AWAY, "too late", patience_s=-1.0)
    await client.ask("hello")

    with pytest.raises(LogRefusedError, match="connection refused"):
        await client.ask("status")

    assert actor.asked == ["hello", "status"]


@pytest.mark.parametrize(
    "error",
    [LogTakenError("taken"), LogDamagedError(7, "event 7 is missing"), JobNotFoundError("there is no job 'j'")],
    ids=type,
)
async def test_what_no_waiting_will_end_is_told_at_once(error: FtactorsError):
    client, actor = client_of("hello", error, "unlike before")
    await client.ask("hello")

    with pytest.raises(type(error)) as caught:
        await client.ask("status")

    assert str(caught.value) == str(error)
    assert len(actor.asked) == 2


async def test_an_error_that_is_none_of_ours_is_a_bug_and_shows_as_ray_brings_it():
    client, actor = client_of("hello", KeyError("j"), "unlike before")
    await client.ask("hello")

    with pytest.raises(RayTaskError, match="its traceback"):
        await client.ask("status")

    assert len(actor.asked) == 2
