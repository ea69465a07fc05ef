"""The demo's data: real docstrings, the same at each call, with a part that is held out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftactors.core.errors import DatasetError
from ftactors.demo_data import HELD_OUT_ROWS, answer_of, docstring_rows, write_demo_data


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_data(tmp_path_factory.mktemp("demo")).directory


def test_there_are_some_hundred_rows_and_24_are_held_out(directory):
    train, held_out = rows_of(directory / "train.jsonl"), rows_of(directory / "validation.jsonl")

    assert 300 <= len(train) <= 1000
    assert len(held_out) == HELD_OUT_ROWS == 24


def test_no_question_and_no_answer_is_there_twice_so_that_what_is_held_out_is_unknown(directory):
    rows = [*rows_of(directory / "train.jsonl"), *rows_of(directory / "validation.jsonl")]

    assert len({row["prompt"] for row in rows}) == len(rows)
    assert len({row["completion"] for row in rows}) == len(rows)


def test_every_process_of_this_python_writes_the_same_bytes(tmp_path):
    program = "import sys, pathlib, ftactors.demo_data as d\nd.write_demo_data(pathlib.Path(sys.argv[1]))"
    for hash_seed in ("1", "2"):  # in processes of their own: a test run has libraries that change the standard one
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", program, str(tmp_path / hash_seed)]
        subprocess.run(command, env=environment, check=True, timeout=60)

    for name in ("train.jsonl", "validation.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_the_question_is_a_held_out_one_with_its_answer(tmp_path):
    data = write_demo_data(tmp_path)

    assert {"prompt": data.question, "completion": data.answer} in rows_of(tmp_path / "validation.jsonl")
    assert (data.train_rows, data.held_out_rows) == (len(rows_of(tmp_path / "train.jsonl")), 24)


def test_a_question_asks_what_a_thing_does_and_its_docstring_is_the_answer():
    rows = {row.prompt: row.completion for row in docstring_rows()}

    assert rows["What does `itertools.chain` do?"].startswith("Return a chain object whose .__next__() method returns")
    assert rows["What does `math.tan` do?"] == "Return the tangent of x (measured in radians)."
    assert not any("`_" in prompt or "._" in prompt for prompt in rows)


def test_rows_are_short_enough_for_the_demos_tokens():
    assert max(len(row.completion) for row in docstring_rows()) <= 360


def test_an_answer_leaves_out_signatures_examples_and_what_does_not_fit():
    docstring = """split(text, sep=None) -> list of words

    Return the words of a text,
    in their order and without what is between them.

    >>> split("a b")
    ['a', 'b']
    """

    assert answer_of(docstring) == "Return the words of a text, in their order and without what is between them."
    assert (
        answer_of("Return the words of a text, as they are.\n\n" + "More. " * 90)
        == "Return the words of a text, as they are."
    )
    assert answer_of("Too short.") == ""


def test_a_python_without_docstrings_is_told_what_is_the_matter(tmp_path):
    with pytest.raises(DatasetError, match="too few to train on"):
        write_demo_data(tmp_path, held_out_rows=100_000)
