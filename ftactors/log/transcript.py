"""A log as text: a line of JSON for each row, whole, so that the chain can be verified in the text as well."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from ftactors.core.errors import LogError
from ftactors.log.rows import Row


def line_of(row: Row) -> str:
    """Return a row as one line of JSON, in the order of its columns.

    The payload is text in it, the very one that was hashed; the hash is in hexadecimal digits.
    """
    return json.dumps(row._asdict() | {"hash": row.hash.hex()}, ensure_ascii=False)


def row_of_line(line: str) -> Row:
    """Return the row of a line.

    Raises:
        LogError: the line was not made from a row.
    """
    try:
        columns = json.loads(line)
        return Row(**columns | {"hash": bytes.fromhex(columns["hash"])})
    except (ValueError, TypeError, KeyError) as error:
        raise LogError(f"no row of a log: {line[:80]!r} ({error})") from error


def rows_of(lines: Iterable[str]) -> Iterator[Row]:
    """Yield the rows of lines; see `row_of_line`."""
    return map(row_of_line, lines)
