"""A child process is started, heard, stopped and killed; whatever becomes of it, one last word is heard."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftactors.core.work import LAST_WORDS, AnyWord, Failed, Progress, Published, StageBegun, StopOrder, Stopped
from ftactors.runtime.child import Child
from tests.runtime import workers
from tests.runtime.workers import is_alive, until, work


class Listener:
    """A child, and the words it has said."""

    def __init__(self, directory: Path, trainer: str, **changes: object) -> None:
        self.words: list[AnyWord] = []
        self.work = work(directory, trainer, **changes)
        self.child = Child(self.work, self.words.append, threads=2)

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


async def test_all_words_are_heard_in_order_up_to_the_last(tmp_path):
    listener = Listener(tmp_path, "Talker")

    assert isinstance(await listener.last_word(), Published)
    assert [type(word) for word in listener.words] == [StageBegun, Progress, Progress, Progress, Published]


async def test_a_work_larger_than_a_pipe_arrives_without_blocking_the_loop(tmp_path):
    began = time.monotonic()
    listener = Listener(tmp_path, "Talker", checkpoints=tuple(f"/checkpoints/{n:0100}" for n in range(2000)))

    assert time.monotonic() - began < 1.0
    assert isinstance(await listener.last_word(), Published)


async def test_an_order_stops_the_work_at_its_next_step(tmp_path):
    listener = Listener(tmp_path, "Patient")
    await listener.has_begun()

    listener.child.stop(StopOrder(grace_s=30, save=True))

    assert await listener.last_word() == Stopped(clean=True)
    order = (Path(listener.work.attempt_dir) / "order.json").read_text()
    assert StopOrder.model_validate_json(order) == StopOrder(grace_s=30, save=True)


async def test_an_order_given_before_the_process_has_read_its_work_is_not_lost(tmp_path):
    listener = Listener(tmp_path, "Patient")

    listener.child.stop(StopOrder(grace_s=30, save=False))

    assert await listener.last_word() == Stopped(clean=False)


async def test_a_later_order_can_withdraw_the_checkpoint(tmp_path):
    listener = Listener(tmp_path, "Torn")
    await listener.has_begun()
    listener.child.stop(StopOrder(grace_s=30, save=True))
    await until(lambda: len(listener.words) == 2)

    listener.child.stop(StopOrder(grace_s=30, save=False))

    assert await listener.last_word() == Stopped(clean=False)


@pytest.mark.parametrize("trainer", ["Deaf", "GilHolder"])
async def test_work_that_does_not_stop_is_killed_after_the_grace(tmp_path, trainer):
    listener = Listener(tmp_path, trainer)
    await listener.has_begun()

    listener.child.stop(StopOrder(grace_s=0.1))

    assert await listener.last_word() == Stopped(clean=False)


async def test_repeating_an_order_gives_no_more_time(tmp_path):
    listener = Listener(tmp_path, "Deaf")
    await listener.has_begun()
    listener.child.stop(StopOrder(grace_s=0.1))

    listener.child.stop(StopOrder(grace_s=3600))

    assert await listener.last_word() == Stopped(clean=False)


async def test_a_segmentation_fault_is_a_failure_that_shows_where_it_was(tmp_path):
    failure = await Listener(tmp_path, "Segfault").failure()

    assert (failure.error_type, failure.stage, failure.retryable) == ("process_died", "loading", True)
    assert re.search(r"\(pid \d+\) was killed by SIGSEGV before its work was done", failure.message)
    assert "workers.py" in failure.message
    assert failure.hint is None


async def test_a_kill_from_outside_hints_at_the_hosts_memory(tmp_path):
    failure = await Listener(tmp_path, "KilledFromOutside").failure()

    assert "was killed by SIGKILL before its work was done" in failure.message
    assert "memory_gib" in (failure.hint or "")


async def test_a_kill_that_was_ordered_hints_at_nothing(tmp_path):
    listener = Listener(tmp_path, "GilHolder")
    await listener.has_begun()

    listener.child.kill()

    failure = await listener.failure()
    assert "was killed by SIGKILL, as its trainer actor was told to" in failure.message
    assert (failure.error_type, failure.stage, failure.hint) == ("process_died", "training", None)


async def test_an_exit_without_a_last_word_is_a_failure_with_the_end_of_the_log(tmp_path):
    failure = await Listener(tmp_path, "Quitter").failure()

    assert "ended with exit code 3 before its work was done; its log ends with:\n  I have had enough" in failure.message


async def test_a_process_that_does_not_exit_after_its_last_word_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("ftactors.runtime.child.LINGER_S", 0.1)

    assert isinstance(await Listener(tmp_path, "Lingerer").last_word(), Published)


async def test_a_death_is_heard_though_a_forked_process_holds_the_pipe(tmp_path):
    listener = Listener(tmp_path, "Forker")
    failure = await listener.failure()
    forked = int((Path(listener.work.attempt_dir) / "forked").read_text())

    assert (failure.error_type, is_alive(forked)) == ("process_died", True)
    os.kill(forked, signal.SIGKILL)


async def test_nonsense_on_the_pipe_of_words_ends_the_process(tmp_path):
    failure = await Listener(tmp_path, "Scribbler").failure()

    assert failure.error_type == "internal"
    assert "hello" in failure.message


async def test_the_process_runs_in_its_directory_with_its_share_and_an_empty_input(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")

    listener = Listener(tmp_path, "Surroundings")
    await listener.last_word()

    assert listener.log().splitlines() == [
        f"cwd {listener.work.attempt_dir}",
        "input ''",
        "OMP_NUM_THREADS '2'",
        "CUDA_VISIBLE_DEVICES ''",
    ]


async def test_work_on_a_gpu_sees_the_devices_that_its_actor_sees(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")

    listener = Listener(tmp_path, "Surroundings", uses_gpu=True)
    await listener.last_word()

    assert "CUDA_VISIBLE_DEVICES '3'" in listener.log()


async def test_what_the_parent_can_import_the_child_can(tmp_path, monkeypatch):
    (tmp_path / "a_users_own.py").write_text("from tests.runtime.workers import Talker as MyTrainer")
    monkeypatch.syspath_prepend(tmp_path)

    assert isinstance(await Listener(tmp_path, "a_users_own:MyTrainer").last_word(), Published)


async def test_a_directory_that_cannot_be_made_is_an_error_of_the_operating_system(tmp_path):
    (tmp_path / "attempts").write_text("a file")

    with pytest.raises(NotADirectoryError):
        Listener(tmp_path, "Talker")


@pytest.mark.parametrize("trainer", ["Deaf", "GilHolder"])
async def test_a_child_dies_with_its_parent(tmp_path, trainer):
    parent = subprocess.Popen(
        [sys.executable, "-m", workers.MODULE, tmp_path, trainer],
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


async def test_quiet_seconds_count_from_the_last_word_and_end_with_the_process(tmp_path):
    listener = Listener(tmp_path, "Deaf")
    await until(lambda: listener.child.quiet_s > 0.01)
    before = listener.child.quiet_s
    await listener.has_begun()

    assert listener.child.quiet_s < before
    listener.child.kill()
    await listener.last_word()
    assert listener.child.quiet_s == 0.0
