"""What no measurement can have given: the nonsense that an edited or damaged profile holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

from edgetune.profiles.device_profile import BackendProfile, DeviceProfile, Point

LONGEST_CALL_S = 3600.0
SHRINK = 0.5  # a call with twice the tokens takes less than this share of the smaller one only by nonsense


def first_nonsense(profile: DeviceProfile) -> str | None:
    """Return in words the first thing that cannot be, None if everything can."""
    return next(_all_nonsense(profile), None)


def _all_nonsense(profile: DeviceProfile) -> Iterator[str]:
    for where, value in _numbers(profile.model_dump(), ""):
        if not math.isfinite(value):
            yield f"{where} is {value}"
    keys = [backend.key for backend in profile.backends]
    yield from (f"{key} is there {keys.count(key)} times" for key in keys if keys.count(key) > 1)
    for backend in profile.backends:
        yield from (
            f"{backend.key}: {problem}" for problem in _backend_nonsense(backend, profile.model.n_layers)
        )


def _numbers(value: Any, where: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _numbers(inner, f"{where}.{number}")
    elif isinstance(value, float):
        yield where, value


def _backend_nonsense(backend: BackendProfile, n_layers: int) -> Iterator[str]:
    points = {(p.op, p.batch, p.length, p.depth): p for p in backend.points}
    if len(points) < len(backend.points):
        yield "a point stands there twice"
    for op in ("score", "train"):
        if not any(p.op == op and p.depth == 0 for p in backend.points):
            yield f"it has no `{op}` at depth 0"
    for point in backend.points:
        if not point.low_s <= point.s <= point.high_s:
            yield f"{_name(point)} takes {point.s} s, outside of its own interval"
        if point.s > LONGEST_CALL_S:
            yield f"{_name(point)} takes {point.s:.0f} s"
        if point.depth > n_layers or (point.op == "prefix" and point.depth == 0):
            yield f"{_name(point)} has a depth that a model of {n_layers} layers cannot have"
        scored = points.get(("score", point.batch, point.length, point.depth))
        if point.op == "train" and scored is not None and point.high_s < SHRINK * scored.low_s:
            yield f"{_name(point)} takes {point.s:.3g} s, score alone {scored.s:.3g} s"
    for small, large in product(backend.points, repeat=2):
        if _far_larger(small, large) and large.high_s < SHRINK * small.low_s:
            yield f"{_name(large)} takes {large.s:.3g} s, {_name(small)} takes {small.s:.3g} s"


def _far_larger(small: Point, large: Point) -> bool:
    """Return whether one call does all that another does, on at least twice the tokens."""
    return (
        (small.op, small.depth) == (large.op, large.depth)
        and large.batch >= small.batch
        and large.length >= small.length
        and large.batch * large.length >= 2 * small.batch * small.length
    )


def _name(point: Point) -> str:
    return f"{point.op} at {point.batch} × {point.length} tokens, depth {point.depth},"
