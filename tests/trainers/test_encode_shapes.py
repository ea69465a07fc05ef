"""The shape of records, told from their columns."""

import pytest

from ftactors.core.config import DatasetSourceConfig
from ftactors.core.errors import DatasetError
from trainers.shapes import Messages, PromptCompletion, Text, detect


def detected(*columns: str, task_type="text-generation", **source):
    config = DatasetSourceConfig(source_type="file_path", path_or_id="rows.jsonl", **source)
    return detect(columns, config, task_type)


@pytest.mark.parametrize(
    ("columns", "shape"),
    [
        (["text"], Text("text")),
        (["id", "text", "label"], Text("text")),
        (["messages"], Messages("messages")),
        (["prompt", "prompt_id", "messages"], Messages("messages")),
        (["conversations", "id"], Messages("conversations")),
        (["prompt", "completion"], PromptCompletion("prompt", "completion")),
        (["question", "answer"], PromptCompletion("question", "answer")),
        (["instruction", "output"], PromptCompletion("instruction", "output")),
        (["instruction", "input", "output"], PromptCompletion("instruction", "output", ("input",))),
        (["instruction", "context", "response"], PromptCompletion("instruction", "response", ("context",))),
        (["document", "summary", "id"], PromptCompletion("document", "summary")),
        (["article", "highlights", "id"], PromptCompletion("article", "highlights")),
        (["input", "output"], PromptCompletion("input", "output")),
        (["input", "target"], PromptCompletion("input", "target")),
    ],
)
def test_usual_columns_tell_the_shape(columns, shape):
    assert detected(*columns) == shape


@pytest.mark.parametrize(
    ("task_type", "shape"),
    [
        ("chat", Messages("messages")),
        ("instruction", PromptCompletion("instruction", "output")),
        ("question-answering", PromptCompletion("instruction", "output")),
    ],
)
def test_the_task_narrows_what_the_columns_leave_open(task_type, shape):
    assert detected("instruction", "output", "text", "messages", task_type=task_type) == shape


def test_text_and_summary_are_a_pair_for_summarization():
    assert detected("text", "summary", task_type="summarization") == PromptCompletion("text", "summary")


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        ({"task_format_details": {"text_column": "b"}}, Text("b")),
        ({"task_format_details": {"messages_column": "b"}}, Messages("b")),
        ({"prompt_column": "b", "completion_column": "c"}, PromptCompletion("b", "c")),
        ({"task_format_details": {"prompt_column": "b", "completion_column": "c"}}, PromptCompletion("b", "c")),
        ({"completion_column": "answer"}, PromptCompletion("question", "answer")),
        ({"prompt_column": "question"}, PromptCompletion("question", "answer")),
    ],
)
def test_columns_that_are_named_win_over_usual_ones(source, shape):
    assert detected("text", "b", "c", "question", "answer", **source) == shape


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (["a", "b"], {}, r"no usual name of .* is among its columns; its columns are 'a', 'b'$"),
        (
            ["instruction", "output", "text"],
            {},
            r"could be text \(text\) or prompt_completion \(instruction, output\); ",
        ),
        (["text"], {"task_type": "chat"}, r"no usual name of messages is among its columns; its columns are 'text'$"),
        (
            ["text"],
            {"task_type": "chat", "task_format_details": {"text_column": "text"}},
            r"make it text, .* 'chat' wants",
        ),
        (["a", "txet"], {"task_format_details": {"text_column": "text"}}, r"no column 'text'; did you mean 'txet'\?"),
        (["a", "b"], {"prompt_column": "a"}, r"which column goes with 'a' cannot be told; its columns are 'a', 'b'$"),
        (
            ["a", "b"],
            {"task_format_details": {"text_column": "a", "messages_column": "b"}},
            r"could be text \(a\) or messages \(b\)",
        ),
    ],
)
def test_what_cannot_be_told_apart_is_an_error_that_shows_the_columns(columns, options, message):
    with pytest.raises(DatasetError, match=message):
        detected(*columns, **options)
