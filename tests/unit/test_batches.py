from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from fakes import FakeSource, ragged

from edgetune.data import batches
from edgetune.data.batches import Batch, RowStream, bucket_of, epoch_order, join, sequential_batches


def texts(batch: Batch) -> list[list[int]]:
    return [batch.tokens[a:b].tolist() for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]


def test_take_keeps_order_and_dtypes() -> None:
    batch = ragged([[1], [2, 3], [], [4, 5, 6]])
    taken = batch.take(np.array([3, 0, 2, 3]))
    assert texts(taken) == [[4, 5, 6], [1], [], [4, 5, 6]]
    assert taken.rows.tolist() == [3, 0, 2, 3]
    assert taken.first_lengths.tolist() == [2, 1, 0, 2]
    assert (taken.tokens.dtype, taken.offsets.dtype) == (batch.tokens.dtype, batch.offsets.dtype)
    assert texts(batch.take(np.array([False, True, False, True]))) == [[2, 3], [4, 5, 6]]


def test_take_all_copies_nothing_and_take_none_is_empty() -> None:
    batch = ragged([[1], [2, 3]])
    assert batch.take(np.ones(2, dtype=np.bool_)) is batch
    assert len(batch.take(np.zeros(2, dtype=np.bool_))) == 0
    assert texts(batch.take(np.array([], dtype=np.int64))) == []


def test_mark_scored() -> None:
    batch = ragged([[1], [2]])
    assert batch.mark_scored().scored.all()
    assert not batch.scored.any()
    assert join([batch, batch.mark_scored()]).scored.tolist() == [False, False, True, True]


def test_padded_layout() -> None:
    padded = ragged([[7, 8, 9], [5]]).padded(pad_id=99, multiple=4)
    assert padded["input_ids"].tolist() == [[7, 8, 9, 99], [5, 99, 99, 99]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert padded["token_type_ids"].tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]
    assert {array.dtype for array in padded.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize(("width", "expected"), [(0, 8), (9, 16), (512, 512)])
def test_padded_to_a_least_width(width: int, expected: int) -> None:
    assert ragged([[1, 2]]).padded(0, width=width)["input_ids"].shape == (1, expected)


def test_bucket_edges() -> None:
    assert bucket_of(np.array([1, 8, 9, 16, 17])).tolist() == [1, 1, 2, 2, 3]


def test_a_cut_is_what_taking_gives() -> None:
    whole = ragged([[7], [1, 2, 3], [4] * 9, [5, 6]])
    cut, taken = whole.cut(1, 3), whole.take(np.array([1, 2]))
    for name in ("rows", "labels", "tokens", "offsets", "first_lengths", "scored"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(taken, name), err_msg=name)


def test_epoch_order_edges() -> None:
    rng = np.random.default_rng(0)
    assert len(epoch_order(np.array([], dtype=np.int64), 4, rng)) == 0
    assert [len(rows) for rows in epoch_order(np.array([3, 3, 3]), 4, rng)] == [3]


def test_how_many_rows_are_grouped_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 1000)
    whole = epoch_order(lengths, 8, np.random.default_rng(1))
    monkeypatch.setattr(batches, "_PART_ROWS", 7)
    parts = epoch_order(lengths, 8, np.random.default_rng(1))
    np.testing.assert_array_equal(whole.rows, parts.rows)
    np.testing.assert_array_equal(whole.ends, parts.ends)


@pytest.mark.parametrize("at_least", [1, 8, 20, 1000])
def test_several_batches_of_the_stream_come_as_one(at_least: int) -> None:
    """100 rows in batches of 8, the one of 4 somewhere among them."""
    source, other = FakeSource(100), FakeSource(100)
    single, several = (RowStream(rows, 8, np.random.default_rng(1)) for rows in (source, other))
    for stream in (single, several):
        stream.begin()
    one_by_one = [single.next().rows for _ in range(13)]
    ends = np.cumsum([len(rows) for rows in one_by_one])
    found = []
    while len(several):
        found.append(several.next(at_least).rows)
        assert np.concatenate(found).size in ends  # whole batches
    assert all(at_least <= len(rows) < at_least + 8 for rows in found[:-1])
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(one_by_one))
    assert several.state()["left"].size == 0
    assert (source.n_released, other.n_released) == (1, 1)  # eight batches before the end


def test_a_pass_is_drawn_in_room_for_two_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_own_pages", lambda n: np.empty(n, dtype=np.int32))  # which is counted
    n_rows = 1_000_000
    source = SimpleNamespace(lengths=np.random.default_rng(0).integers(5, 60, n_rows).astype(np.int32))
    stream = RowStream(cast("Any", source), 8, np.random.default_rng(1))
    tracemalloc.start()
    try:
        stream.begin()
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        stream.begin()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept == pytest.approx(4.5 * n_rows, rel=0.05)
    assert most < 2.5 * kept


def test_sequential_batches_go_from_short_to_long() -> None:
    class Source:
        labels = np.zeros(5, dtype=np.int64)
        lengths = np.array([9, 1, 30, 2, 8])

        def batch(self, rows: np.ndarray) -> Batch:
            return ragged([[int(row)] * self.lengths[row] for row in rows])

    batches = list(sequential_batches(Source(), 2))
    assert [batch.lengths.tolist() for batch in batches] == [[1, 2], [8, 9], [30]]
