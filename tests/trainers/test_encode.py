"""Preparation from end to end: what is written, counted, said, refused."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest

from ftactors.core.config import DatasetSourceConfig, FineTuningJobConfig, FineTuningTechniqueConfig
from ftactors.core.errors import DatasetError, DatasetLostError, UnsupportedModelError
from ftactors.core.events import ModelRef
from ftactors.core.session import Stop
from ftactors.core.work import AnyWord, Prepared, Progress, StageBegun, StopOrder, Work
from handlers.files import FilesHandler
from tests.tiny import make_tokenizer, records
from trainers.encode import load_prepared, prepare


class ListSession:
    """A session that keeps what is said, and gives an order to stop once so many words were said."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.words: list[AnyWord] = []
        self._stop_after = stop_after

    def say(self, word: AnyWord) -> None:
        self.words.append(word)

    @property
    def stop_order(self) -> StopOrder | None:
        is_due = self._stop_after is not None and len(self.words) >= self._stop_after
        return StopOrder(grace_s=1.0) if is_due else None


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> ModelRef:
    return saved_tokenizer(tmp_path_factory.mktemp("base"), chat_template=True)


@pytest.fixture(scope="module")
def plain_base(tmp_path_factory) -> ModelRef:
    return saved_tokenizer(tmp_path_factory.mktemp("plain"), chat_template=False)


def saved_tokenizer(path: Path, *, chat_template: bool) -> ModelRef:
    make_tokenizer(chat_template=chat_template).save_pretrained(path)
    return ModelRef(model_id="tiny", path=str(path), source="directory")


def written(path: Path, rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def work_for(tmp_path: Path, base: ModelRef, path: Path, *, limit=64, attempt=1, task_type="text-generation", **source):
    config = FineTuningJobConfig(
        job_name="a job",
        base_model_id="tiny",
        new_model_id="tuned",
        task_type=task_type,
        dataset_config=DatasetSourceConfig(source_type="file_path", path_or_id=str(path), **source),
        fine_tuning_technique=FineTuningTechniqueConfig(method="full"),
        hyperparameters={"max_seq_length": limit},
    )
    return Work(
        job_id="j1",
        attempt=attempt,
        purpose="prepare",
        job=config.model_dump(mode="json"),
        base=base,
        trainer="trainers.sft:SftTrainer",
        handler="handlers.files:FilesHandler",
        attempt_dir=str(tmp_path / "job" / "attempts" / str(attempt)),
        data_dir=str(tmp_path / "job" / "data"),
    )


def prepared(work: Work, session: ListSession | None = None) -> Prepared:
    handler = FilesHandler(work.config.dataset_config, seed=work.config.seed)
    return prepare(work, handler, session or ListSession())


def test_prepared_data_has_its_splits_with_tokens_and_labels_alone(tmp_path, base):
    written(tmp_path / "data" / "train.jsonl", records(20))
    written(tmp_path / "data" / "test.jsonl", records(5, seed=1))
    word = prepared(work_for(tmp_path, base, tmp_path / "data", validation_split_name="test"))
    rows = load_prepared(Path(word.path))

    assert {split: (of.num_rows, of.column_names) for split, of in rows.items()} == {
        "train": (20, ["input_ids", "labels"]),
        "validation": (5, ["input_ids", "labels"]),
    }
    assert word.shape == "prompt_completion"


def test_counts_are_those_of_what_was_written(tmp_path, base):
    path = written(tmp_path / "rows.jsonl", records(20))
    word = prepared(work_for(tmp_path, base, path, validation_split_ratio=0.25))
    rows = load_prepared(Path(word.path))

    assert word.counts == {
        f"{split}_{name}": count
        for split, of in rows.items()
        for name, count in {
            "rows": of.num_rows,
            "tokens": sum(len(ids) for ids in of["input_ids"]),
            "trained_tokens": sum(label != -100 for labels in of["labels"] for label in labels),
            "dropped": 0,
            "blank": 0,
        }.items()
    }
    assert (word.counts["train_rows"], word.counts["validation_rows"]) == (15, 5)
    assert 0 < word.counts["train_trained_tokens"] < word.counts["train_tokens"]


def test_an_attempt_writes_a_directory_of_its_own_and_leaves_nothing_else(tmp_path, base):
    path = written(tmp_path / "rows.jsonl", records(5))
    first, second = (prepared(work_for(tmp_path, base, path, attempt=attempt)) for attempt in (1, 2))

    assert sorted(entry.name for entry in (tmp_path / "job" / "data").iterdir()) == ["attempt-1", "attempt-2"]
    assert (Path(first.path).name, Path(second.path).name) == ("attempt-1", "attempt-2")
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("change", ["data", "settings", "tokenizer"])
def test_the_fingerprint_follows_data_settings_and_tokenizer(tmp_path, base, plain_base, change):
    path = written(tmp_path / "rows.jsonl", records(5))
    before = prepared(work_for(tmp_path, base, path)).fingerprint
    if change == "data":
        written(path, records(6))
    after = prepared(
        work_for(
            tmp_path,
            plain_base if change == "tokenizer" else base,
            path,
            attempt=2,
            limit=65 if change == "settings" else 64,
        )
    ).fingerprint

    assert after != before


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(tmp_path, base):
    (tmp_path / "adapter").mkdir()
    adapter = ModelRef(model_id="a", path=str(tmp_path / "adapter"), source="registered", kind="adapter", base=base)
    path = written(tmp_path / "rows.jsonl", records(5))

    assert prepared(work_for(tmp_path, adapter, path)).counts["train_rows"] == 5


def test_a_base_without_a_tokenizer_is_refused_by_name(tmp_path):
    (tmp_path / "bare").mkdir()
    bare = ModelRef(model_id="bare", path=str(tmp_path / "bare"), source="directory")
    path = written(tmp_path / "rows.jsonl", records(5))

    with pytest.raises(UnsupportedModelError, match="'bare'"):
        prepared(work_for(tmp_path, bare, path))


def test_the_stage_begins_with_the_rows_that_are_known_and_ends_with_all_of_them(tmp_path, base):
    path = written(tmp_path / "rows.jsonl", records(20))
    session = ListSession()
    prepared(work_for(tmp_path, base, path, validation_split_ratio=0.25), session)

    begun, *progress = session.words
    assert begun == StageBegun(stage="preparing", index=1, of=1, total_steps=20)
    assert [(word.stage, word.step) for word in progress if isinstance(word, Progress)] == [("preparing", 20)]


def test_rows_that_are_not_counted_beforehand_are_counted_at_the_end(tmp_path, base):
    path = written(tmp_path / "rows.jsonl", records(1500))
    session = ListSession()
    prepared(work_for(tmp_path, base, path), session)

    assert session.words[0] == StageBegun(stage="preparing", index=1, of=1, total_steps=None)
    assert isinstance(session.words[-1], Progress)
    assert session.words[-1].step == 1500


@pytest.mark.parametrize("words", [0, 1])
def test_an_order_to_stop_ends_the_work_and_leaves_nothing_behind(tmp_path, base, words):
    path = written(tmp_path / "rows.jsonl", records(20))

    with pytest.raises(Stop):
        prepared(work_for(tmp_path, base, path), ListSession(stop_after=words))
    assert not [*tmp_path.glob("job/data/*"), *tmp_path.glob("job/data/.*")]


def test_rows_that_are_too_long_are_dropped_counted_and_told(tmp_path, base):
    long = {"prompt": "what ?", "completion": "the fox " * 50}
    path = written(tmp_path / "rows.jsonl", [records(1)[0], long, *records(4), long])
    word = prepared(work_for(tmp_path, base, path))

    assert (word.counts["train_rows"], word.counts["train_dropped"]) == (5, 2)
    assert word.warnings == (
        "train: 2 of 7 rows were dropped: 2 × is longer than 64 tokens (rows.jsonl:2, rows.jsonl:7)",
    )


def test_rows_that_are_too_long_are_cut_where_truncate_is_asked_for(tmp_path, base):
    path = written(tmp_path / "rows.jsonl", [*records(4), {"prompt": "what ?", "completion": "the fox " * 50}])
    word = prepared(work_for(tmp_path, base, path, overflow="truncate"))

    assert max(map(len, load_prepared(Path(word.path))["train"]["input_ids"])) == 64
    assert (word.counts["train_rows"], word.counts["train_dropped"]) == (5, 0)
    assert word.warnings == ("train: 1 of 5 rows were truncated",)


def test_rows_that_are_too_long_become_several_where_split_is_asked_for(tmp_path, base):
    path = written(tmp_path / "rows.jsonl", [{"prompt": "what ?", "completion": "the fox " * 50}])
    whole = prepared(work_for(tmp_path, base, path, limit=1024))
    parts = prepared(work_for(tmp_path, base, path, overflow="split", attempt=2))
    (ids,) = load_prepared(Path(whole.path))["train"]["input_ids"]

    assert [*chain.from_iterable(load_prepared(Path(parts.path))["train"]["input_ids"])] == ids
    assert parts.counts["train_rows"] == -(-len(ids) // 64)


def test_a_prompt_that_fills_the_row_leaves_nothing_to_train_on_and_is_dropped(tmp_path, base):
    path = written(tmp_path / "rows.jsonl", [*records(4), {"prompt": "the fox " * 50, "completion": "yes"}])
    word = prepared(work_for(tmp_path, base, path, overflow="truncate"))

    assert (word.counts["train_rows"], word.counts["train_dropped"]) == (4, 1)
    assert "1 × has no token to train on within 64 tokens (rows.jsonl:5)" in word.warnings[0]


def test_more_dropped_rows_than_allowed_are_an_error_with_the_first_bad_rows(tmp_path, base):
    bad = [{"prompt": "what ?", "completion": None}, {"prompt": "what ?"}, {"prompt": "what ?", "completion": 7}]
    path = written(tmp_path / "rows.jsonl", [records(1)[0], *bad])

    with pytest.raises(DatasetError) as caught:
        prepared(work_for(tmp_path, base, path))
    assert str(caught.value) == (
        f"{path}: 3 of 4 rows of the train split cannot be used, more than max_dropped_ratio=0.5 allows:"
        " 2 × has nothing in 'completion' (rows.jsonl:2, rows.jsonl:3);"
        " 1 × has a int in 'completion', where text is needed (rows.jsonl:4)"
    )
    assert not [*tmp_path.glob("job/data/*"), *tmp_path.glob("job/data/.*")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the train split is empty"),
        ([{"text": " \n"}, {"text": ""}], "the train split is empty: all its 2 rows are blank"),
        ([{"prompt": "what ?", "completion": " "}], "cannot be used, more than max_dropped_ratio=0.5 allows"),
    ],
)
def test_data_with_nothing_in_it_is_an_error(tmp_path, base, rows, message):
    path = written(tmp_path / "rows.jsonl", rows)

    with pytest.raises(DatasetError, match=message):
        prepared(work_for(tmp_path, base, path))


def test_data_with_nothing_left_of_it_is_an_error_even_where_all_may_be_dropped(tmp_path, base):
    path = written(tmp_path / "rows.jsonl", [{"prompt": "what ?", "completion": " "}])

    with pytest.raises(DatasetError, match=r"has no token to train on: 1 × has nothing in 'completion'"):
        prepared(work_for(tmp_path, base, path, max_dropped_ratio=1))


def test_an_empty_validation_split_is_an_error(tmp_path, base):
    written(tmp_path / "data" / "train.jsonl", records(3))
    written(tmp_path / "data" / "validation.jsonl", [])

    with pytest.raises(DatasetError, match="the validation split is empty"):
        prepared(work_for(tmp_path, base, tmp_path / "data", validation_split_name="validation"))


def test_a_validation_split_of_other_columns_is_an_error(tmp_path, base):
    written(tmp_path / "data" / "train.jsonl", records(3))
    written(tmp_path / "data" / "validation.jsonl", [{"prompt": "what ?", "answer": "this"}])

    with pytest.raises(DatasetError, match=r"has no column 'completion'.*its columns are 'prompt', 'answer'"):
        prepared(work_for(tmp_path, base, tmp_path / "data", validation_split_name="validation"))


def test_a_broken_line_is_an_error_and_leaves_nothing_behind(tmp_path, base):
    path = written(tmp_path / "rows.jsonl", records(150))
    with path.open("a") as file:
        file.write("{broken\n")

    with pytest.raises(DatasetError, match=r"rows\.jsonl:151: is not JSON"):
        prepared(work_for(tmp_path, base, path))
    assert not [*tmp_path.glob("job/data/*"), *tmp_path.glob("job/data/.*")]


@pytest.mark.parametrize("damage", ["gone", "half", "empty"])
def test_prepared_data_that_is_gone_or_damaged_is_lost(tmp_path, base, damage):
    path = Path(prepared(work_for(tmp_path, base, written(tmp_path / "rows.jsonl", records(50)))).path)
    (arrow,) = path.glob("train/*.arrow")
    match damage:
        case "gone":
            path.rename(tmp_path / "elsewhere")
        case "half":
            arrow.write_bytes(arrow.read_bytes()[:2000])
        case "empty":
            (path / "train" / "state.json").write_text("")

    with pytest.raises(DatasetLostError, match="attempt-1 cannot be read"):
        load_prepared(path)
