"""What a trainer is: it takes an attempt from its prepared data to a published model."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ftactors.core.session import Session
from ftactors.core.work import Published, Stopped, Work


class BaseTrainer(ABC):
    """One training loop. Subclass it and name the class by its import path (`package.module:Class`).

    It runs in a process of its own, which has nothing else to do. Whatever it raises ends the attempt:
    `JobExecutionError` and its subclasses by their `error_type`, anything else as `error_type="internal"`.

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
