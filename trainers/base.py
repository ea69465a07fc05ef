"""What a trainer is: it takes an attempt from its prepared data to a published model."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ftactors.core.session import Session
from ftactors.core.work import Published, Stopped, Work


class BaseTrainer(ABC):
    """One training loop. Subclass it and name the class by its import path (`package.module:Class`).

    It runs in a process of its own, which has nothing else to do. Whatever it raises ends the attempt:
    `JobExecutionError` and its subclasses by their `error_type`, anything else as `error_type="internal"`.

    An attempt may have several ranks (`work.world_size`), each of them a process like this on a device of its own, with
    `work.rank` and the address where they meet, `work.rendezvous`. All of them run the trainer. What it must do then:

    - let the ranks meet: `trainers.meet.meet(work)` does, with torch.distributed, and sets the environment that Trainer
      and accelerate read (MASTER_ADDR, RANK, WORLD_SIZE, ...);
    - divide the rows of `work.dataset`, which all ranks read at the same path;
    - report by rank 0: it alone is heard. The others say their words too, for a rank that says nothing for
      `stall_timeout_seconds` is taken for stuck; of these only `Failed` counts, and ends the attempt;
    - write `work.attempt_dir`, which all share, by rank 0, but for what is a rank's own under a name of its own;
    - let rank 0 alone look at `session.stop_order`, and all stop at the same step: `Ranks.share` tells the others;
    - end together: the others return `Stopped(clean=True)` once rank 0 has published.

    Args:
        work: The attempt: configuration, base model, prepared data, checkpoint to resume from, directory to write to.
        session: Where to report to, and where an order to stop is seen.
    """

    def __init__(self, work: Work, session: Session) -> None:
        self.work = work
        self.session = session

    @abstractmethod
    def run(self) -> Published | Stopped:
        """Train and publish; or, at a stop order, write a checkpoint and stop.

        Returns:
            The last word of the process.
        """
