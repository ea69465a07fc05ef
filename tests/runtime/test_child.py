"""A child is heard, stopped and killed, spawned or forked; whatever becomes of it, one last word is heard."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from ftactors.core.work import LAST_WORDS, AnyWord, Failed, Progress, Published, StageBegun, StopOrder, Stopped, Work
from ftactors.runtime.child import Child
from ftactors.runtime.forked import ForkedChild
from ftactors.runtime.spawn import Started, spawn
from ftactors.runtime.starting import start
from tests.runtime import workers
from tests.runtime.templates import RunningTemplate
from tests.runtime.workers import is_alive, until, work


class Listener:
    """A child, and the words it has said."""

    def __init__(self, process: Started, told: Work) -> None:
        self.words: list[AnyWord] = []
        self.work = told
        self.child = Child(process, self.work, self.words.append)

    async def has_begun(self) -> None:
        await until(lambda: self.words)

    async def last_word(self) -> AnyWord:
        await until(self.child.ended.is_set)
        assert [isinstance(word, LAST_WORDS) for word in self.words] == [False] * (len(self.words) - 1) + [True]
        assert not is_alive(self.child.pid)
        return self.words[-1]

    async def failure(self) -> Failed:
        word = await self.last_word()
        assert isinstance(word, Failed)
        return word

    def log(self) -> str:
        return (Path(self.work.attempt_dir) / "train.log").read_text()


@pytest.fixture(scope="module")
def bare() -> Iterator[RunningTemplate]:
    """A template that has loaded nothing: it forks all the same."""
    with RunningTemplate() as running:
        yield running


@pytest.fixture(params=["spawned", "forked"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def listen(way: str, bare: RunningTemplate, tmp_path: Path) -> Callable[..., Awaitable[Listener]]:
    """Start a child either way, and listen to it."""

    async def listen(trainer: str, **changes: object) -> Listener:
        told = work(tmp_path, trainer, **changes)
        if way == "spawned":
            return Listener(spawn(told, 2), told)
        process = await start(told, threads=2, devices=(), template=bare.found)
        assert isinstance(process, ForkedChild)
        return Listener(process, told)

    return listen


async def test_all_words_are_heard_in_order_up_to_the_last(listen):
    listener = await listen("Talker")

    assert isinstance(await listener.last_word(), Published)
    assert [type(word) for word in listener.words] == [StageBegun, Progress, Progress, Progress, Published]


async def test_a_work_larger_than_a_pipe_arrives_without_blocking_the_loop(listen):
    began = time.monotonic()
    listener = await listen("Talker", checkpoints=tuple(f"/checkpoints/{n:0100}" for n in range(2000)))

    assert time.monotonic() - began < 1.0
    assert isinstance(await listener.last_word(), Published)


async def test_an_order_stops_the_work_at_its_next_step(listen):
    listener = await listen("Patient")
    await listener.has_begun()

    listener.child.stop(StopOrder(grace_s=30, save=True))

    assert await listener.last_word() == Stopped(clean=True)
    order = (Path(listener.work.attempt_dir) / "order.json").read_text()
    assert StopOrder.model_validate_json(order) == StopOrder(grace_s=30, save=True)


async def test_an_order_given_before_the_process_has_read_its_work_is_not_lost(listen):
    listener = await listen("Patient")

    listener.child.stop(StopOrder(grace_s=30, save=False))

    assert await listener.last_word() == Stopped(clean=False)


async def test_a_later_order_can_withdraw_the_checkpoint(listen):
    listener = await listen("Torn")
    await listener.has_begun()
    listener.child.stop(StopOrder(grace_s=30, save=True))
    await until(lambda: len(listener.words) == 2)

    listener.child.stop(StopOrder(grace_s=30, save=False))

    assert await listener.last_word() == Stopped(clean=False)


@pytest.mark.parametrize("trainer", ["Deaf", "GilHolder"])
async def test_work_that_does_not_stop_is_killed_after_the_grace(listen, trainer):
    listener = await listen(trainer)
    await listener.has_begun()

    listener.child.stop(StopOrder(grace_s=0.1))

    assert await listener.last_word() == Stopped(clean=False)


async def test_repeating_an_order_gives_no_more_time(listen):
    listener = await listen("Deaf")
    await listener.has_begun()
    listener.child.stop(StopOrder(grace_s=0.1))

    listener.child.stop(StopOrder(grace_s=3600))

    assert await listener.last_word() == Stopped(clean=False)


async def test_a_segmentation_fault_is_a_failure_that_shows_where_it_was(listen):
    failure = await (await listen("Segfault")).failure()

    assert (failure.error_type, failure.stage, failure.retryable) == ("process_died", "loading", True)
    assert re.search(r"\(pid \d+\) was killed by SIGSEGV before its work was done", failure.message)
    assert "workers.py" in failure.message
    assert failure.hint is None


async def test_a_kill_from_outside_hints_at_the_hosts_memory(listen):
    failure = await (await listen("KilledFromOutside")).failure()

    assert "was killed by SIGKILL before its work was done" in failure.message
    assert "memory_gib" in (failure.hint or "")


async def test_a_kill_that_was_ordered_hints_at_nothing(listen):
    listener = await listen("GilHolder")
    await listener.has_begun()

    listener.child.kill()

    failure = await listener.failure()
    assert "was killed by SIGKILL, as its trainer actor was told to" in failure.message
    assert (failure.error_type, failure.stage, failure.hint) == ("process_died", "training", None)


async def test_an_exit_without_a_last_word_is_a_failure_with_the_end_of_the_log(listen):
    failure = await (await listen("Quitter")).failure()

    assert "ended with exit code 3 before its work was done; its log ends with:\n  I have had enough" in failure.message


async def test_a_process_that_does_not_exit_after_its_last_word_is_killed(listen, monkeypatch):
    monkeypatch.setattr("ftactors.runtime.child.LINGER_S", 0.1)

    assert isinstance(await (await listen("Lingerer")).last_word(), Published)


async def test_a_death_is_heard_though_a_forked_process_holds_the_pipe_and_a_forked_child_takes_it_along(listen, way):
    listener = await listen("Forker")
    failure = await listener.failure()
    left = int((Path(listener.work.attempt_dir) / "forked").read_text())

    assert failure.error_type == "process_died"
    if way == "forked":
        await until(lambda: not is_alive(left))
    else:  # Ray ends it with the actor
        assert is_alive(left)
        os.kill(left, signal.SIGKILL)


async def test_nonsense_on_the_pipe_of_words_ends_the_process(listen):
    failure = await (await listen("Scribbler")).failure()

    assert failure.error_type == "internal"
    assert "hello" in failure.message


async def test_the_process_runs_in_its_directory_with_its_share_and_an_empty_input(listen, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")

    listener = await listen("Surroundings")
    await listener.last_word()

    assert listener.log().splitlines() == [
        f"cwd {listener.work.attempt_dir}",
        "input ''",
        "OMP_NUM_THREADS '2'",
        "CUDA_VISIBLE_DEVICES ''",
    ]


async def test_work_on_a_gpu_sees_the_devices_that_its_actor_sees(listen, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")

    listener = await listen("Surroundings", uses_gpu=True)
    await listener.last_word()

    assert "CUDA_VISIBLE_DEVICES '3'" in listener.log()


async def test_what_the_parent_can_import_the_child_can(listen, tmp_path, monkeypatch):
    (tmp_path / "a_users_own.py").write_text("from tests.runtime.workers import Talker as MyTrainer")
    monkeypatch.syspath_prepend(tmp_path)

    assert isinstance(await (await listen("a_users_own:MyTrainer")).last_word(), Published)


async def test_a_directory_that_cannot_be_made_is_an_error_of_the_operating_system(listen, tmp_path):
    (tmp_path / "attempts").write_text("a file")

    with pytest.raises(NotADirectoryError):
        await listen("Talker")


@pytest.mark.parametrize("trainer", ["Deaf", "GilHolder"])
async def test_a_child_dies_with_its_parent(way, bare, tmp_path, trainer):
    template = [bare.name] if way == "forked" else []
    parent = subprocess.Popen(
        [sys.executable, "-m", workers.MODULE, tmp_path, trainer, *template],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        word, pid = parent.stdout.readline().split()
        assert (word, is_alive(int(pid))) == ("stage_begun", True)

        parent.send_signal(signal.SIGKILL)

        await until(lambda: not is_alive(int(pid)))


async def test_quiet_seconds_count_from_the_last_word_and_end_with_the_process(listen):
    listener = await listen("Torn")
    await until(lambda: listener.words and listener.child.quiet_s > 0.2)
    before = listener.child.quiet_s
    listener.child.stop(StopOrder(grace_s=30, save=True))
    await until(lambda: len(listener.words) == 2)

    assert listener.child.quiet_s < before
    listener.child.kill()
    await listener.last_word()
    assert listener.child.quiet_s == 0.0
