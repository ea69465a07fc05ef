"""What a handler or a trainer may ask of the process it runs in."""

from __future__ import annotations

from typing import Protocol

from ftactors.core.work import AnyWord, StopOrder


class Stop(Exception):  # noqa: N818 - a way out, not an error
    """Raised inside the work where it noticed a stop order and nothing is left to save."""


class Session(Protocol):
    """The way of a training process to its trainer actor (and, in tests, a list)."""

    def say(self, word: AnyWord) -> None:
        """Send a word; it is numbered, kept and delivered by the trainer actor."""

    @property
    def stop_order(self) -> StopOrder | None:
        """The order to stop, once there is one. Look at it at every step."""
