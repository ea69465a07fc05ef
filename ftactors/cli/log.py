"""Commands about the event log itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftactors.cli.app import app, command
from ftactors.cli.options import AsJson, ConfigFile
from ftactors.cli.output import Output
from ftactors.cli.session import service_config

if TYPE_CHECKING:
    from ftactors.cli.log_source import LogSource
    from ftactors.log.rows import Row

log = typer.Typer(no_args_is_help=True, help="Look into the event log: verify, tail, show, export, replay, stats.")
app.add_typer(log, name="log", epilog="Example:\n  ftactors log verify")


@command("ftactors log verify", "ftactors log verify --json | jq .ok", group=log)
def verify(*, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Read the whole log, and say whether each event is there, is the one that was written, and can be understood.

    Exit code 5 where not; what is wrong is told with the number of the first bad event.
    """
    from ftactors.cli.log_source import open_log
    from ftactors.cli.log_verify import examined, show_verdict
    from ftactors.cli.progress import shown_while

    output = Output.here(as_json=as_json)
    with open_log(service_config(config), output) as source:
        rows = shown_while(source.rows(), total=source.head.end.seq, doing="verifying")
        verdict = examined(rows, source.head)
        show_verdict(verdict, source.name, output)
    if verdict.problem is not None:
        raise verdict.problem


@command("ftactors log tail", "ftactors log tail -n 100", "ftactors log tail -f --json", group=log)
def tail(
    *,
    count: Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="So many of the newest.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as events come, until Ctrl-C.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest events, the newest last, and with -f those that come.

    In a pipe: a line each, with tabs between number, time, type, job and what it says. With --json: a document each.
    """
    from ftactors.cli.log_source import open_log
    from ftactors.cli.log_tail import Lines

    output = Output.here(as_json=as_json)
    with open_log(service_config(config), output) as source:
        end = source.head.end.seq
        lines = Lines(output)
        for row in source.rows(after=max(end - count, 0)):
            lines.show(row)
        if follow and not source.is_live:
            output.say("no service is running, so no more events come")
        elif follow:
            for row in _coming(source, end):
                lines.show(row)


@command("ftactors log show 812", "ftactors log show 812 --json", group=log)
def show(
    seq: Annotated[int, typer.Argument(metavar="SEQ", help="The event's number.")],
    *,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is stored of one event, and whether it fits to the one before it."""
    from ftactors.cli.edge import EventNotFoundError
    from ftactors.cli.log_lines import document_of_row, facts_of_row, fits, payload_lines
    from ftactors.cli.log_source import open_log

    output = Output.here(as_json=as_json)
    with open_log(service_config(config), output) as source:
        found = {row.seq: row for row in source.rows(after=max(seq - 2, 0), limit=2)}
        if seq not in found:
            end = source.head.end.seq
            has = f"the log has events 1 to {end}" if end else "the log has no events yet"
            raise EventNotFoundError(f"there is no event {seq}: {has}")
    row = found[seq]
    is_sound = fits(row, found.get(seq - 1))
    if as_json:
        output.document(document_of_row(row) | {"fits": is_sound})
        return
    output.facts(facts_of_row(row) | {"fits": "yes" if is_sound else "NO: `ftactors log verify` says what is wrong"})
    for line in ["", *payload_lines(row)]:
        output.line(line)


@command("ftactors log export -o events.jsonl", "ftactors log export | gzip > events.jsonl.gz", group=log)
def export(
    *,
    file: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of stdout.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Print the whole log as lines of JSON, each row with all its columns; --json changes nothing.

    It is verified on the way. Where it is damaged, what comes before that is printed, and the exit code is 5.
    """
    from ftactors.cli.log_export import write_lines
    from ftactors.cli.log_source import open_log
    from ftactors.cli.progress import shown_while
    from ftactors.log.verify import verified

    output = Output.here(as_json=as_json)
    with open_log(service_config(config), output) as source:
        rows = shown_while(source.rows(), total=source.head.end.seq, doing="exporting")
        written = write_lines(verified(rows, source.head), file)
    if file is not None or sys.stderr.isatty():
        output.say(f"{written} events written to {file or 'stdout'}")


@command(
    "ftactors log replay --until 812",
    "ftactors log replay --until 2026-01-31T12:00Z --json",
    "ftactors log replay --until '2h ago'",
    group=log,
)
def replay(
    *,
    until: Annotated[
        str | None,
        typer.Option(metavar="SEQ|TIME", help="The last event, or the last moment, local time without a zone."),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what the service knew at a moment: its rules, jobs and models as the log had them then.

    With --json: the statuses of all jobs. In a pipe: lines that begin with `job` or `model`. Where the log is damaged
    before that moment, what was known before the damage is shown, and the exit code is 5.
    """
    from ftactors.cli.edge import EventNotFoundError
    from ftactors.cli.log_replay import document_of, fold, moment_of, rows_until, show_state
    from ftactors.cli.log_source import open_log
    from ftactors.cli.progress import shown_while
    from ftactors.core.state import State
    from ftactors.log.verify import verified

    try:
        moment = None if until is None else moment_of(until, datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--until") from error
    output = Output.here(as_json=as_json)
    with open_log(service_config(config), output) as source:
        end = source.head.end.seq
        if isinstance(moment, int) and not 1 <= moment <= end:
            raise EventNotFoundError(f"there is no event {moment}: the log has events 1 to {end}")
        rows = verified(shown_while(source.rows(), total=end, doing="replaying"), source.head)
        state = State()
        refusal = fold(state, rows_until(rows, moment))
    if as_json:
        output.document(document_of(state))
    else:
        show_state(state, output)
    if refusal is not None:
        raise refusal


@command("ftactors log stats", "ftactors log stats --json | jq .by_type", group=log)
def stats(
    *,
    top: Annotated[int, typer.Option(min=0, metavar="N", help="Show so many jobs, those with most events.")] = 10,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Count the events by type, job and day, and list the openings with the versions that wrote.

    In a pipe: facts, and lines that begin with `type`, `job`, `day` or `opening`.
    """
    from ftactors.cli.log_source import open_log
    from ftactors.cli.log_stats import Statistics, show_statistics, size_on_disk
    from ftactors.cli.progress import shown_while
    from ftactors.runtime.actor import log_url

    output, counted, settings = Output.here(as_json=as_json), Statistics(), service_config(config)
    with open_log(settings, output) as source:
        refusal = counted.count_all(shown_while(source.rows(), total=source.head.end.seq, doing="counting"))
    on_disk = size_on_disk(log_url(settings))
    if as_json:
        output.document({"log": source.name, "bytes_on_disk": on_disk, **counted.document(top=top)})
    else:
        show_statistics(counted, source.name, on_disk, output, top=top)
    if refusal is not None:
        raise refusal


def _coming(source: LogSource, after: int) -> Iterator[Row]:
    """Yield the rows that follow as they come, for ever."""
    while True:
        for row in source.newer(after):
            yield row
            after = row.seq
