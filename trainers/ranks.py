"""What the ranks of an attempt do together: sum, share what the first has found, wait; and tell when one is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import torch
import torch.distributed as dist

from ftactors.core.errors import RankLostError
from ftactors.core.peers import is_lost_rank

if TYPE_CHECKING:
    from trainers.links import Links

_CPU = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The ranks of an attempt, as one of them sees them. One alone does nothing here that costs anything.

    All of them must call the same methods in the same order, so each call stands where they are at the same point.
    What is exchanged lies on CPUs, and goes beside what training exchanges between GPUs.
    """

    rank: int = 0
    size: int = 1
    backend: str | None = None
    """What gradients are exchanged with: `gloo` or `nccl`; None of one alone."""
    links: Links | None = None
    """How the first tells which of the others is lost."""

    @property
    def is_first(self) -> bool:
        """Whether this one decides, reports and publishes."""
        return self.rank == 0

    def share(self, make: Callable[[], T]) -> T:
        """Return, in all ranks, what the first one makes."""
        if self.size == 1:
            return make()
        box: list[object] = [make() if self.is_first else None]
        dist.broadcast_object_list(box, src=0, device=_CPU)
        return cast("T", box[0])

    def in_turn(self, make: Callable[[], T]) -> T:
        """Return what each rank makes, the others once the first has: where it fails, it alone says why."""
        if self.is_first:
            made = make()
            self.wait()
            return made
        self.wait()
        return make()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all ranks: the very same in each, for each adds in the order of the ranks."""
        if self.size == 1:
            return list(values)
        total: list[float] = self._gathered(values).sum(dim=0).tolist()
        return total

    def largest(self, value: float) -> float:
        """Return the largest value that a rank has."""
        return value if self.size == 1 else self._gathered([value]).max().item()

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.sum([0.0])

    def leave(self) -> None:
        """Part at the end of the work: the others once the first has nothing left to do.

        Whatever was to be done is done, so it does not matter here whether somebody is lost.
        """
        if self.size > 1:
            with suppress(RuntimeError):
                self.share(lambda: None)
            dist.destroy_process_group()

    @contextmanager
    def noticing_losses(self) -> Iterator[None]:
        """Tell of a rank that is lost within.

        Raises:
            RankLostError: another rank's process or node is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not is_lost_rank(error):
                raise
            told = str(error).partition(". ")[0].partition("\n")[0]  # gloo goes on with advice
            raise RankLostError(f"{self._lost()}: {told}") from error

    def _gathered(self, values: Sequence[float]) -> torch.Tensor:
        """Return the values of all ranks, a row for each."""
        own = torch.tensor(values, dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(rows, own)
        return torch.stack(rows)

    def _lost(self) -> str:
        """Return in words who is lost, as far as this rank can tell."""
        lost = self.links.lost() if self.links else [0] if not self.is_first else []
        if not lost:
            return f"rank {self.rank} of {self.size} reaches another one no more, whose process or node may be gone"
        names = " and ".join(f"rank {rank}" for rank in lost)
        return f"{names} of {self.size} ended while rank {self.rank} was at work"


ALONE = Ranks()
"""The one rank of an attempt that has no others."""
