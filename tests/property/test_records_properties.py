"""Quoted records: reading ahead line by line gives what parsing the joined lines gives."""

from __future__ import annotations

import csv

from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.data.records import FREE_COST, Dialect, LookAhead, allow_long_fields, joined_record, records
from edgetune.utils.limits import FEW_RECORD_LINES, MAX_RECORD_LINES

LINES = st.lists(st.text(st.sampled_from('a,"b '), max_size=12), min_size=1, max_size=12)
QUOTED = Dialect(",", quoted=True)


@settings(max_examples=400, deadline=None)
@given(LINES)
def test_a_record_is_what_its_lines_joined_are(lines: list[str]) -> None:
    allow_long_fields()
    upcoming = iter(lines)
    found = joined_record(upcoming, QUOTED)
    if found is None:
        return
    used = len(lines) - len(list(upcoming))
    (expected,) = csv.reader(["\n".join(lines[:used])], strict=True)
    assert found == expected


@settings(max_examples=400, deadline=None)
@given(LINES)
def test_every_line_is_in_one_record(lines: list[str]) -> None:
    numbers = [record.line for record in records(iter(lines), QUOTED)]
    assert numbers == sorted(set(numbers))
    filled = [i for i, line in enumerate(lines, start=1) if line.strip()]
    assert not filled or numbers[0] == filled[0]


@given(st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 10**6)), max_size=50))
def test_what_is_read_ahead_in_vain_is_bounded_by_what_was_read(steps: list[tuple[int, int]]) -> None:
    ahead, wasted = LookAhead(), 0
    for n_lines, n_chars in steps:
        assert ahead.n_lines == (MAX_RECORD_LINES if wasted < FREE_COST else FEW_RECORD_LINES)
        ahead.wasted(n_lines, n_chars)
        wasted += 64 * n_lines + n_chars
    ahead.passed(10**9, 0)
    assert ahead.n_lines == MAX_RECORD_LINES
