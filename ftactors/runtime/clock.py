"""The service's clock."""

from __future__ import annotations

import time


class Clock:
    """Seconds since 1970-01-01 UTC that never go back: the wall clock at opening, then a monotonic one.

    Args:
        at_least: The time of the last event, which a wall clock set back must not undercut.
    """

    def __init__(self, at_least: float = 0.0) -> None:
        self._offset = max(time.time(), at_least) - time.monotonic()

    def now(self) -> float:
        """Return the time now."""
        return self._offset + time.monotonic()
