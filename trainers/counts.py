"""What preparation counts in a split, and what it makes of it: an error, or warnings."""

from __future__ import annotations

from dataclasses import dataclass, field

from ftactors.core.errors import DatasetError
from trainers.rows import Row

_FIRST = 3


@dataclass(slots=True)
class Dropped:
    """Records that were dropped for one reason."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    """Where the first of them are."""


@dataclass(slots=True)
class Counts:
    """The records of a split and the rows that they became."""

    split: str
    records: int = 0
    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    blank: int = 0
    truncated: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Count a row that is kept."""
        self.rows += 1
        self.tokens += len(row.input_ids)
        self.trained_tokens += row.trained_tokens

    def drop(self, where: str, reason: str) -> None:
        """Count a record that is not."""
        of_reason = self.dropped.setdefault(reason, Dropped())
        of_reason.count += 1
        if len(of_reason.first) < _FIRST:
            of_reason.first.append(where)

    @property
    def dropped_records(self) -> int:
        """How many records were dropped, for any reason."""
        return sum(of_reason.count for of_reason in self.dropped.values())

    def check(self, source: str, max_dropped_ratio: float) -> None:
        """Return where there is enough to train on.

        Raises:
            DatasetError: there is not; the message names the first bad records.
        """
        filled = self.records - self.blank
        if filled == 0:
            blank = f": all its {self.records} rows are blank" if self.records else ""
            raise DatasetError(f"{source}: the {self.split} split is empty{blank}")
        if self.dropped_records > max_dropped_ratio * filled:
            raise DatasetError(
                f"{source}: {self.dropped_records} of {filled} rows of the {self.split} split cannot be used, more than"
                f" max_dropped_ratio={max_dropped_ratio:g} allows: {self._reasons()}",
                hint="mend the rows or name other columns; for long rows raise max_seq_length, or set overflow to"
                " 'truncate' or 'split'",
            )
        if self.trained_tokens == 0:
            why = f": {self._reasons()}" if self.dropped else ""
            raise DatasetError(f"{source}: the {self.split} split has no token to train on{why}")

    def warnings(self) -> list[str]:
        """Return what the user should know about rows that were not taken as they are."""
        said = []
        if self.dropped:
            said.append(f"{self.split}: {self.dropped_records} of {self.records} rows were dropped: {self._reasons()}")
        if self.truncated:
            said.append(f"{self.split}: {self.truncated} of {self.records} rows were truncated")
        return said

    def as_facts(self) -> dict[str, int]:
        """Return the numbers under the names that `DatasetPrepared` has for them."""
        return {
            f"{self.split}_rows": self.rows,
            f"{self.split}_tokens": self.tokens,
            f"{self.split}_trained_tokens": self.trained_tokens,
            f"{self.split}_dropped": self.dropped_records,
            f"{self.split}_blank": self.blank,
        }

    def _reasons(self) -> str:
        """Return the reasons, the most frequent first, each with the places of the first records."""
        by_count = sorted(self.dropped.items(), key=lambda item: -item[1].count)
        more = f"; and {len(by_count) - _FIRST} more reasons" if len(by_count) > _FIRST else ""
        return "; ".join(_reason(reason, dropped) for reason, dropped in by_count[:_FIRST]) + more


def _reason(reason: str, dropped: Dropped) -> str:
    places = ", ".join(dropped.first) + (", …" if dropped.count > len(dropped.first) else "")
    return f"{dropped.count} × {reason} ({places})"
