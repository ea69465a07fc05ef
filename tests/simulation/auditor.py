"""Judges what the schedulers do by what is on the disk at that moment, and by what really befell the trainers."""

from __future__ import annotations

import json

from ftactors.core.seen import ProcessKey
from ftactors.core.wanted import Begin, Command, Start
from ftactors.log.memory import MemoryDisk
from ftactors.runtime.memory_cluster import MemoryCluster


class Auditor:
    """Reads each row once it is committed; whatever is wrong is kept in `wrong`."""

    def __init__(self, disk: MemoryDisk, cluster: MemoryCluster) -> None:
        self.wrong: list[str] = []
        self.befell: set[ProcessKey] = set()
        """Trainers that died without any order."""
        self._disk, self._cluster = disk, cluster
        self._read = 0
        self._placed: set[tuple[str | None, int | None]] = set()
        self._claims: dict[tuple[str | None, int | None], str] = {}
        self._reports: dict[tuple[str | None, int | None], int] = {}
        self._cancelled: set[str | None] = set()
        self._failed: set[tuple[str | None, int | None]] = set()

    def follow(self) -> None:
        """Read what was committed since the last time."""
        for row in self._disk.rows[self._read :]:
            attempt = row.job_id, row.attempt
            match row.type:
                case "attempt_placed":
                    self._placed.add(attempt)
                    self._need_none_at_work(ProcessKey(str(row.job_id), row.attempt or 0, 0), "is placed")
                case "attempt_started":
                    self._claims[attempt] = json.loads(row.payload)["incarnation"]
                case "cancel_requested" | "job_cancelled":
                    self._cancelled.add(row.job_id)
                case "attempt_failed" | "job_failed":
                    self._failed.add(attempt)
                    key = ProcessKey(str(row.job_id), row.attempt or 0, 0)
                    fine = key in self.befell or json.loads(row.payload)["cause"] != "trainer_lost"
                    self._need(fine, f"event {row.seq} says that {key} died, and nothing befell it")
            if row.report is not None:
                self._reports[attempt] = row.report
        self._read = len(self._disk.rows)

    def order(self, command: Command) -> None:
        """Judge an order at the moment in which a scheduler gives it."""
        attempt = command.key.job_id, command.key.attempt
        if isinstance(command, Start):
            self._need(attempt in self._placed, f"{command.key} was started before its place was on the disk")
        if isinstance(command, Begin):
            claimed = self._claims.get(attempt)
            fine = claimed == command.incarnation
            self._need(fine, f"{command.key} was told to begin as {command.incarnation}; claimed is {claimed}")

    def begun(self, key: ProcessKey) -> None:
        """Judge that a trainer begins its work."""
        self._need_none_at_work(key, "begins")

    def acknowledged(self, key: ProcessKey, number: int) -> None:
        """Judge that a trainer is told that it may forget its reports up to a number."""
        attempt = key.job_id, key.attempt
        nothing_follows = key.job_id in self._cancelled or attempt in self._failed
        fine = nothing_follows or number <= self._reports.get(attempt, 0)
        self._need(fine, f"{key} may forget its reports up to {number}; on the disk is {self._reports.get(attempt, 0)}")

    def _need_none_at_work(self, key: ProcessKey, what: str) -> None:
        others = [
            other
            for other, trainer in self._cluster.trainers.items()
            if other.job_id == key.job_id and other != key and trainer.process.begun and trainer.process.state == "up"
        ]
        self._need(not others, f"{key} {what} while {others} work on the same job")

    def _need(self, holds: bool, claim: str) -> None:  # noqa: FBT001 - reads as `assert` does
        if not holds:
            self.wrong.append(claim)
