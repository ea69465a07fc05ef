"""Checkpoints: complete or not there, pruned across attempts, deleted by others."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftactors.core.events import CheckpointRef
from trainers.checkpoints import Checkpoints, beyond_limit, delete_unnamed, resumption
from trainers.durable import commit, digest_of
from trainers.tally import TALLY_FILE, Tally


def _checkpoint(path: Path, step: int) -> Path:
    path.mkdir(parents=True)
    (path / "weights").write_text(f"of step {step}")
    Tally(step=step).save(path)
    return path


def _ref(path: Path, step: int) -> CheckpointRef:
    return CheckpointRef(stage="training", step=step, path=str(path), digest=digest_of(path))


def _write(checkpoints: Checkpoints, step: int, keep: str | None = None) -> tuple[str, ...]:
    return checkpoints.commit(_checkpoint(checkpoints.staging / f"checkpoint-{step}", step), step, keep)[1]


@pytest.mark.parametrize(
    ("limit", "keep", "pruned"),
    [(4, None, []), (3, None, ["a"]), (1, None, ["a", "b", "c"]), (2, "a", ["b", "c"]), (1, "d", ["a", "b", "c"])],
)
def test_the_oldest_beyond_the_limit_are_pruned_but_neither_the_newest_nor_the_best(
    limit: int, keep: str | None, pruned: list[str]
):
    assert beyond_limit(["a", "b", "c", "d"], limit, keep) == pruned


def test_one_that_is_kept_counts_to_the_limit_where_that_leaves_room_for_the_newest():
    assert beyond_limit(["best", "b", "c"], 1, "best") == ["b"]


def test_pruning_names_the_oldest_and_deletes_nothing(tmp_path: Path):
    earlier = _checkpoint(tmp_path / "1" / "step-5", 5)
    checkpoints = Checkpoints(tmp_path / "2", [str(earlier)], limit=1)

    assert _write(checkpoints, 10) == (str(earlier),)
    assert _write(checkpoints, 15) == (str(tmp_path / "2" / "step-10"),)
    assert earlier.is_dir()  # until its trainer actor knows that the log names it no more
    assert checkpoints.path_of(10).is_dir()


def test_what_the_log_does_not_name_is_deleted_before_a_run_goes_on(tmp_path: Path):
    kept, pruned, untold = (
        _checkpoint(tmp_path / attempt / "checkpoints" / f"step-{step}", step)
        for attempt, step in (("1", 20), ("1", 10), ("2", 30))
    )
    model = _checkpoint(tmp_path / "1" / "model", 20)

    delete_unnamed(tmp_path, [str(kept)])

    assert [path.exists() for path in (kept, pruned, untold, model)] == [True, False, False, True]


def test_a_committed_directory_has_its_final_name_and_a_digest_of_its_contents(tmp_path: Path):
    first = commit(_checkpoint(tmp_path / "staged", 1), tmp_path / "a")
    second = commit(_checkpoint(tmp_path / "staged", 1), tmp_path / "b")
    other = commit(_checkpoint(tmp_path / "staged", 2), tmp_path / "c")

    assert first == second == digest_of(tmp_path / "a")
    assert other != first
    assert not (tmp_path / "staged").exists()


def test_nothing_takes_the_place_of_what_was_committed(tmp_path: Path):
    commit(_checkpoint(tmp_path / "staged", 1), tmp_path / "a")

    with pytest.raises(FileExistsError, match="cannot take its place"):
        commit(_checkpoint(tmp_path / "staged", 2), tmp_path / "a")


def test_the_digest_knows_names_from_contents(tmp_path: Path):
    for directory, name, content in [("a", "xy", "z"), ("b", "x", "yz")]:
        (tmp_path / directory).mkdir()
        (tmp_path / directory / name).write_text(content)

    assert digest_of(tmp_path / "a") != digest_of(tmp_path / "b")


def test_a_run_goes_on_at_the_checkpoint_that_the_log_names(tmp_path: Path):
    older, newer = _checkpoint(tmp_path / "step-5", 5), _checkpoint(tmp_path / "step-9", 9)

    found = resumption(_ref(older, 5), [str(older), str(newer)])

    assert (found.path, found.warnings) == (older, ())


def test_a_damaged_checkpoint_is_passed_over_for_the_newest_sound_one(tmp_path: Path):
    paths = [_checkpoint(tmp_path / f"step-{step}", step) for step in (1, 5, 9)]
    wanted = _ref(paths[2], 9)
    (paths[2] / "weights").write_text("of step 8")

    found = resumption(wanted, [str(path) for path in paths])

    assert found.path == paths[1]
    assert found.warnings == (f"the checkpoint of step 9 in {paths[2]} is damaged: going on from {paths[1]}",)


@pytest.mark.parametrize(("name", "content"), [("weights", "of"), ("weights", None), (TALLY_FILE, '{"step": 5, ')])
def test_a_fallback_that_lacks_files_or_parts_of_them_is_passed_over_too(
    name: str, content: str | None, tmp_path: Path
):
    paths = [_checkpoint(tmp_path / f"step-{step}", step) for step in (1, 5)]
    gone = CheckpointRef(stage="training", step=9, path=str(tmp_path / "step-9"), digest="d")
    (paths[1] / name).unlink()
    if content is not None:
        (paths[1] / name).write_text(content)

    assert resumption(gone, [str(path) for path in paths]).path == paths[0]


def test_without_a_sound_checkpoint_a_run_begins_again(tmp_path: Path):
    gone = CheckpointRef(stage="training", step=9, path=str(tmp_path / "step-9"), digest="d")

    found = resumption(gone, [gone.path])

    assert found.path is None
    assert found.warnings == (f"the checkpoint of step 9 in {tmp_path}/step-9 is gone: going on at the beginning",)
