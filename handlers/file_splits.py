"""Which split a file belongs to, by its name or its directory's.

Source: Hugging Face's convention, https://huggingface.co/docs/datasets/repository_structure
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_KEYWORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_BETWEEN_WORDS = "[-._ 0-9]"


def by_split(paths: Sequence[Path], root: Path, names: Iterable[str] = ()) -> dict[str, list[Path]]:
    """Return the files of each split; all are `train` where no name tells a split.

    Where the name of any directory below `root` tells one, directories alone count, the nearest first; else the files'
    own names. Files that tell none are then left out, as by `datasets`.

    Args:
        paths: Files below `root`.
        names: Splits that are asked for, which are known beside the usual ones.
    """
    keywords = {**_KEYWORDS, **{name: name for name in names}}
    for tells in (_directories, _file):
        found: dict[str, list[Path]] = {}
        for path in paths:
            split = next((split for part in tells(path, root) if (split := _split_of(part, keywords))), None)
            if split is not None:
                found.setdefault(split, []).append(path)
        if found:
            return found
    return {"train": list(paths)}


def _directories(path: Path, root: Path) -> list[str]:
    """Return the names of the directories between root and file, the nearest first."""
    return [*reversed(path.relative_to(root).parent.parts)]


def _file(path: Path, _root: Path) -> list[str]:
    return [path.name]


def _split_of(name: str, keywords: dict[str, str]) -> str | None:
    """Return the split that the first keyword in a name stands for."""
    words = "|".join(re.escape(keyword) for keyword in sorted(keywords, key=len, reverse=True))
    found = re.search(rf"(?:^|{_BETWEEN_WORDS})({words})(?:{_BETWEEN_WORDS}|$)", name)
    return keywords[found.group(1)] if found else None
