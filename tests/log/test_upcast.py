"""Events of older versions are read, those of newer ones refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ftactors import __version__
from ftactors.core.events import JobCancelled, LogOpened
from ftactors.log.errors import LogTooNewError
from ftactors.log.reader import Reader
from ftactors.log.rows import START, Row, recorded_of
from ftactors.log.upcast import upcast
from tests.log.examples import cancelled, chain, progress

KNOWN = {("ended", 3)}
STEPS = {
    ("stopped", 1): lambda document: {**document, "v": 2, "clean": True},
    ("stopped", 2): lambda document: {**document, "type": "ended", "v": 3},
    ("round", 1): lambda document: {**document, "v": 2},
    ("round", 2): lambda document: {**document, "v": 1},
}
OPENED = LogOpened(cluster_id="c", namespace="n", actor_id="a", node_id="n", pid=1, version="0.9.2")


def renamed(row: Row, kind: str, v: int, **fields: Any) -> Row:
    """Return the row as another version would have written it."""
    payload = json.loads(row.payload) | {"type": kind, "v": v} | fields
    return row._replace(type=kind, v=v, payload=json.dumps(payload))


def rows() -> list[Row]:
    return chain([OPENED, progress("j1", 1), cancelled("j1")], START, epoch=1)


def test_an_event_is_brought_up_step_by_step():
    payload = upcast(("stopped", 1), '{"type":"stopped","v":1,"job":"j"}', KNOWN, STEPS)

    assert payload is not None
    assert json.loads(payload) == {"type": "ended", "v": 3, "job": "j", "clean": True}


def test_the_payload_of_an_event_that_is_known_is_not_touched():
    assert upcast(("ended", 3), "not even JSON", KNOWN, STEPS) == "not even JSON"


@pytest.mark.parametrize("name", [("stopped", 9), ("other", 1), ("round", 1)])
def test_no_way_to_an_event_that_is_known_is_none(name):
    assert upcast(name, json.dumps({"type": name[0], "v": name[1]}), KNOWN, STEPS) is None


def test_a_row_of_an_older_version_is_read_as_todays_event_in_its_place():
    def with_who(document: dict[str, Any]) -> dict[str, Any]:
        return {"type": "job_cancelled", "v": 1, "job_id": document["job_id"], "request_id": "?", "by": "unknown"}

    opened, *_, last = rows()
    old = renamed(last, "job_removed", 1)
    reader = Reader({("job_removed", 1): with_who})
    reader.recorded(opened)

    recorded = reader.recorded(old)

    assert recorded.event == JobCancelled(job_id="j1", request_id="?", by="unknown")
    assert (recorded.seq, recorded.at, recorded.epoch, recorded.job_seq) == (3, last.at, 1, last.job_seq)


@pytest.mark.parametrize(
    ("newer", "what"),
    [
        ({"kind": "job_archived", "v": 1}, "'job_archived' in version 1, which"),
        ({"kind": "job_cancelled", "v": 2}, "'job_cancelled' in version 2, which"),
        ({"kind": "job_cancelled", "v": 1, "why": "full"}, "'job_cancelled' with contents (why) that"),
        ({"kind": "job_cancelled", "v": 1, "stage": "resting"}, "'job_cancelled' with contents (stage) that"),
    ],
)
def test_what_a_newer_version_wrote_is_refused_with_the_version_that_is_needed(newer, what):
    opened, _, last = rows()
    reader = Reader()
    reader.recorded(opened)

    with pytest.raises(LogTooNewError) as refused:
        reader.recorded(renamed(last, **newer))

    assert str(refused.value) == (
        f"event 3 is {what} ftactors {__version__} does not know: "
        "it was written by ftactors 0.9.2; install 0.9.2 or newer"
    )


def test_an_opening_of_a_newer_form_still_tells_its_version():
    opened, *_ = rows()

    with pytest.raises(LogTooNewError, match=r"event 1 is 'log_opened' in version 2.*install 0\.9\.2 or newer"):
        Reader().recorded(renamed(opened, "log_opened", 2, host="h"))


@pytest.mark.parametrize("payload", ["no JSON", "[]", '{"version": 7}'])
def test_an_opening_that_tells_no_version_is_refused_all_the_same(payload):
    opened, *_ = rows()

    with pytest.raises(LogTooNewError, match=r"event 1 is 'log_opened' in version 2.*a newer one wrote it"):
        Reader().recorded(opened._replace(v=2, payload=payload))


def test_the_version_of_the_newest_opening_is_the_one_that_is_needed():
    later = OPENED.model_copy(update={"version": "1.4.0"})
    one, two, last = chain([OPENED, later, cancelled("j1")], START, epoch=1)
    reader = Reader()
    for row in (one, two):
        reader.recorded(row)

    assert reader.writer == "1.4.0"
    with pytest.raises(LogTooNewError, match=r"install 1\.4\.0"):
        reader.recorded(renamed(last, "job_archived", 1))


@pytest.mark.parametrize("writer", [None, __version__])
def test_nobody_is_sent_to_install_the_version_that_is_there(writer):
    *_, last = rows()

    with pytest.raises(LogTooNewError, match="does not know: a newer one wrote it; install that"):
        recorded_of(renamed(last, "job_archived", 1), writer=writer)
