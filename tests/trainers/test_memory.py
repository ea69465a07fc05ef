"""An attempt keeps to its share, tells what it has held, and says what to change once that was too little."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftactors.core.errors import UnsupportedModelError
from ftactors.core.events import CheckpointRef
from ftactors.core.overrides import smaller_batch
from ftactors.core.work import CheckpointWritten, Progress, Published, StopOrder, Stopped, Work
from tests.trainers.attempts import ListSession, work_of
from trainers.memory import Held, ShareTooSmallError, ShortOfMemoryError, keep_to_share, shortage, shortage_told
from trainers.sft import SftTrainer

A100 = Held(of="NVIDIA A100", total=40.0, peak=14.2, reserved=15.5, free=3.0)
MACHINE = Held(of="this machine", total=16.0, peak=9.5)
ABSURD = 2**60
BATCHES = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 6, "gradient_accumulation_steps": 2}


@pytest.fixture
def attempt(tmp_path: Path) -> Callable[..., Work]:
    """Make an attempt with a share of a GPU, of which nothing but its memory is asked."""

    def make(thousandths: int = 400, **hyperparameters: Any) -> Work:
        share = {"uses_gpu": thousandths > 0, "gpu_thousandths": thousandths}
        return work_of(tmp_path, tmp_path, tmp_path, work=share, max_seq_length=512, **hyperparameters)

    return make


def told_in(work: Work, stage: Any, found: Held = A100, asked: float | None = 2.0) -> ShortOfMemoryError:
    return shortage(work, stage, found, asked)


def test_a_shortage_in_training_tells_peak_share_device_batch_and_length_and_what_to_change(attempt):
    error = told_in(attempt(gradient_accumulation_steps=2, gradient_checkpointing=False), "training")

    assert (error.error_type, error.retryable) == ("out_of_memory", True)
    assert error.message == (
        "out of memory in training with 8 rows at a time of up to 512 tokens: the process has held 14.20 GiB at most "
        "and asked for 2.00 GiB more; its share, 0.4 of NVIDIA A100, is 16.00 GiB of 40.00, of which 3.00 GiB are free"
    )
    assert error.hint == (
        "lower per_device_train_batch_size=8 and raise gradient_accumulation_steps=2 as much, "
        "lower per_device_eval_batch_size=16, turn gradient_checkpointing on, lower max_seq_length=512, "
        "or ask for a larger share than resources.num_gpus=0.4"
    )


def test_what_cannot_be_lowered_or_is_on_already_is_not_hinted_at(attempt):
    hint = told_in(attempt(per_device_train_batch_size=1, per_device_eval_batch_size=1), "training").hint

    assert hint == "lower max_seq_length=512, or ask for a larger share than resources.num_gpus=0.4"


def test_an_evaluation_tells_its_own_batch(attempt):
    assert "in evaluating with 16 rows at a time of up to 512 tokens:" in told_in(attempt(), "evaluating").message


def test_the_batch_that_is_told_is_that_of_the_attempt(attempt):
    work = attempt().model_copy(update={"overrides": {"per_device_train_batch_size": 4}})

    assert "with 4 rows at a time" in told_in(work, "training").message


@pytest.mark.parametrize("stage", ["loading", "publishing"])
def test_a_share_that_no_batch_can_make_enough_is_not_tried_again(attempt, stage):
    error = told_in(attempt(), stage)

    assert isinstance(error, ShareTooSmallError)
    assert error.retryable is False
    assert (error.hint or "").endswith("ask for a larger share than resources.num_gpus=0.4")


@pytest.mark.parametrize(("thousandths", "found"), [(1000, A100), (400, MACHINE), (0, MACHINE)])
def test_without_a_cap_another_attempt_may_find_more(attempt, thousandths, found):
    error = told_in(attempt(thousandths), "loading", found)

    assert error.retryable
    assert "share" not in error.message + (error.hint or "")


def test_a_share_that_was_not_full_is_told_as_the_fault_of_others(attempt):
    error = told_in(attempt(), "loading", asked=0.25)

    assert error.retryable
    assert (error.hint or "").startswith("the share was not full, so others use more of the device than theirs; else ")


def test_on_a_cpu_the_machine_is_told(attempt):
    error = told_in(attempt(0), "training", MACHINE, asked=None)

    assert error.message.endswith("the process has held 9.50 GiB at most; this machine has 16.00 GiB")
    assert (error.hint or "").endswith("or ask for a node with more memory (resources.memory_gib)")


class ShortTrainer(SftTrainer):
    """Asks for more memory than there is, at a method that its job's metadata names."""

    def _prepare(self, *arguments: Any) -> Any:
        self._ask("_prepare")
        return super()._prepare(*arguments)

    def _publish(self, *arguments: Any) -> Published:
        published = super()._publish(*arguments)
        self._ask("_publish")
        return published

    def _ask(self, method: str) -> None:
        if self.work.config.metadata["short"] == method:
            torch.empty(ABSURD, dtype=torch.uint8)


@pytest.mark.parametrize(("method", "stage"), [("_prepare", "baseline"), ("_publish", "publishing")])
def test_what_torchs_own_allocator_refuses_ends_the_attempt_with_all_that_is_known(
    method: str, stage: str, llama: Path, data: Path, tmp_path: Path
):
    work = work_of(tmp_path, llama, data, job={"metadata": {"short": method}}, max_steps=1)

    with pytest.raises(ShortOfMemoryError) as raised:
        ShortTrainer(work, ListSession()).run()

    assert raised.value.message.startswith(f"out of memory in {stage}")
    assert f"asked for {ABSURD / 2**30:.2f} GiB more; this machine has " in raised.value.message
    assert raised.value.retryable


def test_memory_that_runs_out_while_a_model_is_loaded_is_no_fault_of_the_model(attempt):
    def load() -> None:
        try:
            torch.empty(ABSURD, dtype=torch.uint8)
        except RuntimeError as error:
            raise UnsupportedModelError("the base model cannot be loaded") from error

    with (
        pytest.raises(ShortOfMemoryError, match="out of memory in loading"),
        shortage_told(attempt(), lambda: "loading"),
    ):
        load()


@pytest.mark.parametrize("error", [RuntimeError("shapes"), UnsupportedModelError("no"), OSError("gone")])
def test_other_errors_pass_as_they_are(attempt, error):
    with pytest.raises(type(error)) as raised, shortage_told(attempt(), lambda: "loading"):
        raise error

    assert raised.value is error


@pytest.mark.parametrize(
    ("thousandths", "before", "after"),
    [(400, 1.0, 0.4), (400, 0.3, 0.3), (1000, 1.0, 1.0), (1000, 0.3, 0.3), (0, 1, 1)],
)
def test_a_share_is_a_cap_unless_there_is_a_lower_one(monkeypatch, thousandths, before, after):
    allocator = {0: before}
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", allocator.__getitem__)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: allocator.update({device: share})
    )

    keep_to_share(thousandths)

    assert allocator == {0: after}


def test_the_peak_is_in_every_progress_and_in_the_metrics_of_the_job(llama: Path, data: Path, tmp_path: Path):
    session = ListSession()

    published = SftTrainer(work_of(tmp_path, llama, data, max_steps=2), session).run()

    assert isinstance(published, Published)
    told = [word.peak_mem_gib for word in session.of(Progress)]
    assert told == sorted(told)
    assert 0.05 < told[0] <= told[-1] <= published.metrics["peak_mem_gib"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_attempt_with_smaller_batches_has_the_losses_of_an_undisturbed_one(
    method: str, llama: Path, data: Path, tmp_path: Path
):
    options = {**BATCHES, "method": method, "num_train_epochs": 2.5, "evaluation_strategy": "epoch"}
    whole = work_of(tmp_path / "whole", llama, data, **options)
    smaller = work_of(tmp_path / "smaller", llama, data, work={"overrides": smaller_batch(BATCHES)}, **options)

    published = [SftTrainer(work, ListSession()).run() for work in (whole, smaller)]

    assert smaller.config.hyperparameters.per_device_train_batch_size == 4
    lines, again = lines_of(whole), lines_of(smaller)
    assert len(lines) == len(again) == 15 + 3  # 96 rows are 6 steps of 16
    assert all(after == pytest.approx(before, abs=1e-4) for before, after in zip(lines, again, strict=True))
    assert published[1].trained_tokens == published[0].trained_tokens


def test_an_attempt_with_smaller_batches_goes_on_where_larger_ones_stopped_within_an_epoch(
    llama: Path, data: Path, tmp_path: Path
):
    options = {**BATCHES, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4}
    whole = work_of(tmp_path / "whole", llama, data, **options)
    SftTrainer(whole, ListSession()).run()
    session = ListSession(lambda word: StopOrder(grace_s=30) if isinstance(word, CheckpointWritten) else None)
    first = work_of(tmp_path / "job", llama, data, **options)
    assert SftTrainer(first, session).run() == Stopped(clean=True)
    last = session.of(CheckpointWritten)[-1]

    known = {
        "resume_from": CheckpointRef(stage="training", step=last.step, path=last.path, digest=last.digest),
        "checkpoints": (last.path,),
        "overrides": smaller_batch(BATCHES),
    }
    second = work_of(tmp_path / "job", llama, data, attempt=2, work=known, **options)
    SftTrainer(second, ListSession()).run()

    lines, again = lines_of(whole), [*lines_of(first), *lines_of(second)]
    assert (last.step, len(lines_of(second))) == (5, 7)
    assert len(lines) == len(again) == 12
    assert all(after == pytest.approx(before, abs=1e-4) for before, after in zip(lines, again, strict=True))


def lines_of(work: Work) -> list[dict[str, float]]:
    """Return what an attempt wrote down at each of its steps and evaluations."""
    return [json.loads(line) for line in (Path(work.attempt_dir) / "metrics.jsonl").read_text().splitlines()]
