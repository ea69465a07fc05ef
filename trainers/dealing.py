"""Which rows a rank trains on."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler

from trainers.ranks import Ranks
from trainers.rows import NOT_TRAINED

NOTHING: dict[str, list[int]] = {"input_ids": [0, 0], "labels": [NOT_TRAINED, NOT_TRAINED]}
"""A row of which nothing is learned, for a rank that has none left: all ranks must compute as often."""


class DealtBatches(BatchSampler):
    """An epoch's batches of one rank: of each round, in which every rank is dealt one, its own.

    So a step of all ranks has the very rows of a step of one alone that accumulates as much more. Where the last round
    does not go all round, the batches of those who get none are empty: no row is trained on twice. accelerate's own
    sharding would fill them up with rows of the epoch's beginning.

    Args:
        rows: What is trained on.
        batch_size: Rows in a batch of one rank.
        seed: Shuffles each epoch, together with its number.
        ranks: Who is dealt to.
    """

    def __init__(self, rows: Sized, batch_size: int, *, seed: int, ranks: Ranks) -> None:
        shuffled: Any = SeedableRandomSampler(rows, data_seed=seed)
        super().__init__(shuffled, batch_size, drop_last=False)
        self.batch_sampler = shuffled  # where transformers looks for what knows the epoch
        self._ranks = ranks

    def __len__(self) -> int:
        """Return the number of rounds."""
        return (super().__len__() + self._ranks.size - 1) // self._ranks.size

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of the rows of each round's batch."""
        own: list[int] = []
        place = -1
        for number, batch in enumerate(super().__iter__()):
            place = number % self._ranks.size
            if place == self._ranks.rank:
                own = batch
            if place == self._ranks.size - 1:
                yield own
                own = []
        if place not in {-1, self._ranks.size - 1}:
            yield own

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for another epoch: transformers looks here where it skips the first batches."""
        self.batch_sampler.set_epoch(epoch)
