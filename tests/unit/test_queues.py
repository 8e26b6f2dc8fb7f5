from __future__ import annotations

import numpy as np
import pytest
from fakes import ragged

from edgetune.data.queues import BucketQueue, Waiting


def test_full_batch_of_one_bucket_passes_straight_through() -> None:
    queue, batch = BucketQueue(2), ragged([[1], [2, 3]])
    queue.add(batch)
    assert next(queue.full()) is batch
    assert len(queue) == 0


def test_queue_is_first_in_first_out_and_separates_lengths() -> None:
    queue = BucketQueue(2)
    queue.add(ragged([[0], [1] * 9, [2]]))
    queue.add(ragged([[3], [4], [5]], first=3))
    assert [batch.rows.tolist() for batch in queue.full()] == [[0, 2], [3, 4]]
    assert len(queue) == 2
    assert [batch.rows.tolist() for batch in queue.flush()] == [[5, 1]]
    assert (len(queue), list(queue.flush()), list(queue.full())) == (0, [], [])


@pytest.mark.parametrize("method", ["full", "flush"])
def test_stopping_early_leaves_the_rest_in_the_queue(method: str) -> None:
    queue = BucketQueue(2)
    queue.add(ragged([[n] for n in range(7)]))
    assert next(getattr(queue, method)()).rows.tolist() == [0, 1]
    assert len(queue) == 5
    queue.add(ragged([[7]], first=7))
    assert sorted(int(row) for batch in queue.flush() for row in batch.rows) == [2, 3, 4, 5, 6, 7]


def test_one_large_addition_is_cut_without_copying() -> None:
    queue, large = BucketQueue(8), ragged([[n] for n in range(804)])
    queue.add(large)
    batches = list(queue.full())
    assert len(batches) == 100
    assert all(np.shares_memory(batch.tokens, large.tokens) for batch in batches)


def test_rows_in_all_three_places_wait_and_go_on_waiting() -> None:
    store, waiting, again = ragged([[n] * (n + 1) for n in range(12)]), Waiting(4), Waiting(4)
    waiting.to_score.add(store.take(np.array([11, 2])))
    for rows, losses in (([3, 4], [0.5, 0.1]), ([7], [0.9])):
        waiting.hold(store.take(np.array(rows)), np.array(losses))
    waiting.to_train.add(store.take(np.array([5])).mark_scored())
    assert (len(waiting), waiting.n_undecided) == (6, 3)

    again.load_state(waiting.state(), store.take)
    for one in (waiting, again):
        found = one.undecided()
        assert found is not None
        assert (found[0].rows.tolist(), found[1].tolist()) == ([3, 4, 7], [0.5, 0.1, 0.9])
        assert one.undecided() is None
        assert [batch.rows.tolist() for batch in one.to_score.flush()] == [[2, 11]]
        (left,) = one.to_train.flush()
        assert (left.rows.tolist(), left.scored.tolist(), len(one)) == ([5], [True], 0)


def test_nothing_waits_once_cleared() -> None:
    waiting = Waiting(4)
    waiting.to_score.add(ragged([[1]]))
    waiting.hold(ragged([[2]], first=1), np.array([0.3]))
    waiting.clear()
    assert (len(waiting), waiting.undecided()) == (0, None)
