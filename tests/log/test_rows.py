import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftactors.core.errors import LogError, LogRefusedError
from ftactors.core.events import ProgressReported, Recorded, ServiceStarted
from ftactors.log.errors import LogDamagedError
from ftactors.log.rows import START, Head, Mark, Row, recorded_of, row_of
from ftactors.log.verify import verified
from tests.log.every_event import events
from tests.log.examples import chain, progress, submitted

FOUR = chain([submitted("j1"), progress("j1", 1), progress("j1", 2), progress("j1", 3)], START, epoch=1)
HEAD = Head(end=FOUR[-1].mark, epoch=2)


def refused(rows: list[Row], head: Head = HEAD) -> tuple[int, int]:
    """Return how many rows were given out before the damage, and the seq of the first bad event."""
    sound: list[Row] = []
    with pytest.raises(LogDamagedError) as caught:
        sound.extend(verified(rows, head))
    return len(sound), caught.value.seq


@settings(max_examples=500, deadline=None)
@given(event=events(), seq=st.integers(1, 2**62), at=st.floats(0, 1e11), job_seq=st.none() | st.integers(1, 2**31))
def test_every_event_comes_back_from_its_row_as_it_was(event, seq, at, job_seq):
    recorded = Recorded(seq=seq, at=at, epoch=3, event=event, job_seq=job_seq)

    assert recorded_of(row_of(recorded, START.hash)) == recorded


def test_the_stored_form_of_an_event_never_changes():
    """A log of a released version must verify for ever: neither the payload nor the hash may come out otherwise."""
    event = ProgressReported(
        job_id="jöb", attempt=1, report=2, stage="training", step=7, metrics={"loss": 2.0, "acc": 1, "ppl": None}
    )

    row = row_of(Recorded(seq=9, at=12, epoch=3, event=event, job_seq=4), bytes(range(32)))

    payload = (
        '{"attempt":1,"job_id":"jöb","metrics":{"acc":1,"loss":2.0,"ppl":null},"peak_mem_gib":null,"report":2,'
        '"stage":"training","step":7,"tokens_per_second":null,"type":"progress_reported","v":1}'
    )
    assert row == (
        9,
        "jöb",
        4,
        1,
        2,
        3,
        "progress_reported",
        1,
        12.0,
        None,
        payload,
        bytes.fromhex("3fa96520a32b48e1eab77fe423c3c56800e847d826b2192693c609e4a90c983f"),
    )


def test_the_payload_is_the_same_whatever_order_the_metrics_came_in():
    metrics = {"loss": 2.0, "acc": 1}
    one = ProgressReported(job_id="j", attempt=1, stage="training", step=1, metrics=metrics)
    other = one.model_copy(update={"metrics": dict(reversed(metrics.items()))})

    assert list(one.metrics) != list(other.metrics)
    assert chain([one], START, epoch=1) == chain([other], START, epoch=1)


def test_rows_that_were_not_touched_are_verified():
    assert list(verified(FOUR, HEAD)) == FOUR


def test_the_tail_after_a_known_place_is_verified_alone():
    assert list(verified(FOUR[2:], HEAD, after=FOUR[1].mark)) == FOUR[2:]


@pytest.mark.parametrize("column", Row._fields[1:])
def test_a_change_in_any_column_is_found_at_its_row(column):
    other = {str: "x", int: 99, float: 0.25, bytes: bytes(32), type(None): 1}
    changed = FOUR[1]._replace(**{column: other[type(getattr(FOUR[1], column))]})

    assert refused([FOUR[0], changed, *FOUR[2:]]) == (1, 2)


@pytest.mark.parametrize("value", [None, b"{}", "{}", 3, float("inf"), "x" * 5])
@pytest.mark.parametrize("column", ["job_id", "at", "payload", "hash"])
def test_a_column_that_became_of_another_type_is_found_at_its_row(column, value):
    assert refused([FOUR[0], FOUR[1]._replace(**{column: value}), *FOUR[2:]]) == (1, 2)


def test_a_missing_row_is_named():
    assert refused([FOUR[0], *FOUR[2:]]) == (1, 2)


def test_swapped_rows_are_found():
    assert refused([FOUR[0], FOUR[2], FOUR[1], FOUR[3]]) == (1, 2)


def test_rows_that_end_before_the_head_are_refused():
    assert refused(FOUR[:3]) == (3, 4)


def test_rows_after_the_head_are_refused():
    assert refused(FOUR, Head(end=FOUR[2].mark, epoch=2)) == (4, 4)


def test_a_head_of_an_epoch_that_was_before_is_refused():
    assert refused(FOUR, Head(end=FOUR[-1].mark, epoch=1)) == (4, 4)


def test_a_witness_that_lags_behind_is_normal():
    assert list(verified(FOUR, Head(HEAD.end, HEAD.epoch, witness=FOUR[1].mark))) == FOUR


def test_a_witness_ahead_of_the_log_means_lost_rows():
    assert refused(FOUR, Head(HEAD.end, HEAD.epoch, witness=Mark(6, bytes(32)))) == (4, 5)


def test_a_witness_of_another_history_is_refused():
    assert refused(FOUR, Head(HEAD.end, HEAD.epoch, witness=Mark(3, bytes(32)))) == (2, 3)


@pytest.mark.parametrize("newer", [{"type": "job_teleported"}, {"v": 2}])
def test_an_event_of_a_newer_version_is_refused_by_its_name(newer):
    row = FOUR[0]._replace(**newer)

    with pytest.raises(LogRefusedError, match=f"event 1 is '{row.type}' in version {row.v}.*newer"):
        recorded_of(row)


def test_a_field_that_only_a_newer_version_knows_is_refused():
    row = FOUR[1]._replace(payload=FOUR[1].payload.replace('"step":1', '"step":1,"watts":300'))

    with pytest.raises(LogRefusedError, match=r"event 2 is 'progress_reported' with contents.*newer"):
        recorded_of(row)


def test_an_event_that_could_not_be_read_back_is_not_made_a_row():
    half_a_pair = ServiceStarted(config={"state_dir": "/srv/\ud800"}, by="ada")

    with pytest.raises(LogError, match=r"event 5 \(service_started\) cannot be stored.*surrogates"):
        row_of(Recorded(seq=5, at=1.0, epoch=1, event=half_a_pair), START.hash)


@pytest.mark.parametrize(
    ("event", "key"),
    [(submitted("j\0"), "job_id"), (progress("\0", 1), "job_id"), (submitted("j", "\0k"), "idempotency_key")],
)
def test_a_key_that_postgresql_could_not_hold_is_not_made_a_row(event, key):
    with pytest.raises(LogError, match=f"event 5 .* cannot be stored: {key} has a NUL character in it"):
        row_of(Recorded(seq=5, at=1.0, epoch=1, event=event, job_seq=1), START.hash)


def test_a_nul_character_elsewhere_is_stored():
    recorded = Recorded(seq=1, at=1.0, epoch=1, event=submitted("j", filler="a\0b"), job_seq=1)

    assert recorded_of(row_of(recorded, START.hash)) == recorded
    assert "\0" not in row_of(recorded, START.hash).payload
