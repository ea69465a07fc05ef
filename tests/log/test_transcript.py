"""A log as text gives the very rows back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftactors.core.errors import LogError
from ftactors.core.events import Recorded
from ftactors.log.rows import START, Head, row_of
from ftactors.log.transcript import line_of, row_of_line, rows_of
from ftactors.log.verify import verified
from tests.log.every_event import events
from tests.log.examples import chain, progress, submitted


@settings(max_examples=300, deadline=None)
@given(event=events(), seq=st.integers(1, 2**62), at=st.floats(0, 1e11), job_seq=st.none() | st.integers(1, 2**31))
def test_every_row_comes_back_from_its_line_as_it_was(event, seq, at, job_seq):
    row = row_of(Recorded(seq=seq, at=at, epoch=3, event=event, job_seq=job_seq), START.hash)
    line = line_of(row)

    assert row_of_line(line) == row
    assert "\n" not in line
    assert "\r" not in line


def test_the_chain_can_be_verified_in_the_text():
    rows = chain([submitted("jöb \u2028"), progress("jöb \u2028", 1)], START, epoch=1)
    text = "".join(f"{line_of(row)}\n" for row in rows)

    assert list(verified(rows_of(text.removesuffix("\n").split("\n")), Head(rows[-1].mark, 2))) == rows


def test_a_line_has_every_column_by_its_name_and_the_hash_in_digits():
    (row,) = chain([progress("j1", 1)], START, epoch=1)
    columns = json.loads(line_of(row))

    assert list(columns) == list(row._fields)
    assert columns["hash"] == row.hash.hex()
    assert columns["payload"] == row.payload


@pytest.mark.parametrize("line", ["", "seq=1", "{}", "[]", '{"hash":"00"}', '{"hash":"no digits"}', '{"hash":7}'])
def test_a_line_that_is_no_row_is_refused(line):
    with pytest.raises(LogError, match="no row of a log"):
        row_of_line(line)
