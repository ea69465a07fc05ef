"""The checkpoints of a job: written in this attempt, counted and pruned across all of them."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ftactors.core.events import CheckpointRef
from trainers.durable import commit, digest_of, sizes_of
from trainers.tally import Tally


class Checkpoints:
    """Names, keeps and prunes the checkpoints of an attempt.

    Pruning is no deleting: until the log has the checkpoint that prunes another, a restart may still need that one. Its
    trainer actor deletes it once the report is acknowledged.

    Args:
        directory: Where this attempt writes its own, as `step-<N>`.
        existing: Paths of those of earlier attempts, oldest first.
        limit: How many to keep: the newest, and beyond the limit the best one.
    """

    def __init__(self, directory: Path, existing: Sequence[str], limit: int) -> None:
        self.staging = directory / "staging"
        self._directory = directory
        self._existing = list(existing)
        self._limit = limit

    def path_of(self, step: int) -> Path:
        """Return where the checkpoint of a step is, once it is committed."""
        return self._directory / f"step-{step}"

    def commit(self, staged: Path, step: int, keep: str | None) -> tuple[str, tuple[str, ...]]:
        """Make a staged checkpoint count, and return its digest and the paths of those that no longer do.

        Args:
            staged: The complete directory.
            step: The optimizer step that it holds.
            keep: The path of one that must not be pruned.
        """
        digest = commit(staged, self.path_of(step))
        self._existing.append(str(self.path_of(step)))
        pruned = beyond_limit(self._existing, self._limit, keep)
        self._existing = [path for path in self._existing if path not in pruned]
        return digest, tuple(pruned)


def beyond_limit(paths: Sequence[str], limit: int, keep: str | None = None) -> list[str]:
    """Return the oldest of `paths` (oldest first) beyond the limit; the last one and `keep` are never among them."""
    excess = len(paths) - limit
    spare = [path for path in paths[:-1] if path != keep]
    return spare[: max(excess, 0)]


def delete_unnamed(attempts: Path, named: Collection[str]) -> None:
    """Delete the checkpoints of earlier attempts that the log does not name.

    They were pruned, or written and never told of, by an attempt that died before somebody could delete them.

    Args:
        attempts: The job's directory of attempts.
        named: Paths of all checkpoints that exist, by the log.
    """
    for path in attempts.glob("*/checkpoints/step-*"):
        if str(path) not in named:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a run goes on."""

    path: Path | None
    """A checkpoint; None: at the beginning."""
    warnings: tuple[str, ...] = ()


def resumption(wanted: CheckpointRef | None, others: Sequence[str]) -> Resumption:
    """Return where to go on: at the wanted checkpoint; where that is damaged, at the newest of the others that is not.

    Args:
        wanted: The checkpoint that the log names; None: there is none.
        others: Paths of all that the log names, oldest first.
    """
    if wanted is None:
        return Resumption(None)
    path = Path(wanted.path)
    if is_complete(path) and digest_of(path) == wanted.digest:
        return Resumption(path)
    fallback = next(
        (Path(other) for other in reversed(others) if other != wanted.path and is_complete(Path(other))), None
    )
    state, place = (
        "damaged" if path.exists() else "gone",
        "at the beginning" if fallback is None else f"from {fallback}",
    )
    warning = f"the checkpoint of step {wanted.step} in {path} is {state}: going on {place}"
    return Resumption(fallback, (warning,))


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint has all its files, each of the size that it was written with."""
    try:
        written = Tally.load(checkpoint).files
    except (OSError, ValidationError):
        return False
    return written.items() <= sizes_of(checkpoint).items()
