"""From rows back to events, in the order of the log."""

from __future__ import annotations

import json

from ftactors.core.events import LogOpened, Recorded
from ftactors.log.rows import Row, recorded_of
from ftactors.log.upcast import UPCASTERS, Upcasters

_OPENING = LogOpened.model_fields["type"].default


class Reader:
    """Gives the events of rows, and remembers which version of ftactors wrote them.

    Rows are to come in their order: each opening of the log names the version that wrote what follows.
    """

    def __init__(self, upcasters: Upcasters = UPCASTERS) -> None:
        self.writer: str | None = None
        """The version that wrote the last row; None where no opening was read."""
        self._upcasters = upcasters

    def recorded(self, row: Row) -> Recorded:
        """Return the event of a row.

        Raises:
            LogTooNewError: a newer version of ftactors wrote it; the message names that version.
        """
        if row.type == _OPENING:
            self.writer = version_in(row)
        return recorded_of(row, writer=self.writer, upcasters=self._upcasters)


def version_in(row: Row) -> str | None:
    """Return the version of ftactors that an opening of the log names, be that opening known or not."""
    try:
        version = json.loads(row.payload).get("version")
    except (ValueError, AttributeError):  # no JSON, or no object
        return None
    return version if isinstance(version, str) else None
