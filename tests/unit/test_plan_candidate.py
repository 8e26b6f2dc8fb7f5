"""What a row is reckoned to cost where rows are drawn, sorted and scored in groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgetune.data.batches import PAD_MULTIPLE, bucket_of
from edgetune.planning.candidate import EVALUATION_BATCH, EVALUATION_BATCHES, PROBE_BATCHES, Candidate
from edgetune.planning.plan import DataLengths
from edgetune.utils.types import IntArray
from tests.fakes import FakeCost, fake_costs, fake_device


def candidate(lengths: IntArray, max_length: int = 128, depth: int = 0) -> Candidate:
    device = fake_device()
    data = DataLengths(lengths, lengths, 128)
    return Candidate(device, data, fake_costs(), depth, max_length, 32, exported=True)


def scored_s(lengths: IntArray, n_batches: int, max_length: int, depth: int) -> float:
    """Seconds of scoring all rows in random groups, as a run does it."""
    cost, spent = FakeCost(), 0.0
    for start in range(0, len(lengths), n_batches * EVALUATION_BATCH):
        group = np.sort(np.minimum(lengths[start : start + n_batches * EVALUATION_BATCH], max_length))
        for first in range(0, len(group), EVALUATION_BATCH):
            rows = group[first : first + EVALUATION_BATCH]
            width = int(bucket_of(rows[-1])) * PAD_MULTIPLE
            spent += sum(
                cost.seconds(op, len(rows), width, depth) for op in ("prefix", "score")[depth == 0 :]
            )
    return spent


@pytest.mark.parametrize(("max_length", "depth"), [(128, 0), (48, 2)])
def test_groups_cost_what_a_run_pays_for_them(max_length: int, depth: int) -> None:
    lengths = np.random.default_rng(0).lognormal(3.0, 0.6, 20_480).astype(np.int32).clip(3, 120)
    found = candidate(lengths, max_length, depth)
    for row_s, n_batches in ((found.evaluate_row_s, EVALUATION_BATCHES), (found.probe_row_s, PROBE_BATCHES)):
        assert row_s * len(lengths) == pytest.approx(
            scored_s(lengths, n_batches, max_length, depth), rel=0.06
        )
    assert found.probe_row_s > found.evaluate_row_s


def test_rows_that_are_trained_in_parts_need_the_memory_of_one() -> None:
    lengths = np.full(100, 100)
    device, data = fake_device(), DataLengths(lengths, lengths, 128)

    def memory_mb(batch_size: int, most_tokens: int | None) -> float:
        costs = replace(fake_costs(), most_tokens=most_tokens)
        return Candidate(device, data, costs, 0, 128, batch_size, exported=True).memory_mb

    assert memory_mb(32, 2450) == memory_mb(24, 2450) == memory_mb(24, None)
    assert memory_mb(32, None) > memory_mb(32, 2450) > memory_mb(32, 10) == memory_mb(1, None)


def test_few_rows_are_one_group_and_none_cost_nothing() -> None:
    lengths = np.array([9, 3, 17])
    assert candidate(lengths).evaluate_row_s * 3 == pytest.approx(scored_s(lengths, 8, 128, 0))
    assert candidate(lengths[:0]).evaluate_row_s == 0.0
