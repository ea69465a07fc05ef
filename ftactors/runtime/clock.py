"""The service's clock."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Seconds since 1970-01-01 UTC that never go back: the wall clock at opening, then a monotonic one.

    Args:
        at_least: The time of the last event, which a wall clock set back must not undercut.
        wall: Tells the time of day.
        monotonic: Counts seconds, whatever is done to the wall clock.
    """

    def __init__(
        self,
        at_least: float = 0.0,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._offset = max(wall(), at_least) - monotonic()

    def now(self) -> float:
        """Return the time now."""
        return self._offset + self._monotonic()
