"""How often checkpoints are written: at most once a minute, and never for more than 1 % of the time."""

import pytest

from edgetune.runs.recovery import ADAM_BYTES, COST_RATE, EVERY_S, FIRST_BYTES_S, CheckpointSchedule
from edgetune.utils.meter import Meter

ENDLESS = float("inf")


class Run:
    """A run of steps of half a second, whose checkpoints take as long as the test says."""

    def __init__(self, takes_s: float, asked_s: float | None) -> None:
        self.takes_s, self.now_s, self.written_s = takes_s, 0.0, list[float]()
        self.meter = Meter(clock=lambda: self.now_s)
        n_parameters = round(takes_s * FIRST_BYTES_S / ADAM_BYTES)
        self.schedule = CheckpointSchedule(asked_s, self.meter, n_parameters)

    def train(self, until_s: float) -> None:
        while self.now_s < until_s:
            self.now_s += 0.5
            if self.schedule.is_due(ENDLESS):
                self.written_s.append(self.now_s)
                with self.meter.phase("checkpoint"), self.schedule.writing():
                    self.now_s += self.takes_s

    @property
    def cost_rate(self) -> float:
        return self.meter.split_s()["checkpoint"] / self.meter.elapsed_s()


@pytest.mark.parametrize("takes_s", [0.01, 0.6, 0.9, 8.0])
def test_cost_stays_within_its_share_at_every_moment(takes_s: float) -> None:
    run = Run(takes_s, None)
    for until_s in (100.0, 200.0, 400.0, 3600.0):
        run.train(until_s)
        assert run.cost_rate <= COST_RATE * 1.001
    gaps = [b - a for a, b in zip([0.0, *run.written_s], run.written_s, strict=False)]
    assert min(gaps) >= EVERY_S
    assert max(gaps) <= max(EVERY_S, takes_s / COST_RATE) + takes_s + 1.0


def test_what_was_spent_before_a_break_counts() -> None:
    run = Run(0.9, None)
    run.meter.resume_from({"train": 125.0, "checkpoint": 1.8}, 0.0)
    run.train(100.0)
    assert not run.written_s
    run.train(200.0)
    assert run.written_s
    assert run.cost_rate <= COST_RATE * 1.001


def test_what_a_user_asks_for_is_done() -> None:
    run = Run(0.9, 5.0)
    run.train(60.0)
    assert len(run.written_s) == 9  # of 5 s and a batch and 0.9 s each
    never = Run(0.9, 0.0)
    never.train(3600.0)
    assert not never.written_s
