"""What rows would have cost without a filter, worked by hand."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.learners.loop_record import StepCosts


def prices(*steps: tuple[int, int, float], n_buckets: int = 6) -> StepCosts:
    found = StepCosts.empty(n_buckets)
    for step in steps:
        found.add(*step)
    return found


def seen(**n: int) -> np.ndarray:
    """Rows by bucket: `seen(b1=3)`."""
    return np.array([n.get(f"b{bucket}", 0) for bucket in range(6)])


def test_nothing_is_known_before_the_first_step() -> None:
    assert prices().mean_s() is None
    assert prices().mean_s_of(seen(b1=3)) is None
    assert prices((1, 4, 1.0)).mean_s_of(seen()) is None


def test_rows_cost_what_steps_of_their_length_took() -> None:
    """Bucket 1: 4 rows in 1 s and 4 in 3 s, 0.5 s each; bucket 3: 2 rows in 4 s, 2 s each."""
    found = prices((1, 4, 1.0), (3, 2, 4.0), (1, 4, 3.0))
    assert found.mean_s() == pytest.approx(8 / 10)
    assert found.mean_s_of(seen(b1=30, b3=10)) == pytest.approx((30 * 0.5 + 10 * 2) / 40)
    assert found.mean_s_of(seen(b1=1)) == 0.5  # a filter that kept long rows saw short ones


def test_a_length_without_a_step_lies_between_its_neighbours() -> None:
    """Per bucket of width 0.5 s at 1 and 2/3 s at 3: 7/12 at 2; beyond 3 it stays 2/3."""
    found = prices((1, 4, 2.0), (3, 2, 4.0))
    assert found.mean_s_of(seen(b2=5)) == pytest.approx(2 * 7 / 12)
    assert found.mean_s_of(seen(b5=1)) == pytest.approx(5 * 2 / 3)


@given(
    st.dictionaries(st.integers(1, 5), st.tuples(st.integers(1, 32), st.floats(0.01, 10)), min_size=1),
    st.lists(st.integers(0, 100), min_size=6, max_size=6).filter(any),
)
def test_a_mean_lies_between_the_lowest_and_the_highest_price_per_width(
    steps: dict[int, tuple[int, float]], n_seen: list[int]
) -> None:
    found = prices(*((bucket, n, seconds) for bucket, (n, seconds) in steps.items()))
    mean = found.mean_s_of(np.array(n_seen))
    per_width = [seconds / n / bucket for bucket, (n, seconds) in steps.items()]
    assert mean is not None
    assert min(per_width) * (1 - 1e-9) <= mean <= 5 * max(per_width) * (1 + 1e-9)


def test_its_state_can_be_restored() -> None:
    found = prices((1, 4, 1.0), (3, 2, 4.0))
    assert StepCosts(**asdict(found)).mean_s_of(seen(b2=1)) == found.mean_s_of(seen(b2=1))
