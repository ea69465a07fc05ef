"""Following jobs: live bars for a person, lines for a pipe, JSON lines for a program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Protocol

from ftactors.cli.lines import ending, progress_line
from ftactors.cli.output import Output
from ftactors.core.status import FineTuningJobStatusInfo

Statuses = AsyncIterator[FineTuningJobStatusInfo]


class Display(Protocol):
    """Where statuses are shown, as they come."""

    def __enter__(self) -> Callable[[FineTuningJobStatusInfo], None]:
        """Begin, and return what shows a status."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, however following ended."""


class LineDisplay:
    """A line for each status that reads differently from the one before, or JSON for each."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._said: dict[str, str] = {}

    def __enter__(self) -> Callable[[FineTuningJobStatusInfo], None]:
        return self._show

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def _show(self, status: FineTuningJobStatusInfo) -> None:
        line = progress_line(status)
        if self._output.as_json:
            self._output.document(status)
        elif self._said.get(status.job_id) != line:
            self._output.line(line)
        self._said[status.job_id] = line


async def follow(streams: Sequence[Statuses], output: Output) -> list[FineTuningJobStatusInfo]:
    """Show the statuses of jobs as they come, and return the last one of each."""
    with display_for(output) as show:
        return await asyncio.gather(*(_follow_one(stream, show) for stream in streams))


def display_for(output: Output) -> Display:
    """Return live bars for a person, lines for others."""
    if not output.to_person:
        return LineDisplay(output)
    from ftactors.cli.bars import Bars

    return Bars()


def show_ending(status: FineTuningJobStatusInfo, output: Output) -> None:
    """Tell a person how a job ended."""
    from ftactors.cli.tables import ended

    output.show(ended(status.status, ending(status)))


async def _follow_one(stream: Statuses, show: Callable[[FineTuningJobStatusInfo], None]) -> FineTuningJobStatusInfo:
    async for status in stream:
        show(status)
    return status
