"""From rendered records to rows of tokens and labels that fit the model."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from transformers import PreTrainedTokenizerBase

from trainers.chat import Rendered
from trainers.readings import UnusableError

NOT_TRAINED = -100
"""The label that PyTorch's cross entropy leaves out."""

Overflow = Literal["drop", "truncate", "split"]
Place = tuple[int, int]
"""From which character to which; the second is no longer part of it."""


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens, and for each the token itself where it is trained on, else `NOT_TRAINED`.

    The first is never trained on: nothing comes before it from which it could be predicted.
    """

    input_ids: list[int]
    labels: list[int]

    @property
    def trained_tokens(self) -> int:
        """How many tokens are trained on."""
        return len(self.labels) - self.labels.count(NOT_TRAINED)


def tokenize(tokenizer: PreTrainedTokenizerBase, batch: Sequence[Rendered], leading: Sequence[int]) -> Iterator[Row]:
    """Yield a row for each text, with `leading` tokens before it.

    A token is trained on where all of its characters are. None joins the end of what is asked to the start of an
    answer, for the model will be asked without it.
    """
    if not batch:
        return
    masked = any(rendered.trained is not None for rendered in batch)
    encoded = tokenizer(
        [rendered.text for rendered in batch],
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=masked,
        verbose=False,  # the row's length is our own affair
    )
    offsets = encoded["offset_mapping"] if masked else [()] * len(batch)
    for rendered, whole, places in zip(batch, encoded["input_ids"], offsets, strict=True):
        if rendered.trained is None:
            tokens, labels = whole, whole
        elif _joins(places, rendered.trained):
            tokens, labels = _in_pieces(tokenizer, rendered.text, rendered.trained)
        else:
            tokens, labels = whole, _labels(whole, places, rendered.trained)
        yield _row([*leading, *tokens], [*[NOT_TRAINED] * len(leading), *labels])


def fit(row: Row, limit: int, overflow: Overflow) -> list[Row]:
    """Return what becomes of a row in rows of at most `limit` tokens, each with something to train on.

    Raises:
        UnusableError: nothing does.
    """
    rows = [row]
    if len(row.input_ids) > limit:
        match overflow:
            case "drop":
                raise UnusableError(f"is longer than {limit} tokens")
            case "truncate":
                rows = [_row(row.input_ids[:limit], row.labels[:limit])]
            case "split":
                starts = range(0, len(row.input_ids), limit)
                rows = [
                    _row(row.input_ids[start : start + limit], row.labels[start : start + limit]) for start in starts
                ]
    useful = [row for row in rows if row.trained_tokens > 0]
    if not useful:
        raise UnusableError(f"has no token to train on within {limit} tokens")
    return useful


class Blocks:
    """Joins documents and cuts them into blocks of `limit` tokens, all trained on."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: list[int] = []

    def add(self, document: Row) -> Iterator[Row]:
        """Take a document, and yield the blocks that are full."""
        self._waiting.extend(document.input_ids)
        full = len(self._waiting) // self._limit * self._limit
        for start in range(0, full, self._limit):
            block = self._waiting[start : start + self._limit]
            yield _row(block, list(block))
        del self._waiting[:full]

    def rest(self) -> Iterator[Row]:
        """Yield the last block, which is shorter; a single token is none, for there is nothing to predict in it."""
        if len(self._waiting) > 1:
            yield _row(self._waiting, list(self._waiting))
        self._waiting = []


def _row(input_ids: list[int], labels: list[int]) -> Row:
    labels[:1] = [NOT_TRAINED]
    return Row(input_ids, labels)


def _joins(places: Sequence[Place], trained: Sequence[Place]) -> bool:
    """Return whether a token lies on both sides of an answer's start."""
    ends = [end for _, end in places]
    firsts = ((bisect_right(ends, start), start) for start, _ in trained)
    return any(first < len(places) and places[first][0] < start for first, start in firsts)


def _in_pieces(tokenizer: PreTrainedTokenizerBase, text: str, trained: Sequence[Place]) -> tuple[list[int], list[int]]:
    """Return tokens and labels of a text that is tokenized anew at the start of each answer."""
    tokens: list[int] = []
    places: list[Place] = []
    for start, end in pairwise([0, *(start for start, _ in trained), len(text)]):
        encoded = tokenizer(text[start:end], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        tokens += encoded["input_ids"]
        places += [(start + first, start + last) for first, last in encoded["offset_mapping"]]
    return tokens, _labels(tokens, places, trained)


def _labels(tokens: Sequence[int], places: Sequence[Place], trained: Sequence[Place]) -> list[int]:
    """Return the labels of tokens whose characters lie at `places`."""
    labels = [NOT_TRAINED] * len(tokens)
    ends = [end for _, end in places]  # starts tell less: some tokenizers leave a token's own white space out of them
    for start, end in trained:
        first, last = bisect_right(ends, start), bisect_right(ends, end)
        labels[first:last] = tokens[first:last]
    return labels
