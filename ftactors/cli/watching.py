"""Following jobs: a live bar for a person, lines for a pipe, JSON lines for a program."""

from __future__ import annotations

from collections.abc import AsyncIterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from ftactors.cli.lines import duration, ending, loss_of, one_line, progress_line, stage_of, step_of
from ftactors.cli.output import Output, console_of_person, values_of
from ftactors.cli.tables import STYLES
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus

_REFRESHES_PER_S = 4
_WHOLE = 100


class Bar:
    """A live bar with a job's stage, step, loss, and the time that is left.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[job]}"),
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=_REFRESHES_PER_S,
        )
        self._task = self._progress.add_task("", total=None, job="", facts="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, status: FineTuningJobStatusInfo) -> None:
        """Draw a status."""
        done = share_done(status)
        style = STYLES.get(status.status, "")
        self._progress.update(
            self._task,
            description=f"[{style}]{stage_of(status) or status.status}[/]" if style else stage_of(status),
            job=one_line(status.job_name).replace("[", r"\["),
            facts=" ".join(facts_beside_bar(status)).replace("[", r"\["),
            total=None if done is None else _WHOLE,
            completed=0 if done is None else done,
        )


def share_done(status: FineTuningJobStatusInfo) -> float | None:
    """Return the percentage that the bar shows: of the training, or of the stage before or after it; None if unknown."""
    if status.is_terminal:
        return float(_WHOLE)
    if status.status is not JobStatus.RUNNING and status.status is not JobStatus.PREPROCESSING:
        return None
    return status.progress_percentage if status.stage == "training" else status.stage_progress_percentage


def facts_beside_bar(status: FineTuningJobStatusInfo) -> list[str]:
    """Return what stands to the right of the bar."""
    if status.status in (JobStatus.QUEUED, JobStatus.PAUSED):
        return [one_line(status.wait_reason or "")]
    step, loss = step_of(status), loss_of(status)
    facts = [f"step {step}" if step else "", f"loss {loss}" if loss else ""]
    if status.eta_seconds is not None and not status.is_terminal:
        facts.append(f"{duration(status.eta_seconds)} left")
    return [fact for fact in facts if fact]


async def follow(statuses: AsyncIterator[FineTuningJobStatusInfo], output: Output) -> FineTuningJobStatusInfo | None:
    """Show each status as it comes, and return the last one; None where there was none."""
    last: FineTuningJobStatusInfo | None = None
    if output.to_person:
        with Bar(console_of_person()) as bar:
            async for last in statuses:
                bar.show(last)
        if last is not None:
            show_ending(last, output)
        return last
    said = ""
    async for last in statuses:
        line = progress_line(last)
        if output.as_json:
            output.document(values_of(last))
        elif line != said:
            output.line(line)
        said = line
    return last


def show_ending(status: FineTuningJobStatusInfo, output: Output) -> None:
    """Tell a person how a job ended."""
    head, *rest = ending(status)
    output.show(Text(head, style=STYLES.get(status.status, "")))
    for line in rest:
        output.show(Text(line))
