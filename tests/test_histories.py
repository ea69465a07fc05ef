"""Logs that released versions wrote are read for ever, to the state that they had then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from ftactors.core.events import AnyEvent
from ftactors.core.phases import Phase
from ftactors.core.state import State
from ftactors.log.errors import LogDamagedError
from ftactors.log.rows import KNOWN
from ftactors.log.upcast import UPCASTERS
from tests.histories import write

HISTORIES = sorted(write.FOLDER.glob("*.jsonl"))
EACH = pytest.mark.parametrize("history", HISTORIES, ids=lambda path: path.stem)


def state_file(history: Path) -> Path:
    return history.with_suffix(".state.json")


def missing_in(found: Any, expected: Any, at: str = "") -> list[str]:
    """Return where `found` lacks something that `expected` has; later versions may know more."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        return [line for key in expected for line in missing_in(found.get(key), expected[key], f"{at}.{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return [line for index, (one, other) in pairs for line in missing_in(one, other, f"{at}[{index}]")]
    return [] if found == expected else [f"{at}: {found!r} is not {expected!r}"]


def phases_in(state: State) -> set[Phase]:
    ended = {Phase(finished.status.value) for finished in state.finished.values()}
    return ended | {job.phase for job in state.jobs.values()}


@EACH
def test_a_history_verifies_and_adds_up_to_what_it_did_when_it_was_written(history):
    expected = json.loads(state_file(history).read_text(encoding="utf-8"))
    *_, state = write.replayed(write.stored(history))
    found = json.loads(json.dumps(write.adds_up_to(state)))

    assert expected["jobs"]
    assert missing_in(found, expected) == []


@EACH
def test_a_history_whose_events_were_touched_does_not_verify(history):
    rows = write.stored(history)
    middle = len(rows) // 2
    rows[middle] = rows[middle]._replace(at=rows[middle].at + 0.001)

    with pytest.raises(LogDamagedError) as damaged:
        list(write.replayed(rows))
    assert damaged.value.seq == middle + 1


def test_histories_and_their_states_go_in_pairs():
    assert {state_file(history) for history in HISTORIES} == {*write.FOLDER.glob("*.state.json")}
    assert len(HISTORIES) >= 5


def test_the_histories_hold_every_event_that_there_is_and_nothing_that_is_not_read():
    stored = {(row.type, row.v) for history in HISTORIES for row in write.stored(history)}

    assert {kind.model_fields["type"].default for kind in get_args(AnyEvent)} == {kind for kind, _ in stored}
    assert KNOWN <= stored <= KNOWN | UPCASTERS.keys()


def test_the_histories_pass_through_every_phase():
    states = (state for history in HISTORIES for state in write.replayed(write.stored(history)))

    assert {phase for state in states for phase in phases_in(state)} == set(Phase)


def test_a_history_is_never_written_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(write, "FOLDER", tmp_path)
    first = write.main([])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    again = write.main(["a-users-log", str(HISTORIES[0])]), write.main(["a-users-log", str(HISTORIES[1])])

    assert (first, *again) == (0, 0, 1)
    assert before.items() <= {file.name: file.read_bytes() for file in tmp_path.iterdir()}.items()
    assert (tmp_path / "a-users-log.jsonl").read_bytes() == HISTORIES[0].read_bytes()
    assert capsys.readouterr().out.endswith("a-users-log: is there already, and stays as it is\n")
