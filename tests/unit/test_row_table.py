from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.selection.memory import RowLosses, RowTable, top

puts = st.lists(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 20, width=32)), max_size=8), max_size=6)


@pytest.mark.parametrize(
    ("scores", "share", "expected"),
    [
        ([1, 5, 3, 4], 0.5, [1, 3]),
        ([1, 5, 3, 4], 0.51, [1, 2, 3]),  # rounded up
        ([2, 1, 2, 2], 0.5, [0, 2]),  # of equals the first
        ([7, 8], 0.01, [1]),
        (list(range(100)), 0.07, list(range(93, 100))),  # not 8: 0.07 * 100 is a little above 7
        ([3, 1, 2], 1.0, [0, 1, 2]),
        ([], 0.5, []),
    ],
)
def test_top(scores: list[float], share: float, expected: list[int]) -> None:
    given_scores = np.array(scores, dtype=np.float64)
    assert top(given_scores, share).tolist() == expected
    assert given_scores.tolist() == scores


def test_of_many_equal_scores_the_first_are_the_top() -> None:
    scores = np.tile([1.0, 2.0, 3.0], 1000)
    assert top(scores, 0.1).tolist() == list(range(2, 900, 3))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0.01, 1))
def test_nothing_outside_the_top_is_higher(scores: list[float], share: float) -> None:
    values = np.array(scores)
    taken = np.zeros(len(values), dtype=np.bool_)
    taken[top(values, share)] = True
    assert taken.any()
    assert values[~taken].max(initial=-np.inf) <= values[taken].min()


def test_rows_never_put_have_the_default_however_far_they_lie() -> None:
    table = RowTable(7, np.int32)
    assert table.get(np.array([0, 10**12])).tolist() == [7, 7]
    table.put(np.array([2]), 1)
    assert table.get(np.array([1, 2, 3, 10**12])).tolist() == [7, 1, 7, 7]
    assert table.get(np.zeros(0, dtype=np.int64)).tolist() == []
    assert table.get(np.array([2])).dtype == np.int32


def test_growing_keeps_what_was_there() -> None:
    table = RowTable(-1, np.float64)
    for row in (0, 5, 3, 4000):
        table.put(np.array([row]), float(row))
    assert table.get(np.array([0, 3, 4, 5, 3999, 4000])).tolist() == [0, 3, -1, 5, -1, 4000]


def test_a_row_twice_is_added_to_twice_but_put_once() -> None:
    table = RowTable(0, np.float64)
    rows = np.array([3, 1, 3])
    table.add(rows, np.array([1.0, 10.0, 0.5]))
    assert table.get(np.array([1, 3])).tolist() == [10.0, 1.5]
    table.put(rows, np.array([1.0, 10.0, 0.5]))
    assert table.get(np.array([1, 3])).tolist() == [10.0, 0.5]


def test_neither_reading_nor_saving_lends_out_the_table_itself() -> None:
    table = RowTable(0, np.int32)
    table.put(np.array([0, 1]), np.array([4, 5]))
    table.get(np.array([0, 1]))[:] = 9
    table.state()[:] = 9
    saved = table.state()
    other = RowTable(0, np.int32)
    other.load_state(saved)
    saved[:] = 9
    for one in (table, other):
        assert one.get(np.array([0, 1])).tolist() == [4, 5]


@given(puts)
def test_losses_are_what_a_dict_would_hold(batches: list[list[tuple[int, float]]]) -> None:
    losses, expected = RowLosses(), {}
    for batch in batches:
        losses.measure(
            np.array([row for row, _ in batch], dtype=np.int64),
            np.array([loss for _, loss in batch], dtype=np.float64),
        )
        expected.update(dict(batch))
    rows, found = losses.measured()
    assert dict(zip(rows.tolist(), found.tolist(), strict=True)) == expected
    assert rows.tolist() == sorted(expected)
    asked = np.arange(70)
    assert losses.known(asked).tolist() == [row in expected for row in asked.tolist()]
    assert np.isnan(losses.get(asked)).tolist() == [row not in expected for row in asked.tolist()]


def test_a_loss_that_is_not_finite_measures_nothing() -> None:
    losses = RowLosses()
    losses.measure(np.array([0, 1, 2]), np.array([1.0, np.nan, np.inf]))
    losses.measure(np.array([0]), np.array([np.nan]))
    assert losses.known(np.array([0, 1, 2])).tolist() == [True, False, False]
    assert losses.get(np.array([0])).tolist() == [1.0]


def test_losses_pass_through_json_exactly() -> None:
    losses, again = RowLosses(), RowLosses()
    losses.measure(np.array([4, 1]), np.array([0.1, 0.7]))
    again.measure(np.array([9]), np.array([1.0]))  # what was there before is gone
    again.load_state(json.loads(json.dumps(losses.state(), default=np.ndarray.tolist, allow_nan=False)))
    for ours, theirs in zip(losses.measured(), again.measured(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    empty = RowLosses()
    empty.load_state(json.loads(json.dumps(RowLosses().state(), default=np.ndarray.tolist)))
    assert not len(empty.measured()[0])
