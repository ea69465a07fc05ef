"""Words on their way to the scheduler: numbered, and kept until they are acknowledged."""

from __future__ import annotations

import asyncio

from ftactors.core.work import AnyWord, Report


class Outbox:
    """The reports of one attempt that nobody has acknowledged yet. For one event loop."""

    def __init__(self) -> None:
        self.last_number = 0
        self._kept: list[Report] = []
        self._news = asyncio.Event()

    def put(self, word: AnyWord) -> None:
        """Number a word and wake all who wait for one."""
        self.last_number += 1
        self._kept.append(Report(number=self.last_number, word=word))
        self._news.set()
        self._news = asyncio.Event()

    def acknowledge(self, number: int) -> list[Report]:
        """Drop the reports up to `number` for good, and return those among them that were still kept."""
        dropped = [report for report in self._kept if report.number <= number]
        self._kept = self._above(number)
        return dropped

    async def after(self, number: int, *, wait_s: float) -> list[Report]:
        """Return the reports above `number`, oldest first; none if none comes within `wait_s` seconds."""
        if not self._above(number):
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                return []
        return self._above(number)

    def _above(self, number: int) -> list[Report]:
        return [report for report in self._kept if report.number > number]
