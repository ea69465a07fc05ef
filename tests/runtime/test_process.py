"""The process of an attempt's work does what its work says, and says one last word about it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ftactors.core.events import Stage
from ftactors.core.work import (
    WORDS,
    AnyWord,
    Dataset,
    DatasetMissing,
    Failed,
    Prepared,
    Published,
    StageBegun,
    StopOrder,
    Stopped,
    Work,
)
from ftactors.runtime import process
from ftactors.runtime.process import PARENT_GONE, PipeSession, last_word
from tests.runtime.workers import EmptyHandler, work

DATASET = Dataset(path="/data/train.arrow", fingerprint="f", shape="text", counts={"train": 3})


@pytest.fixture
def session() -> PipeSession:
    return PipeSession(io.BytesIO())


class Spawned:
    """A real process of this module, with both ends of its pipes in our hands."""

    def __init__(self, parent: int) -> None:
        self.words_fd, its_words = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ftactors.runtime.process", str(parent), str(its_words)],
            stdin=subprocess.PIPE,
            pass_fds=(its_words,),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        os.close(its_words)
        self.words = os.fdopen(self.words_fd, "rb")

    def tell(self, line: Work | StopOrder) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.model_dump_json().encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> AnyWord:
        return WORDS.validate_json(self.words.readline())

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def code(self) -> int:
        return self.process.wait(timeout=20)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.hang_up()
        self.words.close()


@pytest.fixture
def spawned() -> Iterator[Spawned]:
    started = Spawned(os.getpid())
    yield started
    started.end()


@pytest.fixture
def orphaned() -> Iterator[Spawned]:
    started = Spawned(parent=os.getppid())
    yield started
    started.end()


def test_a_process_ends_with_code_0_after_its_last_word(spawned, tmp_path):
    spawned.tell(work(tmp_path, "Talker"))

    assert [spawned.hear().type for _ in range(5)] == ["stage_begun", "progress", "progress", "progress", "published"]
    assert spawned.words.read() == b""
    assert spawned.code() == 0


def test_an_order_can_come_at_any_time(spawned, tmp_path):
    (tmp_path / "attempts" / "1").mkdir(parents=True)
    spawned.tell(work(tmp_path, "Patient"))
    assert isinstance(spawned.hear(), StageBegun)

    spawned.tell(StopOrder(grace_s=30, save=True))

    assert spawned.hear() == Stopped(clean=True)
    assert spawned.code() == 0


def test_a_process_exits_when_its_pipe_of_orders_closes(spawned, tmp_path):
    spawned.tell(work(tmp_path, "Deaf"))
    assert isinstance(spawned.hear(), StageBegun)

    spawned.hang_up()

    assert spawned.code() == PARENT_GONE


def test_a_process_without_work_exits(spawned):
    spawned.hang_up()

    assert spawned.code() == PARENT_GONE


def test_a_process_whose_parent_died_before_it_started_exits(orphaned):
    assert orphaned.code() == PARENT_GONE


def test_work_crosses_the_pipe_unchanged(tmp_path):
    told = work(tmp_path, "Talker", dataset=DATASET, overrides={"per_device_train_batch_size": 2}, uses_gpu=True)

    assert Work.model_validate_json(told.model_dump_json()) == told


def test_a_trainers_last_word_is_the_last_word(session, tmp_path):
    assert isinstance(last_word(work(tmp_path, "Talker"), session), Published)


def test_an_execution_error_is_told_by_its_own_type_hint_and_stage(session, tmp_path):
    told = last_word(work(tmp_path, "Raiser", overrides={"raise": "diverged"}), session)

    assert told == Failed(
        stage="training",
        error_type="diverged",
        message="the loss of step 3 is nan",
        hint="lower learning_rate",
        retryable=False,
    )


def test_lost_data_is_told_by_its_path(session, tmp_path):
    told = last_word(work(tmp_path, "Raiser", dataset=DATASET, overrides={"raise": "dataset_lost"}), session)

    assert told == DatasetMissing(path=DATASET.path, message="/data/train.arrow is gone")


def test_lost_data_without_prepared_data_is_a_failure(session, tmp_path):
    told = last_word(work(tmp_path, "Raiser", overrides={"raise": "dataset_lost"}), session)

    assert isinstance(told, Failed)
    assert (told.error_type, told.retryable) == ("dataset_lost", True)


def test_giving_up_at_an_order_is_a_stop_without_a_checkpoint(session, tmp_path):
    assert last_word(work(tmp_path, "Raiser", overrides={"raise": "stop"}), session) == Stopped(clean=False)


def test_a_bug_is_told_with_its_place_and_its_traceback_is_logged(session, tmp_path, capsys):
    told = last_word(work(tmp_path, "Raiser", overrides={"raise": "bug"}), session)

    assert isinstance(told, Failed)
    assert (told.error_type, told.stage, told.retryable) == ("internal", "training", True)
    assert told.message.startswith("ZeroDivisionError: division by zero (")
    assert told.message.endswith(", in run)")
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_trainer_without_a_last_word_is_told_what_it_must_return(session, tmp_path):
    told = last_word(work(tmp_path, "Speechless"), session)

    assert isinstance(told, Failed)
    assert (told.error_type, told.retryable) == ("configuration", False)
    assert told.message.endswith("Speechless.run() returned None; it must return Published or Stopped")


def test_an_unknown_trainer_is_a_matter_of_configuration(session, tmp_path):
    told = last_word(work(tmp_path, "Suroundings"), session)

    assert isinstance(told, Failed)
    assert (told.error_type, told.hint, told.retryable) == ("configuration", "did you mean 'Surroundings'?", False)


def test_a_handlers_error_is_told_before_any_encoding(session, tmp_path):
    told = last_word(
        work(tmp_path, "Talker", purpose="prepare", handler="tests.runtime.workers:MissingHandler"), session
    )

    assert isinstance(told, Failed)
    assert (told.error_type, told.message) == ("invalid_data", "/data/train.jsonl: no such file")


def test_preparing_hands_work_handler_and_session_to_the_encoder(session, tmp_path, monkeypatch):
    prepared = Prepared(path="p", fingerprint="f", shape="text", counts={})
    handed: list[tuple[object, ...]] = []
    encoder = ModuleType("an_encoder")
    encoder.prepare = lambda *arguments: handed.append(arguments) or prepared  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "an_encoder", encoder)
    monkeypatch.setattr(process, "ENCODER", "an_encoder")
    told = work(tmp_path, "Talker", purpose="prepare")

    assert last_word(told, session) == prepared
    ((its_work, its_handler, its_session),) = handed
    assert (its_work, its_session) == (told, session)
    assert isinstance(its_handler, EmptyHandler)
    assert (its_handler.source, its_handler.seed) == (told.config.dataset_config, told.config.seed)


def test_a_session_knows_its_stage_from_what_was_said():
    pipe = io.BytesIO()
    session = PipeSession(pipe)
    stages: list[Stage | None] = [session.stage]

    session.say(StageBegun(stage="loading", index=1, of=2))
    stages.append(session.stage)

    assert stages == [None, "loading"]
    assert WORDS.validate_json(pipe.getvalue()) == StageBegun(stage="loading", index=1, of=2)


def test_the_process_loads_no_torch_before_its_trainer_does():
    code = "import sys, ftactors.runtime.process; sys.exit(bool({'torch', 'transformers', 'ray'} & set(sys.modules)))"

    finished = subprocess.run([sys.executable, "-c", code], cwd=Path(process.__file__).parents[2], check=False)

    assert finished.returncode == 0
