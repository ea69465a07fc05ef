"""Two ranks train as one that accumulates twice as much, stop and resume together, and end when one of them is lost."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from ftactors.core.events import CheckpointRef
from ftactors.core.work import CheckpointWritten, Failed, Published, Stopped, Work
from tests.trainers.attempts import ListSession, work_of
from tests.trainers.gang import run_gang
from trainers.dealing import DealtBatches
from trainers.ranks import ALONE, Ranks
from trainers.sft import SftTrainer

DEALT = {"num_train_epochs": 1.5, "evaluation_strategy": "steps", "eval_steps": 3}


def _lines(*attempts: Work) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for work in attempts
        for line in (Path(work.attempt_dir) / "metrics.jsonl").read_text().splitlines()
    ]


def _of_the_model(published: Published) -> dict[str, Any]:
    return {name: value for name, value in published.metrics.items() if name != "peak_mem_gib"}


@pytest.mark.parametrize(
    ("method", "batch_size", "accumulation"),
    [
        ("full", 6, 2),  # 16 batches: 4 steps an epoch
        ("lora", 9, 1),  # 11 batches, the last of 6 rows, and none for the second rank beside it
        ("qlora", 8, 1),
    ],
)
def test_two_ranks_have_the_losses_of_one_with_twice_the_accumulation(
    method: str, batch_size: int, accumulation: int, llama: Path, data: Path, tmp_path: Path
):
    options = {**DEALT, "method": method, "per_device_train_batch_size": batch_size, "warmup_ratio": 0.2}
    alone = work_of(tmp_path / "alone", llama, data, gradient_accumulation_steps=2 * accumulation, **options)
    options |= {"gradient_accumulation_steps": accumulation, "per_device_eval_batch_size": 7}
    together = work_of(tmp_path / "together", llama, data, **options)

    whole = SftTrainer(alone, ListSession()).run()
    first, other = run_gang(together, tmp_path)

    expected, found = _lines(alone), _lines(together)
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, same in zip(found, expected, strict=True):
        # Where the batches do not go all round, a step of two ranks is another part of an epoch.
        assert line.pop("epoch", 0) == pytest.approx(same.pop("epoch", 0), abs=0.1)
        assert line == pytest.approx(same, rel=1e-5)
    assert isinstance(whole, Published)
    assert isinstance(first.last, Published)
    assert _of_the_model(first.last) == pytest.approx(_of_the_model(whole), rel=1e-5)
    assert first.last.trained_tokens == whole.trained_tokens
    assert (other.code, other.last) == (0, Stopped(clean=True))


def test_ranks_that_were_stopped_and_resumed_have_the_losses_of_an_undisturbed_run(
    llama: Path, data: Path, tmp_path: Path
):
    options = {"params": {"lora_dropout": 0.25}, "save_strategy": "steps", "save_steps": 4, "num_train_epochs": 1.5}
    options |= {"evaluation_strategy": "steps", "eval_steps": 5}  # that of step 5 is owed when the order is obeyed
    undisturbed = work_of(tmp_path / "undisturbed", llama, data, **options)
    whole, _ = run_gang(undisturbed, tmp_path)

    first = work_of(tmp_path / "disturbed", llama, data, **options)
    stopped = run_gang(first, tmp_path, ("is-stopped", "works"))
    written = stopped[0].of(CheckpointWritten)
    last = written[-1]
    known = {
        "resume_from": CheckpointRef(stage="training", step=last.step, path=last.path, digest=last.digest),
        "checkpoints": tuple(word.path for word in written),
    }
    second = work_of(tmp_path / "disturbed", llama, data, attempt=2, work=known, **options)
    resumed, _ = run_gang(second, tmp_path)

    assert [rank.last for rank in stopped] == [Stopped(clean=True)] * 2
    assert [word.step for word in written] == [4, 5]
    assert stopped[1].of(CheckpointWritten) == []
    assert _lines(first, second) == [pytest.approx(line, abs=1e-6) for line in _lines(undisturbed)]
    assert isinstance(resumed.last, Published)
    assert isinstance(whole.last, Published)
    assert resumed.last.trained_tokens == whole.last.trained_tokens


def test_a_rank_that_is_killed_ends_the_others_which_name_it(llama: Path, data: Path, tmp_path: Path):
    work = work_of(tmp_path, llama, data, max_steps=1000, evaluation_strategy="steps", eval_steps=2)

    first, killed = run_gang(work, tmp_path, ("works", "is-killed"))

    assert killed.code == -signal.SIGKILL
    assert isinstance(first.last, Failed)
    assert (first.last.error_type, first.last.retryable, first.last.stage) == ("rank_lost", True, "training")
    assert first.last.message.startswith("rank 1 of 2 ended while rank 0 was at work: ")


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("rows", [1, 8, 22, 24, 25])
def test_every_row_is_dealt_once_and_in_the_steps_of_one_rank(rows: int, size: int):
    everything = range(rows)
    alone = list(DealtBatches(everything, 4, seed=3, ranks=ALONE))

    dealt = [DealtBatches(everything, 4, seed=3, ranks=Ranks(rank, size)) for rank in range(size)]

    rounds = list(zip(*dealt, strict=True))
    assert [batch for round_ in rounds for batch in round_ if batch] == alone
    assert sorted(row for batch in alone for row in batch) == list(everything)
    assert {len(batches) for batches in dealt} == {len(rounds)}
