"""Preparation: from a handler's records to tokens and labels on disk, on a CPU, before any GPU is held."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import pyarrow as pa
from datasets import Dataset, DatasetDict, load_from_disk

from ftactors.core.config import FineTuningJobConfig
from ftactors.core.errors import DatasetError, DatasetLostError
from ftactors.core.session import Session
from ftactors.core.work import Prepared, Work
from trainers.counts import Counts
from trainers.durable import commit
from trainers.encoding import Encoding
from trainers.reporting import Reporter
from trainers.rows import Row
from trainers.shapes import Shape, check_columns, detect
from trainers.tokenizer import digest_of_tokenizer, load_tokenizer, pinned

if TYPE_CHECKING:
    from handlers import BaseDatasetHandler, Record, Split

VERSION = 1
"""Raised when the same records become other tokens."""

_ROWS_AT_ONCE = 1000
_TOKENS_AT_ONCE = 1 << 20
_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})


def prepare(work: Work, handler: BaseDatasetHandler, session: Session) -> Prepared:
    """Write the job's data as `datasets` with the columns `input_ids` and `labels`, and return the last word.

    Raises:
        DatasetError: the source cannot be read, its shape cannot be told, or it has too little to train on.
        UnsupportedModelError: the base model's tokenizer cannot encode it.
        Stop: there was an order to stop; nothing is left behind.
    """
    splits: list[Split] = ["train", "validation"] if work.config.dataset_config.has_validation else ["train"]
    base = pinned(work.base)
    encoding = Encoding.of(work.config, load_tokenizer(base), _shape(work.config, handler, splits))
    reporter = Reporter(session, ["preparing"], Path(work.attempt_dir))
    sizes = [handler.count(split) for split in splits]
    reporter.begin("preparing", total_steps=None if None in sizes else sum(size for size in sizes if size is not None))
    reporter.check_stop()
    path, counts = _write(work, handler, splits, encoding, reporter)
    reporter.end()
    return Prepared(
        path=str(path),
        fingerprint=_fingerprint(work.config, handler, encoding),
        shape=encoding.shape.name,
        counts={name: count for of_split in counts for name, count in of_split.as_facts().items()},
        base_revision=base.revision,
        warnings=tuple(warning for of_split in counts for warning in of_split.warnings()),
    )


def load_prepared(path: Path) -> DatasetDict:
    """Return prepared data, mapped into memory: the split `train`, and `validation` where the job has one.

    Raises:
        DatasetLostError: it is gone or damaged.
    """
    try:
        loaded = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DatasetLostError(f"the prepared data in {path} cannot be read: {error}") from error
    if not isinstance(loaded, DatasetDict) or "train" not in loaded:
        raise DatasetLostError(f"the prepared data in {path} has no split 'train'")
    return loaded


def _shape(config: FineTuningJobConfig, handler: BaseDatasetHandler, splits: Iterable[Split]) -> Shape:
    """Return the shape of the records, the same in all splits."""
    source = config.dataset_config
    columns = {split: handler.columns(split) for split in splits}
    for split, names in columns.items():
        if not names:
            raise DatasetError(f"{source.path_or_id}: the {split} split is empty")
    shape = detect(columns["train"], source, config.task_type)
    check_columns(shape, columns.get("validation", columns["train"]), source)
    return shape


def _write(
    work: Work, handler: BaseDatasetHandler, splits: Sequence[Split], encoding: Encoding, reporter: Reporter
) -> tuple[Path, list[Counts]]:
    """Write all splits to a directory of the attempt's own, which appears complete or not at all."""
    source = work.config.dataset_config
    final = Path(work.data_dir) / f"attempt-{work.attempt}"
    staging = final.with_name(f".{final.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    counts: list[Counts] = []

    def after_batch() -> None:
        reporter.check_stop()
        reporter.progress(sum(of_split.records for of_split in counts))

    try:
        for split in splits:
            counts.append(Counts(split))
            _encode(handler.records(split), encoding, counts[-1], staging / f"{split}.arrow", after_batch)
            counts[-1].check(source.path_or_id, source.max_dropped_ratio)
        _save(staging, splits)
        commit(staging / "data", final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return final, counts


def _encode(
    records: Iterable[Record], encoding: Encoding, counts: Counts, path: Path, after_batch: Callable[[], None]
) -> None:
    """Write a split's rows to an Arrow file, some megabytes at once."""
    waiting: list[Row] = []
    tokens = 0
    with path.open("wb") as sink, pa.ipc.new_stream(sink, _SCHEMA) as stream:
        for row in encoding.rows(records, counts, after_batch):
            counts.add(row)
            waiting.append(row)
            tokens += len(row.input_ids)
            if len(waiting) == _ROWS_AT_ONCE or tokens >= _TOKENS_AT_ONCE:
                stream.write_table(_table(waiting))
                waiting, tokens = [], 0
        stream.write_table(_table(waiting))


def _table(rows: list[Row]) -> pa.Table:
    columns = {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    return pa.Table.from_pydict(columns, schema=_SCHEMA)


def _save(staging: Path, splits: Iterable[Split]) -> None:
    """Write the rows of all splits to `data`, as `load_from_disk` reads them."""
    datasets.disable_progress_bars()  # they are for a person's terminal, and this goes to a log
    rows = DatasetDict({split: Dataset.from_file(str(staging / f"{split}.arrow")) for split in splits})
    rows.save_to_disk(str(staging / "data"))


def _fingerprint(config: FineTuningJobConfig, handler: BaseDatasetHandler, encoding: Encoding) -> str:
    """Return a digest of all that decides what was written: the source, the tokenizer, the settings."""
    parts = {
        "version": VERSION,
        "source": handler.fingerprint(),
        "dataset_config": config.dataset_config.model_dump(mode="json"),
        "tokenizer": digest_of_tokenizer(encoding.tokenizer),
        "shape": [encoding.shape.name, *encoding.shape.columns],
        "limit": encoding.limit,
        "overflow": encoding.overflow,
        "seed": config.seed,
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
