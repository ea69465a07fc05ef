"""Reports are numbered, kept until they are acknowledged, and told at once to whoever waits."""

from __future__ import annotations

import asyncio

from ftactors.core.work import Progress, Stopped
from ftactors.runtime.outbox import Outbox


def filled(words: int) -> Outbox:
    outbox = Outbox()
    for step in range(1, words + 1):
        outbox.put(Progress(stage="training", step=step))
    return outbox


async def numbers(outbox: Outbox, after: int, wait_s: float = 0.0) -> list[int]:
    return [report.number for report in await outbox.after(after, wait_s=wait_s)]


async def test_reports_are_numbered_from_1_and_given_in_order():
    assert await numbers(filled(3), after=0) == [1, 2, 3]


async def test_a_report_is_given_again_until_it_is_acknowledged():
    outbox = filled(3)

    assert [await numbers(outbox, after=n) for n in (0, 0, 1, 1)] == [[1, 2, 3], [1, 2, 3], [2, 3], [2, 3]]


async def test_what_was_acknowledged_is_dropped_for_good():
    outbox = filled(3)

    assert [report.number for report in outbox.acknowledge(2)] == [1, 2]
    assert outbox.acknowledge(2) == []
    assert await numbers(outbox, after=0) == [3]


async def test_asking_for_what_is_not_there_waits_and_gives_nothing():
    assert await numbers(filled(2), after=2, wait_s=0.01) == []


async def test_all_who_wait_are_told_at_once():
    outbox = filled(1)
    waiting = [asyncio.create_task(numbers(outbox, after=1, wait_s=60)) for _ in range(2)]
    await asyncio.sleep(0)

    outbox.put(Stopped(clean=True))

    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == [[2], [2]]
    assert outbox.last_number == 2
