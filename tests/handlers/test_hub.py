"""`hf_dataset`: local folders, `save_to_disk` folders, and a hub that does not answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from ftactors.core.config import DatasetSourceConfig
from ftactors.core.errors import DatasetError
from handlers.hub import HubHandler

TRAIN = [{"text": f"row {number}", "messages": [{"role": "user", "content": "hi"}]} for number in range(10)]
TEST = [{"text": "held out", "messages": []}]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def handler(path, **source) -> HubHandler:
    return HubHandler(DatasetSourceConfig(source_type="hf_dataset", path_or_id=str(path), **source), seed=0)


def saved(path: Path) -> Path:
    DatasetDict({"train": Dataset.from_list(TRAIN), "test": Dataset.from_list(TEST)}).save_to_disk(str(path))
    return path


def write_jsonl(path: Path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def texts(of: HubHandler, split="train") -> list[str]:
    return [record.values["text"] for record in of.records(split)]


def test_a_saved_folder_is_read_with_its_splits_and_says_its_rows(tmp_path):
    source = handler(saved(tmp_path / "saved"), validation_split_name="test", format="arrow")

    assert [record.values for record in source.records("train")] == TRAIN
    assert texts(source, "validation") == ["held out"]
    assert (source.count("train"), source.columns("train")) == (10, ["text", "messages"])
    assert [record.where for record in source.records("validation")] == [f"{tmp_path}/saved[test] row 1"]


def test_a_saved_data_set_without_splits_is_train(tmp_path):
    Dataset.from_list(TRAIN).save_to_disk(str(tmp_path / "saved"))

    assert len(texts(handler(tmp_path / "saved"))) == 10


def test_a_local_folder_is_read_as_load_dataset_reads_it_with_its_configurations(tmp_path):
    write_jsonl(tmp_path / "sets" / "one" / "train.jsonl", [{"text": "of one"}])
    write_jsonl(tmp_path / "sets" / "two" / "train.jsonl", [{"text": "of two"}])
    (tmp_path / "sets" / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: one/*.jsonl\n"
        "- config_name: two\n  data_files: two/*.jsonl\n---\n"
    )

    assert texts(handler(tmp_path / "sets", task_format_details={"dataset_config_name": "two"})) == ["of two"]
    with pytest.raises(DatasetError, match=r"cannot be loaded: Config name is missing[^$]*'one', 'two'"):
        texts(handler(tmp_path / "sets"))


def test_slices_and_held_out_shares_are_cut_of_a_split(tmp_path):
    saved(tmp_path / "saved")
    source = handler(tmp_path / "saved", train_split_name="train[:50%]", validation_split_ratio=0.2)

    assert (source.count("train"), source.count("validation")) == (4, 1)
    assert sorted(texts(source) + texts(source, "validation")) == [f"row {number}" for number in range(5)]


def test_the_fingerprint_follows_the_content(tmp_path):
    saved(tmp_path / "saved")
    before = handler(tmp_path / "saved").fingerprint()
    Dataset.from_list(TEST).save_to_disk(str(tmp_path / "other"))

    assert handler(tmp_path / "saved").fingerprint() == before != handler(tmp_path / "other").fingerprint()


def test_a_missing_split_names_those_that_are_there(tmp_path):
    source = handler(saved(tmp_path / "saved"), validation_split_name="validation")

    with pytest.raises(DatasetError, match="has no split 'validation'; it has 'train', 'test'"):
        source.columns("validation")


def test_a_folder_without_data_is_an_error_that_names_it(tmp_path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(DatasetError, match=r"data set '.*empty' cannot be loaded: "):
        handler(tmp_path / "empty").columns("train")


@pytest.mark.parametrize("setting", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_that_does_not_answer_is_an_error_within_seconds_that_tells_the_way_out(tmp_path, setting):
    program = (
        "import time\n"
        "from ftactors.core.config import DatasetSourceConfig\n"
        "from handlers.hub import HubHandler\n"
        "source = DatasetSourceConfig(source_type='hf_dataset', path_or_id='nobody/nothing')\n"
        "begun = time.monotonic()\n"
        "try:\n"
        "    HubHandler(source, seed=0).columns('train')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, '|', error, '|', error.hint)\n"
        "print('seconds', time.monotonic() - begun)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), **setting}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    said, seconds = ended.stdout.splitlines()

    assert said.startswith("DatasetError | data set 'nobody/nothing' is not in the local cache")
    assert "local folder" in said
    assert float(seconds.split()[1]) < 10


def test_handlers_are_named_without_loading_datasets():
    program = "import sys, handlers; print('datasets' in sys.modules, handlers.HANDLERS['hf_dataset'])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ended.stdout.split() == ["False", "handlers.hub:HubHandler"]
