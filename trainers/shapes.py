"""The shapes of records: where in a row the text lies, told from its columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ftactors.core.config import DatasetSourceConfig, TaskType
from ftactors.core.errors import DatasetError
from ftactors.core.problems import close_names


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, all of it trained on."""

    name: ClassVar[str] = "text"
    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.column,)


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A prompt, and what to answer. Further columns, such as `input`, follow the prompt after an empty line."""

    name: ClassVar[str] = "prompt_completion"
    prompt: str
    completion: str
    further: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.prompt, *self.further, self.completion)


@dataclass(frozen=True, slots=True)
class Messages:
    """A conversation: a list of turns with `role` and `content`, as OpenAI's chat API has it."""

    name: ClassVar[str] = "messages"
    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.column,)


Shape = Text | PromptCompletion | Messages


class _Pair(NamedTuple):
    prompt: str
    completion: str
    further: tuple[str, ...] = ()


_TEXT = ("text", "content")
_MESSAGES = ("messages", "conversations", "conversation")
_PAIRS = (
    _Pair("prompt", "completion"),
    _Pair("prompt", "response"),
    _Pair("instruction", "output", ("input",)),
    _Pair("instruction", "response", ("context", "input")),
    _Pair("question", "answer", ("context",)),
    _Pair("query", "response"),
    _Pair("document", "summary"),
    _Pair("dialogue", "summary"),
    _Pair("article", "highlights"),
    _Pair("article", "summary"),
    _Pair("text", "summary"),
    _Pair("input", "output"),
    _Pair("input", "target"),
    _Pair("source", "target"),
)
_NAMES_OF_TASK: Mapping[TaskType | None, frozenset[str]] = {
    "chat": frozenset({Messages.name}),
    "instruction": frozenset({PromptCompletion.name}),
    "question-answering": frozenset({PromptCompletion.name}),
    "summarization": frozenset({PromptCompletion.name}),
    "translation": frozenset({PromptCompletion.name}),
}
_ANY = frozenset({Text.name, PromptCompletion.name, Messages.name})


def detect(columns: Sequence[str], source: DatasetSourceConfig, task_type: TaskType | None) -> Shape:
    """Return the shape of records with these columns: the one that the source names, else the only one that fits.

    Raises:
        DatasetError: a column that was named is not there, or no shape fits, or several do.
    """
    wanted = _NAMES_OF_TASK.get(task_type, _ANY)
    named = list(_named(columns, source))
    found = named or [shape for shape in _usual(columns) if shape.name in wanted]
    fitting = [shape for shape in found if shape.name in wanted]
    if len(fitting) == 1 and len(found) == 1:
        return fitting[0]
    if not found:
        what = f"no usual name of {' or '.join(sorted(wanted))} is among its columns"
    elif not fitting:
        what = f"the columns named make it {found[0].name}, but task_type {task_type!r} wants {' or '.join(wanted)}"
    else:
        what = f"it could be {' or '.join(_described(shape) for shape in found)}"
    raise DatasetError(
        f"{source.path_or_id}: the shape of its records cannot be told: {what}; its columns are {_listed(columns)}",
        hint="name the columns: task_format_details.text_column, or prompt_column and completion_column, "
        "or task_format_details.messages_column",
    )


def check_columns(shape: Shape, columns: Sequence[str], source: DatasetSourceConfig) -> None:
    """Return where a split has the columns that the shape reads.

    Raises:
        DatasetError: it has not; the message shows what it has.
    """
    missing = [column for column in shape.columns if column not in columns]
    if missing:
        raise DatasetError(
            f"{source.path_or_id}: the validation split has no column {_listed(missing)}, which the training split has;"
            f" its columns are {_listed(columns)}"
        )


def _named(columns: Sequence[str], source: DatasetSourceConfig) -> Iterable[Shape]:
    """Yield the shapes that the source's own column names make."""
    details = source.task_format_details
    prompt = source.prompt_column or details.prompt_column
    completion = source.completion_column or details.completion_column
    for column in (details.text_column, details.messages_column, prompt, completion):
        if column is not None and column not in columns:
            raise DatasetError(
                f"{source.path_or_id}: has no column {column!r}; {close_names(column, columns)};"
                f" its columns are {_listed(columns)}"
            )
    if details.text_column is not None:
        yield Text(details.text_column)
    if details.messages_column is not None:
        yield Messages(details.messages_column)
    if prompt is not None and completion is not None:
        yield PromptCompletion(prompt, completion)
    elif prompt is not None or completion is not None:
        yield _other_half(columns, source, prompt, completion)


def _other_half(
    columns: Sequence[str], source: DatasetSourceConfig, prompt: str | None, completion: str | None
) -> PromptCompletion:
    """Return the one usual pair that a single named column belongs to."""
    pairs = [
        pair for pair in _pairs(columns) if prompt in (None, pair.prompt) and completion in (None, pair.completion)
    ]
    if len(pairs) == 1:
        return pairs[0]
    field, column = ("completion_column", prompt) if prompt else ("prompt_column", completion)
    raise DatasetError(
        f"{source.path_or_id}: which column goes with {column!r} cannot be told; its columns are {_listed(columns)}",
        hint=f"name it: {field}",
    )


def _usual(columns: Sequence[str]) -> Iterable[Shape]:
    """Yield the shapes whose usual columns are there."""
    yield from (Text(column) for column in _TEXT if column in columns)
    yield from (Messages(column) for column in _MESSAGES if column in columns)
    pairs = _pairs(columns)
    further = {column for pair in pairs for column in pair.further}
    yield from (pair for pair in pairs if pair.prompt not in further)  # alpaca's `input` is no prompt of its own


def _pairs(columns: Sequence[str]) -> list[PromptCompletion]:
    return [
        PromptCompletion(pair.prompt, pair.completion, tuple(column for column in pair.further if column in columns))
        for pair in _PAIRS
        if pair.prompt in columns and pair.completion in columns
    ]


def _described(shape: Shape) -> str:
    return f"{shape.name} ({', '.join(shape.columns)})"


def _listed(columns: Iterable[Any]) -> str:
    return ", ".join(repr(column) for column in columns) or "none"
