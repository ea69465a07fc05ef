"""What a data set handler is: it reads a source and yields records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ftactors.core.config import DatasetSourceConfig

Split = Literal["train", "validation"]


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source."""

    values: Mapping[str, Any]
    where: str
    """The place a person would look for it, such as `train.jsonl:17` or `squad[train] row 17`; rows count from 1."""


class BaseDatasetHandler(ABC):
    """Reads one source. Tokenizing is not its work.

    Subclass it for a source of your own, and name the class by its import path (`package.module:Class`). It runs in the
    job's own process on a CPU, before any GPU is held.

    Args:
        source: Where the data is.
        seed: The job's seed, for whatever is drawn at random, such as a held-out share.
    """

    def __init__(self, source: DatasetSourceConfig, *, seed: int) -> None:
        self.source = source
        self.seed = seed

    @abstractmethod
    def columns(self, split: Split) -> list[str]:
        """Return the names of a split's columns.

        Raises:
            DatasetError: the source cannot be found or read, or has no such split.
        """

    @abstractmethod
    def records(self, split: Split) -> Iterator[Record]:
        """Yield a split's records in their order, the same at each call.

        Raises:
            DatasetError: the source cannot be read; the message names file and line.
        """

    @abstractmethod
    def count(self, split: Split) -> int | None:
        """Return how many records a split has, or None where that is not known before reading them."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a digest that changes when the source's content does."""
