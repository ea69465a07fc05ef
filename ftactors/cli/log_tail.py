"""Events as they come, a line each."""

from __future__ import annotations

import sys

from ftactors.cli.log_lines import day, log_line, log_row, payload_of
from ftactors.cli.output import Output, console_of_person
from ftactors.log.rows import Row


class Lines:
    """Shows rows one after the other: cut to the terminal's width for a person, whole for a pipe."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._day = ""

    def show(self, row: Row) -> None:
        """Show the next row, at once."""
        if self._output.as_json:
            place = {"seq": row.seq, "at": row.at, "epoch": row.epoch, "job_seq": row.job_seq}
            self._output.document({**place, "event": payload_of(row)})
        elif self._output.to_person:
            self._show_to_person(row)
        else:
            self._output.line("\t".join(log_row(row)))
        sys.stdout.flush()

    def _show_to_person(self, row: Row) -> None:
        from rich.text import Text

        if day(row) != self._day:
            self._day = day(row)
            self._output.show(Text(f"--- {self._day} (UTC)", style="dim"))
        line = Text(log_line(row))
        line.truncate(console_of_person().width, overflow="ellipsis")
        self._output.show(line)
