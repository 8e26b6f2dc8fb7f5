"""Methods as points of accuracy and time, and which of them no other beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """A method in the picture of accuracy against time.

    Attributes:
        method: its name.
        seconds: its time, above 0.
        accuracy: mean over seeds, in [0, 1].
        low: lower end of its interval.
        high: upper end.
        n_seeds: runs it was measured by.
    """

    method: str
    seconds: float
    accuracy: float
    low: float
    high: float
    n_seeds: int


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in time and accuracy, quickest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.seconds, -point.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front
