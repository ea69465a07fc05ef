"""Whether a log is sound, told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ftactors.cli.log_lines import when
from ftactors.cli.output import Output
from ftactors.core.errors import LogRefusedError
from ftactors.log.errors import LogDamagedError
from ftactors.log.reader import Reader
from ftactors.log.rows import Head, Row
from ftactors.log.verify import verified


@dataclass(slots=True)
class Verdict:
    """What reading a whole log has shown."""

    sound: int = 0
    """So many events, from the first on, are as they were written and can be understood."""
    first_at: str | None = None
    last_at: str | None = None
    epochs: set[int] = field(default_factory=set)
    problem: LogRefusedError | None = None
    """What is wrong with the next one; None where all is well."""

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        found = {
            "ok": self.problem is None,
            "events": self.sound,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "epochs": len(self.epochs),
        }
        if self.problem is None:
            return found
        if isinstance(self.problem, LogDamagedError):
            damage = self.problem
            return {**found, "bad_seq": damage.seq, "problem": damage.message, "hint": damage.hint}
        return {**found, "bad_seq": self.sound + 1, "problem": str(self.problem), "hint": None}


def examined(rows: Iterable[Row], head: Head) -> Verdict:
    """Return what the rows of a whole log show."""
    verdict, reader = Verdict(), Reader()
    try:
        for row in verified(rows, head):
            reader.recorded(row)
            verdict.sound += 1
            verdict.first_at = verdict.first_at or when(row)
            verdict.last_at = when(row)
            verdict.epochs.add(row.epoch)
    except LogRefusedError as error:
        verdict.problem = error
    return verdict


def show_verdict(verdict: Verdict, name: str, output: Output) -> None:
    """Tell how far the log is sound. What is wrong is for the caller to raise."""
    found = {"log": name, **verdict.document()}
    if output.as_json:
        output.document(found)
        return
    told = {name: found[name] for name in ("log", "events", "first_at", "last_at", "epochs")}
    if verdict.problem is not None:
        told = {"log": name, "sound events": found["events"], "first bad event": found["bad_seq"]}
    output.facts({**{name: str(value) for name, value in told.items() if value is not None}, "ok": _said(verdict)})


def _said(verdict: Verdict) -> str:
    return "yes" if verdict.problem is None else "NO"
