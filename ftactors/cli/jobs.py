"""Commands that submit jobs and look at them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftactors.cli.app import command
from ftactors.cli.edge import ExitCode
from ftactors.cli.lines import EVENT_COLUMNS, JOB_COLUMNS, event_row, facts_of_job, job_row, json_of_event
from ftactors.cli.options import AsJson, ConfigFile, JobId
from ftactors.cli.output import Output
from ftactors.cli.session import service_config
from ftactors.core.events import Recorded
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus

if TYPE_CHECKING:
    from ftactors.preview import JobPreview


@command(
    "ftactors submit job.yaml",
    "ftactors submit job.yaml --dry-run",
    "JOB=$(ftactors submit job.yaml --no-wait --idempotency-key nightly-2026-01-31)",
)
def submit(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job, as YAML or JSON.")],
    *,
    wait: Annotated[
        bool | None, typer.Option("--wait/--no-wait", help="Follow the job to its end; without a cluster, always.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it and count its data; queue nothing.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key and job again return the same job.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Check a job and queue it.

    On a cluster it returns at once, and the job goes on by itself. Without one, it starts a Ray of its own and stays
    until the job has ended. In a pipe it prints the job's id at once and nothing else, and the progress on stderr while
    it waits; with --json it prints the status, and each change while it waits. The exit code tells how the job ended
    only where it waited.
    """
    from ftactors.cli.submitting import Ask, dry, submitted

    ask = Ask(job, wait=wait, idempotency_key=idempotency_key)
    output = Output.here(as_json=as_json)
    if dry_run:
        show_preview(asyncio.run(dry(ask, service_config(config), output)), output)
        return
    finish(asyncio.run(submitted(ask, service_config(config), output)))


@command("ftactors list --status running --limit 10", "ftactors list --json | jq '.[].job_id'", name="list")
def list_jobs(
    *,
    status: Annotated[
        JobStatus | None,
        typer.Option(metavar="STATUS", help=f"Only jobs of this status: {', '.join(JobStatus)}."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    offset: Annotated[int, typer.Option(min=0, help="Leave out so many of the newest.")] = 0,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show jobs, the newest first.

    In a pipe: a line each, with tabs between id, status, progress, name, model, creation, and where it stands now: its
    place in the queue, or the time that is left and what it holds.
    """
    from ftactors.cli.reading import open_reading

    async def jobs(output: Output) -> list[FineTuningJobStatusInfo]:
        return await (await open_reading(service_config(config), output)).jobs(status, limit, offset)

    output = Output.here(as_json=as_json)
    found = asyncio.run(jobs(output))
    if as_json:
        output.document([job.model_dump(mode="json") for job in found])
    else:
        output.rows(JOB_COLUMNS, map(job_row, found), empty="no jobs")


@command("ftactors status ftjob-0123456789ab")
def status(job_id: JobId, *, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show all that is known of a job, and why it waits."""
    from ftactors.cli.reading import open_reading

    async def known(output: Output) -> FineTuningJobStatusInfo:
        return await (await open_reading(service_config(config), output)).status(job_id)

    output = Output.here(as_json=as_json)
    found = asyncio.run(known(output))
    if as_json:
        output.document(found)
    else:
        output.facts(facts_of_job(found))


@command("ftactors watch ftjob-0123456789ab", "ftactors watch ID1 ID2 --json")
def watch(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Jobs to follow.")],
    *,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Follow jobs to their ends: live bars at a terminal, lines in a pipe, JSON lines with --json.

    Ctrl-C ends the watching. On a cluster the jobs go on. Where this command had to start a Ray of its own, they write
    a checkpoint, and go on at the next start.
    """
    from ftactors.cli.submitting import watched

    finish(asyncio.run(watched(job_ids, service_config(config), Output.here(as_json=as_json))))


@command("ftactors events ftjob-0123456789ab")
def events(job_id: JobId, *, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show a job's history, fact by fact.

    In a pipe: a line each, with tabs between number, time, type and what it says.
    """
    from ftactors.cli.reading import open_reading

    async def history(output: Output) -> list[Recorded]:
        return await (await open_reading(service_config(config), output)).events(job_id)

    output = Output.here(as_json=as_json)
    found = asyncio.run(history(output))
    if as_json:
        output.document([json_of_event(recorded) for recorded in found])
    else:
        output.rows(EVENT_COLUMNS, map(event_row, found), empty="no events")


@command("ftactors logs ftjob-0123456789ab -f", "ftactors logs ftjob-0123456789ab --attempt 1")
def logs(
    job_id: JobId,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of this attempt; else the newest.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Print what a job's process printed, at its newest attempt.

    Preparing the data is an attempt of its own, so the first is usually the preparation and the second the training.
    """
    from ftactors.cli.logs import print_log

    asyncio.run(print_log(job_id, service_config(config), Output.here(as_json=as_json), attempt=attempt, follow=follow))


def finish(jobs: list[FineTuningJobStatusInfo]) -> None:
    """End the command with the exit code that these jobs, which have ended, deserve."""
    if any(job.is_terminal and job.status is not JobStatus.COMPLETED for job in jobs):
        raise typer.Exit(ExitCode.JOB_FAILED)


def show_preview(preview: JobPreview, output: Output) -> None:
    """Tell what a job would do."""
    counts = {f"data.{name}": str(count) for name, count in preview.counts.items()}
    if output.as_json:
        output.document(asdict(preview))
        return
    facts = {
        "shape": preview.shape,
        **counts,
        "total_steps": str(preview.total_steps),
        "effective_batch_size": str(preview.effective_batch_size),
        "warnings": "; ".join(preview.warnings),
    }
    output.facts({name: value for name, value in facts.items() if value})
