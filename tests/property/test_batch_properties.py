from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.data.batches import Batch, bucket_of, epoch_order, join
from edgetune.data.queues import BucketQueue

row_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=120).map(np.array)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 17)


def store(lengths: np.ndarray) -> Batch:
    """All rows as one batch; each row's tokens are its number, so that a mix-up shows."""
    n = len(lengths)
    return Batch(
        rows=np.arange(n),
        labels=np.arange(n) % 3,
        tokens=np.repeat(np.arange(n, dtype=np.int32), lengths),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        first_lengths=(lengths + 1) // 2,
        scored=np.arange(n) % 2 == 0,
    )


def assert_rows_are_whole(batch: Batch, lengths: np.ndarray) -> None:
    np.testing.assert_array_equal(batch.lengths, lengths[batch.rows])
    np.testing.assert_array_equal(batch.tokens, np.repeat(batch.rows, batch.lengths))
    np.testing.assert_array_equal(batch.labels, batch.rows % 3)
    np.testing.assert_array_equal(batch.first_lengths, (batch.lengths + 1) // 2)
    np.testing.assert_array_equal(batch.scored, batch.rows % 2 == 0)


@given(row_lengths, sizes, sizes, seeds, st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_nothing_is_lost_or_doubled(
    lengths: np.ndarray, stream_size: int, queue_size: int, seed: int, keep_rate: float
) -> None:
    rng = np.random.default_rng(seed)
    whole, queue = store(lengths), BucketQueue(queue_size)
    kept_rows: Counter[int] = Counter()
    out: Counter[int] = Counter()
    for rows in epoch_order(lengths, stream_size, rng):
        batch = whole.take(rows)
        kept = batch.take(rng.random(len(batch)) < keep_rate)
        kept_rows.update(kept.rows.tolist())
        queue.add(kept)
        for full in queue.full():
            assert len(full) == queue_size
            assert len(np.unique(bucket_of(full.lengths))) == 1
            assert_rows_are_whole(full, lengths)
            out.update(full.rows.tolist())
            if rng.random() < 0.2:  # the clock may say stop at any point
                break
        assert len(queue) == kept_rows.total() - out.total()
    left = list(queue.flush())
    assert all(len(batch) == queue_size for batch in left[:-1])
    for batch in left:
        assert_rows_are_whole(batch, lengths)
        out.update(batch.rows.tolist())
    assert out == kept_rows
    assert max(out.values(), default=1) == 1


@given(row_lengths, sizes, seeds)
@settings(max_examples=80, deadline=None)
def test_an_epoch_is_every_row_once_in_full_batches(lengths: np.ndarray, size: int, seed: int) -> None:
    batches, again = (epoch_order(lengths, size, np.random.default_rng(seed)) for _ in range(2))
    assert [rows.tolist() for rows in batches] == [rows.tolist() for rows in again]
    assert sorted(int(row) for rows in batches for row in rows) == list(range(len(lengths)))
    partial = [rows for rows in batches if len(rows) != size]
    assert len(partial) <= 1
    longest = bucket_of(lengths).max()
    assert all(bucket_of(lengths[rows]).max() == longest for rows in partial)
    n_first = seed % (len(lengths) + 1)
    first = list(batches.cut(n_first))
    assert np.concatenate([*first, []]).tolist() == batches.rows[:n_first].tolist()
    assert all(one.tolist() == whole.tolist() for one, whole in zip(first[:-1], batches, strict=False))
    mixed = sum(len(np.unique(bucket_of(lengths[rows]))) > 1 for rows in batches)
    assert mixed < len(np.unique(bucket_of(lengths))) or mixed == 0


@given(row_lengths, st.integers(1, 16), st.integers(0, 64))
@settings(max_examples=60, deadline=None)
def test_padding_comes_off_again(lengths: np.ndarray, multiple: int, width: int) -> None:
    batch = store(lengths)
    padded = batch.padded(pad_id=-1, multiple=multiple, width=width)
    real = padded["attention_mask"] == 1
    assert real.shape[1] % multiple == 0
    assert max(lengths.max(), width) <= real.shape[1] < max(lengths.max(), width) + multiple
    np.testing.assert_array_equal(padded["input_ids"][real], batch.tokens)
    assert (padded["input_ids"][~real] == -1).all()
    np.testing.assert_array_equal(real.sum(axis=1), lengths)
    np.testing.assert_array_equal((real & (padded["token_type_ids"] == 0)).sum(axis=1), batch.first_lengths)


@given(row_lengths, seeds, st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_take_and_join_are_inverse(lengths: np.ndarray, seed: int, cut: int) -> None:
    batch = store(lengths)
    order = np.random.default_rng(seed).permutation(len(batch))
    parts = [batch.take(order[:cut]), batch.take(order[cut:])]
    joined = join(parts)
    assert_rows_are_whole(joined, lengths)
    np.testing.assert_array_equal(joined.rows, order)


def plain_order(lengths: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The order of a pass as it is defined: shuffled, sorted by bucket, cut, and the batches shuffled."""
    shuffled = np.arange(len(lengths), dtype=np.int32)
    rng.shuffle(shuffled)
    grouped = shuffled[np.argsort(bucket_of(lengths)[shuffled], kind="stable")]
    starts = range(0, len(grouped), size)
    return [grouped[starts[i] : starts[i] + size] for i in rng.permutation(len(starts))]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 100), max_size=200), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_an_order_is_the_same_whatever_it_is_drawn_in(lengths: list[int], size: int, seed: int) -> None:
    own, plain = np.random.default_rng(seed), np.random.default_rng(seed)
    order = epoch_order(np.array(lengths, dtype=np.int32), size, own)
    expected = plain_order(np.array(lengths, dtype=np.int32), size, plain)
    assert [list(rows) for rows in order] == [list(rows) for rows in expected]
    assert own.bit_generator.state == plain.bit_generator.state
