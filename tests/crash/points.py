"""Every place between two effects, numbered; at the one that was asked for, the process ends.

A process that is killed leaves its effects and nothing else: what it told the database, the files, the cluster and the
drivers. So a place is crossed right before each effect, and the place after the last one is the end of the process.
Which of two threads comes first differs each time, so a place is known by its name and by how often it was crossed.
What effects there are is found out from outside of the product: statements from the database's driver, files from the
functions of `os` that change them, the rest from the cluster and the driver of these tests.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from sqlalchemy import event
from sqlalchemy.pool import Pool

KILLED = 77
"""The exit status of a process that was killed at a place."""
FILE_EFFECTS = ("write", "pwrite", "fsync", "truncate", "ftruncate", "posix_fallocate", "replace", "rename", "unlink")
"""Functions of `os` that change files, or that wait until a change is on the disk."""
_NO_EFFECTS = ("SELECT", "SHOW", "PRAGMA", "BEGIN", "SET")
"""Statements that leave nothing behind where the process dies right after them."""
_ENDS = ("COMMIT", "ROLLBACK")


class Place(NamedTuple):
    """Where a process is, right before an effect."""

    name: str
    """Of the effect that would be next; empty: whichever it is."""
    number: int
    """Counts the places of this name that the process has come to."""


NOWHERE = Place("nowhere", 0)


class Points:
    """Counts the places that a process crosses, in all of its threads.

    Args:
        last: The place at which to end it.
        told: The file that is left with the name of that place.
    """

    def __init__(self, last: Place, told: Path, end: Callable[[], None] = lambda: os._exit(KILLED)) -> None:
        self._end = end
        self.crossed: list[str] = []
        """The names of all places so far."""
        self._last = last
        self._told = told
        self._statement = ""
        """The beginning of the last one; SQLite tells of each row that a statement adds."""
        self._changed = False
        """Whether the transaction, if there is one, would change anything."""
        self._one_at_a_time = Lock()

    def cross(self, name: str) -> None:
        """Cross the place before an effect, or end the process there, as SIGKILL would."""
        with self._one_at_a_time:
            self.crossed.append(name)
            if self._last in {Place(name, self.crossed.count(name)), Place("", len(self.crossed))}:
                self._told.write_text(name)
                self._end()

    def places(self) -> list[Place]:
        """Return all places that were crossed."""
        return [Place(name, self.crossed[: at + 1].count(name)) for at, name in enumerate(self.crossed)]

    def watch(self) -> None:
        """Cross the place before each statement and change of a file, in this process from now on."""
        event.listen(Pool, "connect", self._watch_statements)
        for name in FILE_EFFECTS:
            setattr(os, name, self._crossing(f"os.{name}", getattr(os, name)))

    def _watch_statements(self, connection: Any, _record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(self._before_statement)
            return
        before_statement = self._before_statement

        class Crossing(connection.cursor_factory):  # type: ignore[misc, name-defined]
            def execute(self, query: Any, *values: Any, **options: Any) -> Any:
                before_statement(str(query))
                return super().execute(query, *values, **options)

        connection.cursor_factory = Crossing
        commit = connection.commit

        def crossing_commit() -> None:
            before_statement("COMMIT")
            commit()

        connection.commit = crossing_commit

    def _before_statement(self, statement: str) -> None:
        begins = " ".join(statement.split(maxsplit=3)[:3])
        verb, is_another_row = begins.split()[0].upper(), begins == self._statement and begins.startswith("INSERT")
        self._statement = begins
        if verb == "BEGIN":
            self._changed = False
        if verb in _NO_EFFECTS or (verb in _ENDS and not self._changed) or is_another_row:
            return
        self._changed = True
        self.cross(begins)

    def _crossing(self, place: str, effect: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(effect)
        def crossing(*args: Any, **options: Any) -> Any:
            self.cross(place)
            return effect(*args, **options)

        return crossing
