"""Readers of file formats: each yields a file's rows with their places, and says where a broken one is."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from ftactors.core.config import DataFormat
from ftactors.core.errors import DatasetError

Row = tuple[Mapping[str, Any], str]
"""A row's values, and its place in the file, such as `:17` (a line) or ` row 17`."""

FORMATS: tuple[str, ...] = get_args(DataFormat)
_SUFFIXES: dict[str, DataFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "txt",
}
_ROWS_AT_ONCE = 1000
_LONGEST_FIELD = 2**31 - 1


def format_of(path: Path) -> DataFormat | None:
    """Return the format that a file's name tells, or None."""
    return _SUFFIXES.get(Path(path.name.removesuffix(".gz")).suffix.lower())


def read_rows(path: Path, file_format: DataFormat) -> Iterator[Row]:
    """Yield a file's rows in their order.

    Raises:
        DatasetError: the file cannot be read, or a row is broken; the message has the file, the line and the reason.
    """
    try:
        yield from _READERS[file_format](path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{path}: is not a whole gzip file: {error}") from error
    except pa.ArrowException as error:
        raise DatasetError(f"{path}: cannot be read as {file_format}: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error


def row_count(path: Path, file_format: DataFormat) -> int | None:
    """Return how many rows a file has, or None where that takes reading all of it."""
    if file_format != "parquet" or path.suffix == ".gz":
        return None
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: cannot be read as parquet: {error}") from error


def _lines(path: Path) -> Iterator[str]:
    """Yield a UTF-8 file's lines with their ends."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                reason = f"is not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}"
                raise DatasetError(f"{path}:{number}: {reason}") from error


def _not_json(path: Path, line: int, column: int, error: json.JSONDecodeError) -> DatasetError:
    return DatasetError(f"{path}:{line}: is not JSON: {error.msg.removesuffix(' at')} at column {column}")


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if line.isspace():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise _not_json(path, number, error.pos + 1, error) from error
        except RecursionError as error:
            raise DatasetError(f"{path}:{number}: is not JSON that can be read: {error}") from error
        if not isinstance(values, dict):
            raise DatasetError(f"{path}:{number}: is {_kind(values)}, where each line must be an object")
        yield values, f":{number}"


def _json(path: Path) -> Iterator[Row]:
    """Yield the rows of an array of objects, or of JSON lines, which many give the name `.json` too."""
    first = next((line for line in _lines(path) if not line.isspace()), "")
    if not first.lstrip().startswith("["):
        yield from _jsonl(path)
        return
    try:
        rows = json.loads("".join(_lines(path)))
    except json.JSONDecodeError as error:
        raise _not_json(path, error.lineno, error.colno, error) from error
    except RecursionError as error:
        raise DatasetError(f"{path}: is not JSON that can be read: {error}") from error
    for number, values in enumerate(rows, start=1):
        if not isinstance(values, dict):
            raise DatasetError(f"{path} row {number}: is {_kind(values)}, where each row must be an object")
        yield values, f" row {number}"


def _kind(value: object) -> str:
    """Return what JSON calls a value that is no object."""
    kinds = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_FIELD)  # the default is 128 KiB, which a document exceeds; it is the process's
    rows = csv.reader(_lines(path), strict=True)
    line = 1
    try:
        header = next(rows, [])
        if len(set(header)) < len(header):
            raise DatasetError(f"{path}:1: the header names a column twice: {', '.join(header)}")
        line = rows.line_num + 1
        for fields in rows:
            if len(fields) not in (0, len(header)):
                raise DatasetError(f"{path}:{line}: has {len(fields)} fields, but the header has {len(header)}")
            if fields:
                yield dict(zip(header, fields, strict=True)), f":{line}"
            line = rows.line_num + 1  # a quoted field may hold line ends
    except csv.Error as error:
        raise DatasetError(f"{path}:{line}: is not CSV: {error}") from error


def _txt(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        yield {"text": line.rstrip("\r\n")}, f":{number}"


def _parquet(path: Path) -> Iterator[Row]:
    with _unpacked(path) as plain, pq.ParquetFile(plain) as file:
        yield from _rows_of(file.iter_batches(batch_size=_ROWS_AT_ONCE))


def _arrow(path: Path) -> Iterator[Row]:
    """Yield the rows of an IPC stream, which is what `datasets` writes, or of an IPC file, which is Feather."""
    with _unpacked(path) as plain, pa.memory_map(str(plain)) as source:
        if source.read(6) == b"ARROW1":
            with pa.ipc.open_file(source) as file:
                yield from _rows_of(file.get_batch(number) for number in range(file.num_record_batches))
        else:
            source.seek(0)
            with pa.ipc.open_stream(source) as stream:
                yield from _rows_of(iter(stream))


def _rows_of(batches: Iterator[pa.RecordBatch]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):  # an Arrow file may be a single batch
            for values in batch.slice(start, _ROWS_AT_ONCE).to_pylist():
                number += 1
                yield values, f" row {number}"


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """Yield the file itself, or where it is `.gz`, a temporary copy that can be read from any place."""
    if path.suffix != ".gz":
        yield path
        return
    with tempfile.NamedTemporaryFile() as copy:
        with gzip.open(path) as packed:
            shutil.copyfileobj(packed, copy)
        copy.flush()
        yield Path(copy.name)


_READERS: dict[DataFormat, Callable[[Path], Iterator[Row]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
    "arrow": _arrow,
    "txt": _txt,
}
