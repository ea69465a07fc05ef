"""From the named splits of a source to the two splits of a job: slices such as `train[:10%]`, and a held-out share."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from itertools import islice

from datasets import ReadInstruction

from ftactors.core.errors import DatasetError
from handlers.base import BaseDatasetHandler, Record, Split

_ROWS_FOR_COLUMNS = 100


class SplitsHandler(BaseDatasetHandler):
    """Serves a source that has splits with names. A subclass says which it has, and yields their rows."""

    @abstractmethod
    def split_names(self) -> list[str]:
        """Return the names of the splits that the source has.

        Raises:
            DatasetError: the source cannot be found or read.
        """

    @abstractmethod
    def split_rows(self, name: str) -> Iterator[Record]:
        """Yield all rows of one of these splits.

        Raises:
            DatasetError: a row cannot be read; the message names its place.
        """

    @abstractmethod
    def split_size(self, name: str) -> int | None:
        """Return how many rows one of these splits has, or None where that takes reading all of it."""

    def columns(self, split: Split) -> list[str]:
        """Return the names of the columns in a split's first hundred rows; rows of JSON need not have the same."""
        names: dict[str, None] = {}
        for record in islice(self.records(split), _ROWS_FOR_COLUMNS):
            names.update(dict.fromkeys(record.values))
        return list(names)

    def records(self, split: Split) -> Iterator[Record]:
        """Yield a split's records in the order of the source."""
        name, start, stop = self._range(split)
        rows = islice(self.split_rows(name), start, stop)
        if not self._holds_out:
            yield from rows
            return
        held_out, wanted = self._held_out, split == "validation"
        yield from (row for position, row in enumerate(rows) if (position in held_out) is wanted)

    def count(self, split: Split) -> int | None:
        """Return how many records a split has, or None where the source does not know and nothing had to be counted."""
        if self._holds_out:
            held_out = len(self._held_out)
            return held_out if split == "validation" else self._train_size - held_out
        name, start, stop = self._range(split)
        return self.split_size(name) if stop is None else stop - start

    def _range(self, split: Split) -> tuple[str, int, int | None]:
        """Return the named split that a split of the job is cut from, and from which row to which; None is its end."""
        asked = self.source.validation_split_name
        if split == "train" or self._holds_out:
            asked = self.source.train_split_name
        if asked is None:
            raise DatasetError(f"{self.source.path_or_id}: no validation split was asked for")
        name, bracket, _ = asked.partition("[")
        if name not in (names := self.split_names()):
            raise DatasetError(
                f"{self.source.path_or_id}: has no split {name!r}; it has {', '.join(map(repr, names)) or 'none'}",
                hint="name one of its splits, or hold out a share of the training split with validation_split_ratio",
            )
        if not bracket:
            return name, 0, None
        try:
            (cut,) = ReadInstruction.from_spec(f"rows{asked[len(name) :]}").to_absolute({"rows": self._size(name)})
        except ValueError as error:
            raise DatasetError(f"{self.source.path_or_id}: {asked!r} is not a slice such as 'train[:10%]'") from error
        return name, cut.from_, cut.to

    @cached_property
    def _holds_out(self) -> bool:
        """Whether the validation split is a share of the training split."""
        asked = self.source.validation_split_name
        has_its_own = asked is not None and asked.partition("[")[0] in self.split_names()
        return self.source.validation_split_ratio is not None and not has_its_own

    @cached_property
    def _held_out(self) -> frozenset[int]:
        """The positions in the training split that are held out: as many rows as the ratio says, and at least one."""
        ratio = self.source.validation_split_ratio or 0.0
        if self._train_size < 2:  # noqa: PLR2004 - one row for each split
            raise DatasetError(
                f"{self.source.path_or_id}: the training split has {self._train_size} rows, too few to hold out a share"
            )
        count = min(max(1, round(self._train_size * ratio)), self._train_size - 1)
        draw = random.Random(self.seed)  # noqa: S311 - a held-out share is no secret, and must come out the same again
        return frozenset(draw.sample(range(self._train_size), count))

    @cached_property
    def _train_size(self) -> int:
        name, start, stop = self._range("train")
        return self._size(name) if stop is None else stop - start

    def _size(self, name: str) -> int:
        known = self.split_size(name)
        return sum(1 for _ in self.split_rows(name)) if known is None else known
