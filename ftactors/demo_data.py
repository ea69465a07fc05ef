"""The demo's data: what the public functions and classes of the standard library do, by their own docstrings."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path

from ftactors.core.errors import DatasetError

HELD_OUT_ROWS = 24
_MOST_CHARACTERS = 360
"""Of an answer. With its question it has no more than 160 tokens of SmolLM2's then, but for a few that are left out."""
_FEWEST_WORDS = 8
_MODULES = (
    *("abc", "argparse", "base64", "bisect", "builtins", "calendar", "cmath", "collections", "contextlib"),
    *("copy", "csv", "dataclasses", "datetime", "difflib", "enum", "fnmatch", "fractions", "functools", "glob"),
    *("gzip", "hashlib", "heapq", "hmac", "html", "io", "itertools", "json", "logging", "math"),
    *("operator", "os", "os.path", "pathlib", "pprint", "queue", "random", "re", "secrets", "shutil"),
    *("statistics", "string", "struct", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "time"),
    *("types", "unicodedata", "urllib.parse", "uuid", "weakref", "zipfile", "zlib"),
)
"""Modules that do nothing but define things when they are imported, and in which other libraries replace nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """A question and its answer."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class DemoData:
    """The data set on disk: a directory with a file for each split."""

    directory: Path
    train_rows: int
    held_out_rows: int
    question: str
    """The held-out question with the shortest answer."""
    answer: str
    """What the docstring says."""


def write_demo_data(directory: Path, held_out_rows: int = HELD_OUT_ROWS) -> DemoData:
    """Write `train.jsonl` and `validation.jsonl` into a directory, and return what is in them.

    The same Python writes the same files. The held-out rows are the first ones in an order that has nothing to do with
    their text.

    Raises:
        DatasetError: this Python has no docstrings.
    """
    rows = docstring_rows()
    if len(rows) <= held_out_rows:
        raise DatasetError(
            f"the standard library has {len(rows)} docstrings here, too few to train on",
            hint="run Python without -OO, which strips docstrings",
        )
    train, held_out = rows[held_out_rows:], rows[:held_out_rows]
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "train.jsonl", train)
    _write(directory / "validation.jsonl", held_out)
    shown = min(held_out, key=lambda row: len(row.completion))
    return DemoData(directory, len(train), len(held_out), shown.prompt, shown.completion)


def docstring_rows(modules: Iterable[str] = _MODULES) -> list[Row]:
    """Return a row for each public function and class that says what it does, in an order by the hashes of prompts."""
    found: dict[str, Row] = {}
    for name, text in _docstrings(modules):
        answer = answer_of(text)
        if answer and answer not in found:  # what is said twice is known by its first name
            found[answer] = Row(f"What does `{name}` do?", answer)
    return sorted(found.values(), key=lambda row: blake2b(row.prompt.encode()).digest())


def answer_of(docstring: str) -> str:
    """Return the paragraphs of a docstring that say what a thing does, as many as fit; empty where there are none."""
    told: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        if not told and _is_signature(paragraph):
            continue
        sentence = " ".join(paragraph.split())
        if not _is_prose(paragraph) or len(" ".join([*told, sentence])) > _MOST_CHARACTERS:
            break
        told.append(sentence)
    answer = " ".join(told)
    return answer if len(answer.split()) >= _FEWEST_WORDS else ""


def _docstrings(modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the full names and the docstrings of what the modules define themselves and offer in public."""
    for module_name in modules:
        module = import_module(module_name)
        for name in sorted(getattr(module, "__all__", None) or vars(module)):
            value = getattr(module, name, None)
            is_public = not name.startswith("_") and (inspect.isroutine(value) or inspect.isclass(value))
            if is_public and isinstance(value.__doc__, str) and _is_of(value, module.__name__):
                yield f"{module_name}.{name}".removeprefix("builtins."), value.__doc__


def _is_of(value: object, module_name: str) -> bool:
    """Return whether a module defines a thing, itself or in its private half, such as `_bisect`."""
    of = getattr(value, "__module__", None)
    return not isinstance(of, str) or of.lstrip("_").partition(".")[0] == module_name.partition(".")[0]


def _is_signature(paragraph: str) -> bool:
    """Return whether a paragraph is a call such as `chain(*iterables) --> chain object`."""
    return bool(re.match(r"[\w.]+\([^\n]*\)(\s*(->|-->|=>)|\s*(\n|$))", paragraph))


def _is_prose(paragraph: str) -> bool:
    """Return whether a paragraph is neither an example nor a list, nor announces one."""
    is_indented = any(line.startswith(" ") for line in paragraph.splitlines())
    return not is_indented and ">>>" not in paragraph and not paragraph.endswith(":") and paragraph[0].isalpha()


def _write(path: Path, rows: Iterable[Row]) -> None:
    lines = (json.dumps(asdict(row), ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
