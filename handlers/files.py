"""The handler of `source_type="file_path"`: one file, a glob, or a directory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path

from ftactors.core.config import DataFormat, DatasetSourceConfig
from ftactors.core.errors import DatasetError
from handlers.base import Record
from handlers.file_splits import by_split
from handlers.formats import FORMATS, format_of, read_rows, row_count
from handlers.splits import SplitsHandler

_NOT_DATA = frozenset({"config.json", "dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"})
"""What `datasets` writes beside the data."""
_MOST_NAMES = 10


class FilesHandler(SplitsHandler):
    """Reads local files: jsonl, json, csv, parquet, arrow and txt, each also as `.gz`.

    The splits of a glob and of a directory are in the names of files or of their directories, by Hugging Face's
    convention; where none is, and for a single file, all is `train`. A line of txt is a row with the column `text`.
    """

    def split_names(self) -> list[str]:
        """Return the names of the splits that the files' names tell."""
        return list(self._files)

    def split_rows(self, name: str) -> Iterator[Record]:
        """Yield the rows of a split's files, the files in the order of their names."""
        for path in self._files[name]:
            label = path.relative_to(self._root)
            for values, place in read_rows(path, self._format):
                yield Record(values, f"{label}{place}")

    def split_size(self, name: str) -> int | None:
        """Return how many rows a split has, where the files say so in their heads."""
        sizes = [row_count(path, self._format) for path in self._files[name]]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def fingerprint(self) -> str:
        """Return a digest of the files' names and content."""
        digest = hashlib.blake2b(self._format.encode(), digest_size=16)
        for name, paths in sorted(self._files.items()):
            for path in paths:
                digest.update(f"\0{name}\0{path.relative_to(self._root)}\0".encode())
                digest.update(_content_digest(path))
        return digest.hexdigest()

    @cached_property
    def _files(self) -> Mapping[str, list[Path]]:
        asked = (self.source.train_split_name, self.source.validation_split_name)
        if len(self._found) == 1 and self._found[0] == Path(self.source.path_or_id).expanduser():
            return {"train": self._found}
        return by_split(self._found, self._root, names=[name.partition("[")[0] for name in asked if name is not None])

    @cached_property
    def _found(self) -> list[Path]:
        try:
            return _find(self.source)
        except OSError as error:
            raise DatasetError(f"{error.filename}: cannot be read: {error.strerror or error}") from error

    @cached_property
    def _root(self) -> Path:
        """The directory that names are relative to: those above it say nothing about splits."""
        return _root_of(self.source.path_or_id)

    @cached_property
    def _format(self) -> DataFormat:
        if self.source.format is not None:
            return self.source.format
        counts = Counter(format_of(path) for path in self._found)
        (known,) = counts if len(counts) == 1 else [None]
        if known is None:
            held = ", ".join(f"{count} {name or 'unknown'}" for name, count in counts.most_common())
            raise DatasetError(
                f"{self.source.path_or_id}: the names of its files do not tell one format ({held})",
                hint=f"set format to one of {', '.join(FORMATS)}",
            )
        return known


def _root_of(path_or_id: str) -> Path:
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    while has_magic(str(path)) and not path.exists():
        path = path.parent
    return path.parent if path.is_file() else path


def _find(source: DatasetSourceConfig) -> list[Path]:
    """Return the data files that a path, a directory or a glob names, in the order of their names."""
    path = Path(source.path_or_id).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        wanted = {source.format} if source.format else {*FORMATS}
        files = (file for file in path.rglob("*") if _is_data(file.relative_to(path)) and file.is_file())
        found = [file for file in files if format_of(file) in wanted]
    else:
        names = glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        found = [Path(name) for name in names if Path(name).is_file()]
    if not found:
        raise DatasetError(
            _what_is_there(path, source.format), hint=f"known formats are {', '.join(FORMATS)}, each also as .gz"
        )
    return sorted(found)


def _is_data(relative: Path) -> bool:
    return relative.name not in _NOT_DATA and not any(part.startswith((".", "__")) for part in relative.parts)


def _what_is_there(path: Path, asked: DataFormat | None) -> str:
    """Return what is wrong with a path that names no data, and what is there instead."""
    if path.is_dir():
        parent, wrong = path, f"has no file of {f'the format {asked}' if asked else 'a known format'}"
    else:
        parent = next(above for above in path.parents if above.is_dir())
        wrong = "matches no file" if has_magic(str(path)) else "does not exist"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in parent.iterdir())
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    close = get_close_matches(path.name, names, n=3, cutoff=0.6)
    if close and parent == path.parent:
        return f"{path}: {wrong}; did you mean {' or '.join(map(repr, close))}?"
    return f"{path}: {wrong}; {parent} holds {', '.join(names[:_MOST_NAMES]) or 'nothing'}{more}"


def _content_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "blake2b").digest()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
