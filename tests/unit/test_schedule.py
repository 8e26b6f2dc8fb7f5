from __future__ import annotations

import pytest

from edgetune.learners.progress import automatic_lr, decayed_rate


@pytest.mark.parametrize(("progress", "expected"), [(0, 1e-3), (0.25, 7.5e-4), (1, 0), (1.2, 0)])
def test_falls_linearly_to_zero(progress: float, expected: float) -> None:
    assert decayed_rate(1e-3, progress) == pytest.approx(expected)


def test_automatic_rate() -> None:
    assert automatic_lr(384, 100) == pytest.approx(2e-4)
    assert automatic_lr(384, 500) == pytest.approx(1e-4)
    assert automatic_lr(384, 2105) == pytest.approx(5e-5)
    assert automatic_lr(384, 10**6) == automatic_lr(384, 2105)
    assert automatic_lr(768, 500) == pytest.approx(5e-5)
    assert automatic_lr(32, 500) == pytest.approx(1e-4)
