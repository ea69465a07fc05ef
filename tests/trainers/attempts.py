"""Attempts on tiny models, run in the test's own process: a list for a session, prepared data made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset as Rows
from datasets import DatasetDict
from transformers import AutoTokenizer

from ftactors.core.config import FineTuningJobConfig
from ftactors.core.events import Metrics, ModelRef
from ftactors.core.work import AnyWord, Dataset, Published, StopOrder, Work
from tests import tiny


class ListSession:
    """Keeps all words, and orders to stop when `stop_at` answers one of them with an order."""

    def __init__(self, stop_at: Callable[[AnyWord], StopOrder | None] = lambda _: None) -> None:
        self.words: list[AnyWord] = []
        self.order: StopOrder | None = None
        self._stop_at = stop_at

    @property
    def stop_order(self) -> StopOrder | None:
        return self.order

    def say(self, word: AnyWord) -> None:
        self.words.append(word)
        self.order = self.order or self._stop_at(word)

    def of(self, kind: type[Any], **having: Any) -> list[Any]:
        """Return the words of a kind with these values, in their order."""
        return [
            word
            for word in self.words
            if isinstance(word, kind) and all(getattr(word, name) == value for name, value in having.items())
        ]


def prepare(path: Path, model: Path, *, rows: int = 96, held_out: int = 30) -> Path:
    """Write prepared data as it is written for prompts and completions, and return `path`."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    splits = {"train": tiny.records(rows, seed=1)}
    if held_out:
        splits["validation"] = tiny.records(held_out, seed=2)
    DatasetDict(
        {
            split: Rows.from_list([_encoded(tokenizer, record) for record in records])
            for split, records in splits.items()
        }
    ).save_to_disk(path)
    return path


def _encoded(tokenizer: Any, record: Mapping[str, str]) -> dict[str, list[int]]:
    prompt = tokenizer(f"{record['prompt']}\n", add_special_tokens=False)["input_ids"]
    completion = tokenizer(f"{record['completion']}{tokenizer.eos_token}", add_special_tokens=False)["input_ids"]
    return {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def learned(published: Published) -> Metrics:
    """Return a job's metrics, but for the memory that this process has needed so far."""
    return {name: value for name, value in published.metrics.items() if name != "peak_mem_gib"}


def base_ref(path: Path) -> ModelRef:
    return ModelRef(model_id=path.name, path=str(path), source="directory")


def work_of(
    directory: Path,
    base: Path | ModelRef,
    data: Path,
    *,
    method: str = "lora",
    params: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    job: Mapping[str, Any] | None = None,
    attempt: int = 1,
    work: Mapping[str, Any] | None = None,
    **hyperparameters: Any,
) -> Work:
    """Return an attempt at a job that is small by default; `directory` is the job's."""
    attempt_dir = directory / "attempts" / str(attempt)
    attempt_dir.mkdir(parents=True)
    config = FineTuningJobConfig(
        job_name="a job",
        base_model_id="tiny",
        new_model_id="tuned",
        dataset_config={"source_type": "file_path", "path_or_id": "facts.jsonl", "validation_split_ratio": 0.1},
        fine_tuning_technique={"method": method, "params": dict(params) if params else None},
        hyperparameters={
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 16,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "evaluation_strategy": "no",
            "save_strategy": "no",
            **hyperparameters,
        },
        evaluation_config=dict(evaluation) if evaluation else None,
        **(job or {}),
    )
    return Work(
        job_id="job",
        attempt=attempt,
        purpose="train",
        job=config.model_dump(mode="json"),
        base=base if isinstance(base, ModelRef) else base_ref(base),
        trainer="trainers.sft:SftTrainer",
        handler="handlers.files:FileHandler",
        attempt_dir=str(attempt_dir),
        data_dir=str(directory / "data"),
        dataset=Dataset(path=str(data), fingerprint="f", shape="prompt_completion", counts={}),
        **(work or {}),
    )
