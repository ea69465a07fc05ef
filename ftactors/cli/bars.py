"""Live bars: a job each, with its stage, step, loss, and the time that is left."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from ftactors.cli.lines import duration, loss_of, one_line, place_of, stage_of, step_of
from ftactors.cli.tables import NARROW, STYLES
from ftactors.core.job import TRAINING_STAGES
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus

_REFRESHES_PER_S = 4
_BAR_WIDTH, _NARROW_BAR_WIDTH = 28, 8
_LONGEST_NAME = 20
_WHOLE = 100.0
_ALMOST = 99.9
"""Of a stage that is through; at the whole, rich would take the job for ended and stop its clock."""


class Bars:
    """Bars at a terminal, from `with` to its end.

    Args:
        console: The terminal; None: stdout's.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console()
        narrow = console.width < NARROW
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn(
                "{task.fields[job]}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", max_width=_LONGEST_NAME),
            ),
            TextColumn("{task.description}"),
            BarColumn(bar_width=_NARROW_BAR_WIDTH if narrow else _BAR_WIDTH),
            TextColumn("{task.fields[facts]}", markup=False, table_column=Column(overflow="fold")),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=_REFRESHES_PER_S,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Callable[[FineTuningJobStatusInfo], None]:
        self._progress.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self, status: FineTuningJobStatusInfo) -> None:
        if status.job_id not in self._tasks:
            self._tasks[status.job_id] = self._progress.add_task("", total=None, job="", facts="")
        done = share_done(status)
        style = STYLES[status.status]
        self._progress.update(
            self._tasks[status.job_id],
            description=f"[bold {style}]{stage_of(status) or status.status}[/]",
            job=one_line(status.job_name),
            facts=facts_beside_bar(status),
            total=None if done is None else _WHOLE,
            completed=0 if done is None else done,
        )


def share_done(status: FineTuningJobStatusInfo) -> float | None:
    """Return the percentage that a bar shows: of the training, or of the stage around it; None where it is unknown."""
    if status.is_terminal:
        return _WHOLE
    if status.status not in (JobStatus.RUNNING, JobStatus.PREPROCESSING):
        return None
    done = status.progress_percentage if status.stage in TRAINING_STAGES else status.stage_progress_percentage
    return None if done is None else min(done, _ALMOST)


def facts_beside_bar(status: FineTuningJobStatusInfo) -> str:
    """Return what stands to the right of a bar."""
    if status.status in (JobStatus.QUEUED, JobStatus.PAUSED):
        position = f"{status.queue_position} in line: " if status.queue_position else ""
        return one_line(f"{position}{status.wait_reason or ''}")
    if status.yield_reason:
        return one_line(status.yield_reason)
    step, loss = step_of(status), loss_of(status)
    facts = [f"step {step}" if step else "", f"loss {loss}" if loss else ""]
    if status.eta_seconds is not None and not status.is_terminal:
        facts.append(f"{duration(status.eta_seconds)} left")
    facts.append("" if status.is_terminal else place_of(status))
    return " ".join(filter(None, facts))
