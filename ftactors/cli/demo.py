"""The command that shows all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftactors.cli.app import command
from ftactors.cli.jobs import finish
from ftactors.cli.lines import duration, ending, number, one_line
from ftactors.cli.options import AsJson
from ftactors.cli.output import Output
from ftactors.cli.watching import follow
from ftactors.core.status import FineTuningJobStatusInfo

if TYPE_CHECKING:
    from ftactors.demo import Demo, DemoResult

LOSS_COLUMNS = ("held-out rows", "loss", "perplexity")


@command("ftactors demo", "ftactors demo --model ./my-model --steps 40 --dir /tmp/demo")
def demo(
    *,
    model: Annotated[
        str | None, typer.Option(metavar="DIR", help="A model to tune, instead of SmolLM2-135M-Instruct.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps, of 4 rows each.")] = 20,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where it keeps model, data, jobs and log.")
    ] = Path("~/.ftactors/demo"),
    as_json: AsJson = False,
) -> None:
    """Tune a small real model on the docstrings of the standard library, and compare it with its base.

    It runs on CPUs, in less than 6 minutes on 2 cores, after a download of 98 to 270 MB at the first run. It starts a
    Ray and a service of its own, and ends both. When it is interrupted, the next run goes on from there.
    """
    from ftactors.demo import Demo, run_demo

    output = Output.here(as_json=as_json)

    async def watch(statuses: AsyncIterator[FineTuningJobStatusInfo]) -> FineTuningJobStatusInfo:
        if not as_json:
            return (await follow([statuses], output))[0]
        async for status in statuses:
            last = status
        return last

    asked = Demo(directory.expanduser().absolute(), model, steps)
    result = asyncio.run(run_demo(asked, watch=watch, tell=output.say))
    if as_json:
        output.document(_document(result))
    else:
        show_result(result, asked, output)
    finish([result.status])


def show_result(result: DemoResult, asked: Demo, output: Output) -> None:
    """Show the losses, the answers, and how to go on."""
    if result.answers is None:
        for line in ending(result.status):
            output.line(line)
        return
    rows = loss_rows(result)
    if output.to_person:
        output.rows(LOSS_COLUMNS, rows, empty="")
    else:
        for name, loss, perplexity in rows:
            output.line(f"{name}: loss {loss}, perplexity {perplexity}")
    output.facts(
        {
            "question": result.answers.question,
            "docstring": result.answers.docstring,
            "base says": one_line(result.answers.base),
            "tuned says": one_line(result.answers.tuned),
            "tuned model": str(result.status.output_model_path),
            "took": duration(result.took_s),
        }
    )
    for line in how_to_go_on(result.status, asked):
        output.line(line)


def loss_rows(result: DemoResult) -> list[tuple[str, str, str]]:
    """Return the cells under `LOSS_COLUMNS`: of the base and of the tuned model, per token."""
    metrics = result.status.metrics or {}

    def told(name: str) -> str:
        value = metrics.get(name)
        return "?" if value is None else number(value)

    return [
        ("base model", told("base_loss"), told("base_perplexity")),
        ("tuned model", told("loss"), told("perplexity")),
    ]


def how_to_go_on(status: FineTuningJobStatusInfo, asked: Demo) -> list[str]:
    """Return what to try next."""
    config = f"--config {asked.service_file}"
    return [
        "",
        "To go on:",
        f"  ftactors events {status.job_id} {config}",
        f"  ftactors models list {config}",
        f"  ftactors submit {asked.job_file} {config}   (after a change, with another new_model_id)",
    ]


def _document(result: DemoResult) -> dict[str, Any]:
    return {
        "job": result.status.model_dump(mode="json"),
        "answers": asdict(result.answers) if result.answers else None,
        "held_out_rows": result.data.held_out_rows,
        "took_s": round(result.took_s, 1),
    }
