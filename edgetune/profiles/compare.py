"""How two profiles differ: B over A by backend and operation, at every point that both have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgetune.profiles.cost import same_shape
from edgetune.profiles.device_profile import DeviceProfile, Point
from edgetune.report.tables import Section

OPERATIONS = ("score", "train", "prefix")


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long an operation takes.

    Attributes:
        key: backend.
        op: operation.
        mean: geometric mean over points.
        low, high: smallest and largest.
        n: points.
    """

    key: str
    op: str
    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"backend": self.key, "op": self.op, "ratio": self.mean, "range": [self.low, self.high]} | {
            "n": self.n
        }


def make_ratio(key: str, op: str, ratios: Sequence[float]) -> Ratio:
    """Sum ratios up; there must be one at least."""
    mean = math.exp(sum(math.log(value) for value in ratios) / len(ratios))
    return Ratio(key, op, mean, min(ratios), max(ratios), len(ratios))


def compare(a: DeviceProfile, b: DeviceProfile) -> list[Ratio]:
    """Return B over A for every backend and operation with points in common."""
    found: list[Ratio] = []
    for one in a.backends:
        other = b.backend(one.key)
        if other is None:
            continue
        theirs = {_place(point): point.s for point in other.points}
        for op in OPERATIONS:
            shared = [p for p in one.points if p.op == op and _place(p) in theirs]
            if shared:
                found.append(make_ratio(one.key, op, [theirs[_place(p)] / p.s for p in shared]))
    return found


def _place(point: Point) -> tuple[str, int, int, int]:
    return point.op, point.batch, point.length, point.depth


def compare_sections(a: DeviceProfile, b: DeviceProfile) -> list[Section]:
    """Return the tables of a comparison."""
    title = f"{b.name} over {a.name}: below 1, {b.name} is faster"
    sections = [
        Section(
            title, ratio_rows(compare(a, b)), ("backend", "operation", "ratio", "range", "points"), right=True
        ),
        Section("Paid once per run (s)", _fixed(a, b), ("backend", "cost", a.name, b.name), right=True),
        Section("Remarks", [(remark,) for remark in _remarks(a, b)]),
    ]
    return [section for section in sections if section.rows]


def ratio_rows(ratios: Iterable[Ratio]) -> list[tuple[str, ...]]:
    """Return a row per ratio."""
    return [
        (one.key, one.op, f"{one.mean:.2f}", f"{one.low:.2f} to {one.high:.2f}", str(one.n)) for one in ratios
    ]


def _fixed(a: DeviceProfile, b: DeviceProfile) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("every run", name.removesuffix("_s"), f"{getattr(a, name):.2f}", f"{getattr(b, name):.2f}")
        for name in ("start_s", "report_s", "exit_s")
    ]
    for one in a.backends:
        other = b.backend(one.key)
        if other is None:
            continue
        for name in type(one.fixed).model_fields:
            here, there = getattr(one.fixed, name), getattr(other.fixed, name)
            rows.append((one.key, name.removesuffix("_s").replace("_", " "), f"{here:.2f}", f"{there:.2f}"))
    return rows


def _remarks(a: DeviceProfile, b: DeviceProfile) -> list[str]:
    remarks = []
    if not same_shape(a.model, b.model):
        remarks.append(f"They were measured on different models: {a.model.name} and {b.model.name}.")
    for one, other in ((a, b), (b, a)):
        only = [backend.key for backend in one.backends if other.backend(backend.key) is None]
        if only:
            remarks.append(f"Only {one.name} has {', '.join(only)}.")
        if one.noisy:
            remarks.append(f"{one.name} was measured on a busy machine.")
    return remarks
