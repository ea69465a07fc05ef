"""A run that is stopped and resumed ends as one that was not; orders to stop; the best model; early stopping."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftactors.core.events import CheckpointRef
from ftactors.core.work import (
    AnyWord,
    CheckpointWritten,
    Evaluated,
    Progress,
    Published,
    StageBegun,
    StopOrder,
    Stopped,
    Work,
)
from tests import tiny
from tests.trainers.attempts import ListSession, learned, work_of
from trainers.sft import SftTrainer

SAVE, DROP = StopOrder(grace_s=30), StopOrder(grace_s=30, save=False)
LOAD_BEST = {"learning_rate": 0.5, "lr_scheduler_type": "constant", "load_best_model_at_end": True}
"""Training at a rate that only ever makes the loss worse: the first evaluation is the best."""
DROPOUT = {"lora_dropout": 0.25}


def _at_checkpoint(step: int, order: StopOrder) -> Callable[[AnyWord], StopOrder | None]:
    """Order to stop when this checkpoint is told; the step after it is the first that sees the order."""
    return lambda word: order if isinstance(word, CheckpointWritten) and word.step == step else None


def _at_stage(stage: str, order: StopOrder) -> Callable[[AnyWord], StopOrder | None]:
    return lambda word: order if isinstance(word, StageBegun) and word.stage == stage else None


def _run(work: Work, stop_at: Callable[[AnyWord], StopOrder | None] = lambda _: None) -> tuple[Any, ListSession]:
    session = ListSession(stop_at)
    return SftTrainer(work, session).run(), session


def _next(directory: Path, base: Path, data: Path, session: ListSession, **arguments: Any) -> Work:
    """Return the attempt that goes on at the last checkpoint of an earlier one."""
    written = session.of(CheckpointWritten)
    last = written[-1]
    pruned = {path for word in written for path in word.pruned}
    evaluated = session.of(Evaluated, of="base")
    known = {
        "resume_from": CheckpointRef(stage="training", step=last.step, path=last.path, digest=last.digest),
        "checkpoints": tuple(word.path for word in written if word.path not in pruned),
        "baseline": evaluated[0].metrics if evaluated else None,
    }
    return work_of(directory, base, data, attempt=2, work=known, **arguments)


def _logged(*attempts: Work) -> dict[int, dict[str, float]]:
    """Return the lines of training, by their step."""
    lines = [
        json.loads(line)
        for work in attempts
        for line in (Path(work.attempt_dir) / "metrics.jsonl").read_text().splitlines()
    ]
    return {line["step"]: line for line in lines if "loss" in line}


@pytest.mark.parametrize(
    ("arch", "method", "options"),
    [
        ("llama", "lora", {"params": DROPOUT, "logging_steps": 1}),
        ("llama", "lora", {"params": DROPOUT, "logging_steps": 4}),
        ("llama", "qlora", {"params": DROPOUT, "max_steps": 12}),
        ("gpt2", "full", {"gradient_accumulation_steps": 2}),
    ],
)
def test_a_resumed_run_has_the_losses_of_an_undisturbed_one(
    arch: str, method: str, options: dict[str, Any], request: pytest.FixtureRequest, data: Path, tmp_path: Path
):
    base: Path = request.getfixturevalue(arch)
    options = {"num_train_epochs": 1.5, "save_strategy": "steps", "save_steps": 4, "method": method, **options}
    undisturbed = work_of(tmp_path / "undisturbed", base, data, **options)
    whole, _ = _run(undisturbed)

    first = work_of(tmp_path / "disturbed", base, data, **options)
    stopped, session = _run(first, _at_checkpoint(4, SAVE))
    second = _next(tmp_path / "disturbed", base, data, session, **options)
    resumed, _ = _run(second)

    assert (stopped, session.of(CheckpointWritten)[-1].step) == (Stopped(clean=True), 5)
    expected, found = _logged(undisturbed), _logged(first, second)
    assert found.keys() == expected.keys()
    assert all(found[step] == pytest.approx(expected[step], abs=1e-5) for step in expected)
    assert learned(resumed) == pytest.approx(learned(whole), abs=1e-5)
    assert resumed.trained_tokens == whole.trained_tokens


def test_a_job_that_is_to_save_writes_a_checkpoint_and_stops_clean(llama: Path, data: Path, tmp_path: Path):
    work = work_of(tmp_path, llama, data, save_strategy="steps", save_steps=2, evaluation_strategy="epoch")

    last_word, session = _run(work, _at_checkpoint(2, SAVE))

    assert last_word == Stopped(clean=True)
    assert [word.step for word in session.of(CheckpointWritten)] == [2, 3]
    assert session.of(Progress, stage="training")[-1].step == 3
    assert session.of(Evaluated, of="tuned") == []


def test_a_job_that_is_being_cancelled_stops_at_the_next_step_and_saves_nothing(
    llama: Path, data: Path, tmp_path: Path
):
    work = work_of(tmp_path, llama, data, save_strategy="steps", save_steps=2)

    last_word, session = _run(work, _at_checkpoint(2, DROP))

    assert last_word == Stopped(clean=False)
    assert [word.step for word in session.of(CheckpointWritten)] == [2]


def test_an_order_within_a_long_step_need_not_wait_for_its_end_where_nothing_is_saved(
    llama: Path, data: Path, tmp_path: Path
):
    work = work_of(tmp_path, llama, data, gradient_accumulation_steps=6)

    last_word, session = _run(work, _at_stage("training", DROP))

    assert last_word == Stopped(clean=False)
    assert session.of(Progress, stage="training") == []


@pytest.mark.parametrize("stage", ["loading", "baseline"])
def test_an_order_before_training_stops_clean_for_nothing_is_lost(stage: str, llama: Path, data: Path, tmp_path: Path):
    last_word, session = _run(work_of(tmp_path, llama, data, per_device_eval_batch_size=4), _at_stage(stage, SAVE))

    assert last_word == Stopped(clean=True)
    assert session.of(StageBegun)[-1].stage == stage
    assert session.of(Evaluated) == []


@pytest.mark.parametrize("save_strategy", ["epoch", "no"])
@pytest.mark.parametrize(("method", "options"), [("lora", LOAD_BEST), ("full", {})])
def test_an_order_after_training_stops_clean_and_loses_nothing(
    save_strategy: str,
    method: str,
    options: dict[str, Any],
    data: Path,
    tmp_path: Path,
):
    base = tiny.make_model_dir(tmp_path / "base", dtype=torch.bfloat16)
    options = {"num_train_epochs": 1, "save_strategy": save_strategy, "method": method, **options}
    whole, _ = _run(work_of(tmp_path / "undisturbed", base, data, **options))

    last_word, session = _run(work_of(tmp_path, base, data, **options), _at_stage("evaluating", SAVE))
    resumed, again = _run(_next(tmp_path, base, data, session, **options))

    assert last_word == Stopped(clean=True)
    assert session.of(StageBegun)[-1].stage == "evaluating"
    assert again.of(Progress, stage="training") == []
    assert (learned(resumed), _weights(resumed)) == (pytest.approx(learned(whole), abs=1e-5), _weights(whole))


def test_an_order_after_training_that_wants_nothing_saved_saves_nothing(llama: Path, data: Path, tmp_path: Path):
    last_word, session = _run(work_of(tmp_path, llama, data, max_steps=2), _at_stage("evaluating", DROP))

    assert last_word == Stopped(clean=False)
    assert session.of(CheckpointWritten) == []


class StoppedAfterTraining(ListSession):
    """Orders to stop when training has ended, and nothing else has begun."""

    trainer: SftTrainer

    @property
    def stop_order(self) -> StopOrder | None:
        loop = self.trainer._loop
        return SAVE if loop is not None and loop.state.global_step == 2 and not loop.is_in_train else None


def test_an_order_right_after_the_last_step_saves_it(llama: Path, data: Path, tmp_path: Path):
    session = StoppedAfterTraining()
    session.trainer = SftTrainer(work_of(tmp_path, llama, data, max_steps=2), session)

    last_word = session.trainer.run()

    assert last_word == Stopped(clean=True)
    assert session.of(StageBegun)[-1].stage == "training"
    assert [word.step for word in session.of(CheckpointWritten)] == [2]


class StoppedInEvaluation(ListSession):
    """Orders to stop between two batches of the first evaluation within training."""

    trainer: SftTrainer
    looks = 0

    @property
    def stop_order(self) -> StopOrder | None:
        loop = self.trainer._loop
        if loop is not None and loop.control.should_evaluate:
            self.looks += 1  # once at the step's end, then after each batch
        return SAVE if self.looks > 2 else None


def test_an_order_within_an_evaluation_ends_it_and_saves(llama: Path, data: Path, tmp_path: Path):
    work = work_of(tmp_path, llama, data, evaluation_strategy="steps", eval_steps=2, per_device_eval_batch_size=4)
    session = StoppedInEvaluation()
    session.trainer = SftTrainer(work, session)

    last_word = session.trainer.run()

    assert last_word == Stopped(clean=True)
    assert [word.step for word in session.of(CheckpointWritten)] == [2]
    assert session.of(Evaluated, of="tuned") == []
    assert session.looks < 8  # batches of a whole evaluation


@pytest.mark.parametrize(
    "options",
    [
        {"evaluation_strategy": "steps", "eval_steps": 2, "max_steps": 4},
        {"evaluation_strategy": "epoch", "num_train_epochs": 1},
        {"evaluation_strategy": "epoch", "num_train_epochs": 2},
    ],
)
def test_an_evaluation_that_was_interrupted_is_made_up_for(
    options: dict[str, Any], llama: Path, data: Path, tmp_path: Path
):
    options = {**LOAD_BEST, "per_device_eval_batch_size": 4, **options}
    whole, undisturbed = _run(work_of(tmp_path / "undisturbed", llama, data, **options))
    session = StoppedInEvaluation()
    session.trainer = SftTrainer(work_of(tmp_path, llama, data, **options), session)
    session.trainer.run()

    resumed, again = _run(_next(tmp_path, llama, data, session, **options))

    assert [word.step for word in _evaluated(again)] == [word.step for word in _evaluated(undisturbed)]
    assert len(again.of(StageBegun, stage="training")) == 1
    assert _weights(resumed) == _weights(whole)


def test_an_evaluation_that_an_order_came_before_is_made_up_for(llama: Path, data: Path, tmp_path: Path):
    options = {
        **LOAD_BEST,
        "evaluation_strategy": "steps",
        "eval_steps": 2,
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    whole, undisturbed = _run(work_of(tmp_path / "undisturbed", llama, data, **options))
    _, session = _run(work_of(tmp_path, llama, data, **options), _at_checkpoint(1, SAVE))

    resumed, again = _run(_next(tmp_path, llama, data, session, **options))

    assert _evaluated(session) == []
    assert [word.step for word in _evaluated(again)] == [word.step for word in _evaluated(undisturbed)] == [2, 4]
    assert _weights(resumed) == _weights(whole)


def test_an_evaluation_that_is_made_up_for_may_end_training(llama: Path, data: Path, tmp_path: Path):
    """The first evaluation gains without end, the second nothing: it is the one that is interrupted."""
    options = {
        "max_steps": 4,
        "learning_rate": 1e-9,
        "evaluation_strategy": "steps",
        "eval_steps": 1,
        "early_stopping_patience": 1,
        "early_stopping_threshold": 0.1,
    }
    _, session = _run(
        work_of(tmp_path, llama, data, **options),
        lambda word: SAVE if isinstance(word, Evaluated) and word.stage == "training" else None,
    )

    _, again = _run(_next(tmp_path, llama, data, session, **options))

    assert [word.step for word in _evaluated(session)] == [1]
    assert [word.step for word in _evaluated(again)] == [2]
    assert again.of(Progress, stage="training") == []


def test_a_run_that_had_ended_only_evaluates_and_publishes_when_it_is_resumed(llama: Path, data: Path, tmp_path: Path):
    options = {"max_steps": 5, "save_strategy": "steps", "save_steps": 5}
    stopped, session = _run(work_of(tmp_path, llama, data, **options), _at_stage("publishing", SAVE))
    assert isinstance(stopped, Published)  # too late to stop

    resumed, again = _run(_next(tmp_path, llama, data, session, **options))

    assert learned(resumed) == pytest.approx(learned(stopped), abs=1e-6)
    assert resumed.trained_tokens == stopped.trained_tokens
    assert again.of(Progress, stage="training") == []
    assert _weights(resumed) == _weights(stopped)


def test_a_checkpoint_that_is_gone_is_said_and_the_run_goes_on_from_the_one_before(
    llama: Path, data: Path, tmp_path: Path
):
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2}
    whole, _ = _run(work_of(tmp_path / "undisturbed", llama, data, **options))
    _, session = _run(work_of(tmp_path, llama, data, **options), _at_checkpoint(4, SAVE))
    work = _next(tmp_path, llama, data, session, **options)
    shutil.rmtree(work.resume_from.path)

    resumed, again = _run(work)

    warning = again.of(StageBegun, stage="training")[0].warnings[0]
    assert warning.startswith("the checkpoint of step 5 in ")
    assert warning.endswith("step-4")
    assert learned(resumed) == pytest.approx(learned(whole), abs=1e-5)


def test_checkpoints_of_all_attempts_count_to_the_limit(llama: Path, data: Path, tmp_path: Path):
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}
    _, session = _run(work_of(tmp_path, llama, data, **options), _at_checkpoint(4, SAVE))

    _, again = _run(_next(tmp_path, llama, data, session, **options))

    first, second = tmp_path / "attempts/1/checkpoints", tmp_path / "attempts/2/checkpoints"
    assert [word.pruned for word in session.of(CheckpointWritten)] == [(), (), (str(first / "step-2"),)]
    assert [word.pruned for word in again.of(CheckpointWritten)] == [
        (str(first / "step-4"),),
        (str(first / "step-5"),),
    ]
    left = {path.name for path in [*first.iterdir(), *second.iterdir()] if path.name != "staging"}
    # What was pruned before goes when the run goes on; what is pruned now, when its trainer actor is told to.
    assert left == {"step-4", "step-5", "step-6", "step-8"}


def test_time_makes_a_checkpoint_due_whatever_the_strategy(llama: Path, data: Path, tmp_path: Path):
    _, session = _run(work_of(tmp_path, llama, data, max_steps=2, checkpoint_every_minutes=1e-9))

    assert [word.step for word in session.of(CheckpointWritten)] == [1, 2]


def test_the_best_model_is_kept_and_published(llama: Path, data: Path, tmp_path: Path):
    """Training at a rate that only ever makes the loss worse: the first evaluation is the best."""
    work = work_of(
        tmp_path,
        llama,
        data,
        max_steps=9,
        learning_rate=0.5,
        lr_scheduler_type="constant",
        evaluation_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        save_total_limit=1,
        load_best_model_at_end=True,
    )

    published, session = _run(work)

    losses = {word.step: word.metrics["loss"] for word in session.of(Evaluated, of="tuned", stage="training")}
    best = min(losses, key=losses.__getitem__)
    assert list(losses) == [3, 6, 9]
    assert best != 9
    assert published.metrics["loss"] == pytest.approx(losses[best], abs=1e-5)
    assert (Path(work.attempt_dir) / "checkpoints" / f"step-{best}").is_dir()


def test_the_best_model_is_published_where_its_checkpoint_was_due_before_its_evaluation(
    llama: Path, data: Path, tmp_path: Path
):
    """Time makes a checkpoint due at every step, also at the epoch's last, which is evaluated after it."""
    every_step = {"checkpoint_every_minutes": 1e-9, "save_total_limit": 1}
    options = {**LOAD_BEST, **every_step, "num_train_epochs": 1.25, "evaluation_strategy": "epoch"}
    options["learning_rate"] = 5.0
    work = work_of(tmp_path, llama, data, **options)

    published, session = _run(work)

    losses = {word.step: word.metrics["loss"] for word in _evaluated(session)}
    assert list(losses) == [12, 15]
    assert losses[12] < losses[15]
    assert published.metrics["loss"] == pytest.approx(losses[12], abs=1e-5)


def test_the_best_of_an_earlier_attempt_is_still_the_best(llama: Path, data: Path, tmp_path: Path):
    options = {
        "max_steps": 6,
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
        "evaluation_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "no",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
    }
    whole, _ = _run(work_of(tmp_path / "undisturbed", llama, data, **options))
    _, session = _run(work_of(tmp_path, llama, data, **options), _at_checkpoint(1, SAVE))

    resumed, _ = _run(_next(tmp_path, llama, data, session, **options))

    assert resumed.metrics["loss"] == pytest.approx(whole.metrics["loss"], abs=1e-5)


def test_training_ends_after_evaluations_without_an_improvement(llama: Path, data: Path, tmp_path: Path):
    work = work_of(
        tmp_path,
        llama,
        data,
        max_steps=50,
        learning_rate=1e-9,
        evaluation_strategy="steps",
        eval_steps=1,
        early_stopping_patience=2,
        early_stopping_threshold=0.1,
    )

    published, session = _run(work)

    assert isinstance(published, Published)
    assert [word.step for word in session.of(Evaluated, stage="training")] == [1, 2, 3]
    assert session.of(Progress, stage="training")[-1].step == 3


def _evaluated(session: ListSession) -> list[Evaluated]:
    return session.of(Evaluated, of="tuned", stage="training")


def _weights(published: Published) -> dict[str, list[float]]:
    name = "adapter_model" if published.kind == "adapter" else "model"
    saved = load_file(Path(published.path) / f"{name}.safetensors")
    return {name: tensor.to(torch.float64).flatten().tolist() for name, tensor in saved.items()}
