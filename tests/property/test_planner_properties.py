"""The planner keeps its promises for every budget, device and data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.planning.candidate import points_lost, probe_points_lost
from edgetune.planning.clock import LEAST_MARGIN_S
from edgetune.planning.plan import (
    LINEAR_PROBE,
    NGRAMS_ALONE,
    Constraints,
    DataLengths,
    DeviceCosts,
    FittedNgrams,
    Limits,
    Plan,
    Plans,
)
from edgetune.planning.planner import (
    LEAST_NGRAMS_S,
    NGRAMS_FILES_S,
    NGRAMS_RATE,
    PROBE_NGRAMS_RATE,
    make_plans,
    ngrams_plan,
)
from edgetune.utils.errors import BudgetError
from tests.fakes import FakeCost, fake_costs, fake_device


def shape(n_rows: int, longest: int, seed: int = 0, n_held_out: int = 0) -> DataLengths:
    rng = np.random.default_rng(seed)
    return DataLengths(
        lengths=rng.integers(3, longest + 1, n_rows),
        eval_lengths=rng.integers(3, longest + 1, max(20, n_rows // 10)),
        max_length=128,
        n_held_out=n_held_out,
    )


Shapes = st.builds(
    shape, st.integers(50, 5000), st.integers(8, 128), st.integers(0, 5), st.sampled_from([0, 0, 30, 500])
)
Costs = st.builds(FakeCost, st.floats(1e-5, 1e-3), st.floats(0, 0.05))
Devices = st.builds(
    lambda one, other, start_s, export_s: fake_device(
        fake_costs("ort-fp32", one, export_s=export_s), fake_costs("torch-fp32", other), start_s=start_s
    ),
    Costs,
    Costs,
    st.floats(0, 5),
    st.floats(0, 15),
)


def with_probe(device: DeviceCosts) -> DeviceCosts:
    """Add a backend that opens at once and trains nothing."""
    opens = dict.fromkeys(("import_s", "open_s", "open_depth_s", "export_s", "save_s", "save_model_s"), 0.3)
    probe = replace(fake_costs("onnx-fp32", device.backends[0].cost, **opens), key="onnx", trains=False)
    return replace(device, backends=(*device.backends, probe))


Devices = Devices | Devices.map(with_probe)
Deadlines = st.floats(5, 5000)
Some = Constraints(batch_size=32)


def plans_or_none(
    device: DeviceCosts, data: DataLengths, deadline_s: float, constraints: Constraints = Some
) -> Plans | None:
    try:
        return make_plans(device, data, Limits(deadline_s), constraints)
    except BudgetError:
        return None


def most_rows(plans: Plans) -> dict[str, int]:
    """Return each method's most rows: a head fitted on all of them is not a training of a few fewer."""
    most: dict[str, int] = {}
    for plan in plans.ranked:
        if plan.method == NGRAMS_ALONE:  # only where nothing else fits
            continue
        most[plan.method] = max(plan.n_rows, most.get(plan.method, 0))
    return most


@settings(max_examples=40, deadline=None)
@given(Devices, Shapes, Deadlines, st.floats(1.0, 4.0))
def test_more_time_is_never_planned_worse(
    device: DeviceCosts, data: DataLengths, deadline_s: float, factor: float
) -> None:
    less, more = (plans_or_none(device, data, s) for s in (deadline_s, deadline_s * factor))
    if less is not None:
        assert more is not None
        assert more.best.expected_points >= less.best.expected_points - 0.02


@settings(max_examples=40, deadline=None)
@given(Devices, Shapes, Deadlines)
def test_an_encoder_that_cannot_read_the_texts_is_not_trained_unless_asked_for(
    device: DeviceCosts, data: DataLengths, deadline_s: float
) -> None:
    foreign = replace(data, unknown_rate=0.4)
    plans = plans_or_none(device, foreign, deadline_s)
    if not data.n_held_out:  # there are no n-grams that could answer in its place
        assert plans == plans_or_none(device, data, deadline_s)
    elif plans is not None:
        assert not any(plan.trains for plan in plans.ranked)
        assert not any(plan.grows for plan in plans.ranked if plan.method == LINEAR_PROBE)
    fixed = replace(Some, depth=0)
    assert plans_or_none(device, foreign, deadline_s, fixed) == plans_or_none(device, data, deadline_s, fixed)
    unlimited = (make_plans(device, shape, Limits(None), Some) for shape in (foreign, data))
    assert next(unlimited) == next(unlimited)


@settings(max_examples=40, deadline=None)
@given(Devices, Shapes, Deadlines)
def test_reserves_are_never_spent(device: DeviceCosts, data: DataLengths, deadline_s: float) -> None:
    plans = plans_or_none(device, data, deadline_s)
    if plans is None:
        return
    for plan in plans.ranked:
        assert plan.total_s <= deadline_s * (1 + 1e-9)
        assert all(seconds >= 0 for seconds in plan.lines.values())
        assert sum(plan.lines.values()) == pytest.approx(plan.total_s)
        if plan.method == NGRAMS_ALONE:
            assert data.n_held_out > 0
            assert plan.lines["ngrams"] >= LEAST_NGRAMS_S
            continue
        costs = plans.costs(plan).fixed
        assert plan.lines["save"] >= costs.save_s
        if plans.costs(plan).trains:  # else there is no picture to draw, and PyTorch was not imported
            assert plan.lines["report"] == device.report_s
            assert plan.lines["exit"] == device.exit_s
        assert 0 < plan.lines["report"] <= max(device.report_s, NGRAMS_FILES_S)
        assert plan.lines["margin"] >= LEAST_MARGIN_S
        assert plan.lines["ngrams"] <= PROBE_NGRAMS_RATE * deadline_s
        assert plan.lines["ngrams"] <= NGRAMS_RATE * deadline_s or not plans.costs(plan).trains
        assert (plan.lines["ngrams"] > 0) == (plan.lines["ensemble"] > 0) == (data.n_held_out > 0)
        assert plan.n_eval >= min(len(data.eval_lengths), 200)


def test_ngrams_alone_get_the_time_of_a_second_fit_where_that_does_not_pay() -> None:
    device = fake_device(fake_costs("ort-fp32", FakeCost(1e-3, 0.05)))
    once, twice = (
        ngrams_plan(device, shape(200_000, 60, n_held_out=n), Limits(20.0), 20.0) for n in (1_000, 20_000)
    )
    assert once is not None
    assert twice is not None
    assert once.lines["ensemble"] == 0
    assert once.lines["ngrams"] == pytest.approx(twice.lines["ngrams"] + twice.lines["ensemble"], abs=0.5)


@settings(max_examples=40, deadline=None)
@given(Costs, Shapes, Deadlines, st.floats(0.2, 1.0), st.integers(0, 5))
def test_a_faster_device_never_gets_fewer_rows(
    cost: FakeCost, data: DataLengths, deadline_s: float, faster: float, depth: int
) -> None:
    quick = FakeCost(cost.token_s * faster, cost.call_s * faster)
    constraints = Constraints(batch_size=32, depth=depth, max_length=128)
    slow_plans, quick_plans = (
        plans_or_none(fake_device(fake_costs(cost=one)), data, deadline_s, constraints)
        for one in (cost, quick)
    )
    if slow_plans is not None:
        assert quick_plans is not None
        slow_rows, quick_rows = (most_rows(plans) for plans in (slow_plans, quick_plans))
        for method, n_rows in slow_rows.items():
            # With more rows evaluated in the same share of the time, rounding may cost the time of one row.
            assert quick_rows[method] >= n_rows - 1


@settings(max_examples=40, deadline=None)
@given(Devices, Shapes, st.floats(0.1, 4))
def test_what_is_called_the_smallest_deadline_is_enough(
    device: DeviceCosts, data: DataLengths, deadline_s: float
) -> None:
    refusal = None
    try:
        make_plans(device, data, Limits(deadline_s), Some)
    except BudgetError as error:
        refusal = error
    if refusal is not None:
        assert refusal.exit_code == 2
        assert "deadline" in str(refusal)
        parts = str(refusal).split("is about ")[1].rstrip(".").split()
        seconds = float(parts[0]) if parts[1] == "s" else 60 * float(parts[0]) + float(parts[2])
        assert make_plans(device, data, Limits(seconds + 1), Some).ranked


@settings(max_examples=30, deadline=None)
@given(Devices, Shapes, st.floats(20, 2000), st.floats(100, 50_000))
def test_energy_is_a_deadline_too(
    device: DeviceCosts, data: DataLengths, deadline_s: float, energy_j: float
) -> None:
    try:
        plans = make_plans(device, data, Limits(deadline_s, energy_j), Some)
    except BudgetError:
        return
    assert plans.best.energy_j <= energy_j * (1 + 1e-9)
    assert plans.deadline_s == pytest.approx(min(deadline_s, energy_j / device.busy_w))


@pytest.mark.parametrize(
    ("n_rows", "passes", "key"), [(1000, 3, "torch-bf16"), (200, 1, "ort-fp32")]
)  # a short run stays where starting is cheap
def test_without_a_deadline_all_passes_are_made_by_the_quicker_backend(
    n_rows: int, passes: int, key: str
) -> None:
    slow = fake_costs("ort-fp32", FakeCost(4e-4), import_s=0.3, save_s=0.5)
    quick = fake_costs("torch-bf16", FakeCost(1e-4), import_s=6.0, save_s=5.0)
    constraints = Constraints(depth=0, max_length=128, batch_size=32, passes=passes)
    best = make_plans(fake_device(slow, quick), shape(n_rows, 40), Limits(None), constraints).best
    assert (best.key, best.n_rows, best.n_eval) == (key, n_rows * passes, n_rows // 10)
    assert math.isfinite(best.total_s)


def test_ngrams_that_were_fitted_sooner_than_planned_leave_time_for_an_encoder() -> None:
    data = replace(shape(13_500, 14, n_held_out=1500), n_classes=150)
    device = with_probe(fake_device(fake_costs(cost=FakeCost(5.5e-4), open_s=2.0)))

    def planned(took_s: float, again_s: float) -> Plan:
        fitted = replace(data, ngrams=FittedNgrams(took_s, again_s))
        return make_plans(device, fitted, Limits(20.0, already_s=2.5 + took_s), Some).best

    quick, slow = planned(2.0, 1.5), planned(9.0, 9.0)
    before = make_plans(device, data, Limits(20.0, already_s=2.5), Some).best
    assert before.method == slow.method == NGRAMS_ALONE
    assert quick.method == LINEAR_PROBE
    assert quick.lines["start"] == 2.5
    assert quick.lines["ngrams"] == 2.0
    assert quick.refit_s == 1.5
    assert quick.total_s <= 20.0


def test_less_time_freezes_more() -> None:
    data = shape(50_000, 30)
    best = [make_plans(fake_device(), data, Limits(float(s)), Some).best for s in (40, 80, 200, 1200)]
    depths = [plan.depth for plan in best]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] > 0
    assert depths[-1] == 0


def test_memory_bounds_the_batch_or_refuses() -> None:
    data, device = shape(2000, 128), fake_device()
    free = make_plans(device, data, Limits(600.0), Constraints()).best
    tight = make_plans(device, data, Limits(600.0, memory_mb=900.0), Constraints()).best
    assert tight.memory_mb <= 900 < free.memory_mb
    with pytest.raises(BudgetError, match=r"\d MB"):
        make_plans(device, data, Limits(600.0, memory_mb=310.0), Constraints())


def test_the_head_alone_is_the_answer_where_nothing_else_fits() -> None:
    best = make_plans(fake_device(fake_costs(cost=FakeCost(1e-3))), shape(5000, 60), Limits(18.0), Some).best
    assert (best.method, best.n_steps) == ("linear-probe", 0)
    assert best.n_probe_rows >= 64


@pytest.mark.parametrize("pair", [False, True])
def test_what_opens_at_once_is_used_where_time_is_short_and_trained_where_it_is_not(pair: bool) -> None:
    data = replace(shape(5000, 60, n_held_out=500), pair=pair)
    device = with_probe(fake_device(fake_costs(cost=FakeCost(1e-4), open_s=9.0, save_s=4.0)))
    short, long = (make_plans(device, data, Limits(s), Some).best for s in (20.0, 600.0))
    assert (short.backend, short.method) == ("onnx", "linear-probe")
    assert (long.backend, long.trains) == ("ort", True)


@pytest.mark.parametrize(("n_classes", "trains"), [(2, True), (150, False)])
def test_a_probe_is_preferred_to_training_on_a_few_rows_of_each_class(n_classes: int, trains: bool) -> None:
    data = replace(shape(20_000, 60, n_held_out=1000), n_classes=n_classes)  # too many for a probe of all
    device = with_probe(fake_device(fake_costs(cost=FakeCost(1e-4))))
    plans = make_plans(device, data, Limits(55.0), Some)
    assert (plans.best.trains, plans.best.key == "onnx") == (trains, not trains)
    assert any(plan.trains and plan.n_rows < 30 * 150 for plan in plans.ranked)


@pytest.mark.parametrize(
    "wish", [{"backend": "ort"}, {"depth": 2}, {"passes": 3}, {"max_steps": 10}, {"method": "three-stage"}]
)
def test_who_asks_for_training_gets_it(wish: dict[str, Any]) -> None:
    device = with_probe(fake_device(fake_costs(cost=FakeCost(1e-4))))
    plans = make_plans(device, shape(5000, 60), Limits(40.0), replace(Some, **wish))
    assert all(plan.backend == "ort" for plan in plans.ranked)


def test_without_a_deadline_everything_is_trained() -> None:
    plans = make_plans(with_probe(fake_device()), shape(500, 60), Limits(None, memory_mb=4000.0), Some)
    assert all(plan.trains for plan in plans.ranked)


def test_an_export_is_charged_where_it_is_needed() -> None:
    device = fake_device(fake_costs(export_s=20.0))
    data = shape(2000, 40)
    constraints = Constraints(batch_size=32, exported=lambda key, depth: depth == 0)
    plans = make_plans(device, data, Limits(40.0), constraints)
    assert plans.best.depth == 0
    assert {plan.lines["export"] for plan in plans.ranked if plan.depth} == {20.0}


def test_rows_that_a_probe_reads_first_are_trained_on_from_the_cache() -> None:
    data, fixed = shape(300, 100, n_held_out=75), Constraints(batch_size=32, depth=3)
    device = with_probe(fake_device())
    for deadline_s in (25.0, 40.0):
        cached, without = (
            max(
                (plan for plan in make_plans(device, data, Limits(deadline_s), asked).ranked if plan.trains),
                key=lambda plan: plan.n_rows,
            )
            for asked in (fixed, replace(fixed, cache_mb=0.0))
        )
        assert cached.reads_all(300)
        assert cached.n_rows > without.n_rows
        assert cached.read_again_row_s < 0.7 * without.read_again_row_s
        assert without.read_again_row_s == without.probe_row_s
        assert cached.cache_mb > 0
        assert cached.total_s <= deadline_s


def test_the_cache_is_planned_only_where_rows_come_again() -> None:
    few, many = shape(500, 40), shape(100_000, 40)
    constraints = Constraints(batch_size=32, depth=3)
    again = make_plans(fake_device(), few, Limits(120.0), constraints).best
    once = make_plans(fake_device(), many, Limits(120.0), constraints).best
    assert again.passes > 1
    assert again.cache_mb > 0
    assert once.cache_mb == 0
    without = make_plans(fake_device(), few, Limits(120.0), replace(constraints, cache_mb=0.0)).best
    assert without.n_rows == again.n_rows == 10 * 500
    assert without.lines["train"] > again.lines["train"]


def test_few_rows_are_trained_on_once_the_probe_has_read_all_of_them() -> None:
    device, few = with_probe(fake_device()), shape(300, 40, n_held_out=100)
    best = make_plans(device, few, Limits(60.0), Some).best
    assert best.trains
    assert best.n_probe_rows == 300
    assert best.n_rows == 10 * 300
    assert 0 < best.depth < 6
    pairs = make_plans(device, replace(few, pair=True), Limits(60.0), Some).best
    assert pairs.n_probe_rows < 300 or not pairs.trains
    hardly = make_plans(device, few, Limits(14.0), Some).best  # too short for steps that would add anything
    assert not hardly.trains


def test_of_many_classes_more_rows_are_read_before_training() -> None:
    device, rows = with_probe(fake_device()), shape(4000, 20, n_held_out=400)
    for n_classes, reads_all in ((4, False), (150, True)):
        ranked = make_plans(device, replace(rows, n_classes=n_classes), Limits(300.0), Some).ranked
        assert {plan.reads_all(4000) for plan in ranked if plan.trains} == {reads_all}


def test_a_probe_of_single_texts_is_not_expected_to_gain_from_ever_more_rows() -> None:
    few, enough, many = (probe_points_lost(n_rows, kind="mean") for n_rows in (512, 2048, 100_000))
    assert few > enough == many
    assert points_lost(32 * 100, 10**5, 0.5, 0.0) < many < points_lost(32 * 30, 10**5, 0.5, 0.0)


def test_every_choice_has_its_reason_in_numbers() -> None:
    two = fake_device(fake_costs(), fake_costs("torch-bf16", FakeCost(4e-4)))
    plans = make_plans(two, shape(20_000, 120), Limits(90.0), Some)
    words = " ".join(plans.reasons)
    for part in ("examples", "steps", "chosen over torch-bf16", "Freezing", "No filter", "is evaluated on"):
        assert part in words


@given(st.floats(1, 1e6), st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_more_rows_never_lose_points(n_rows: float, n_distinct: int, frozen: float, cut: float) -> None:
    assert points_lost(n_rows * 1.1, n_distinct, frozen, cut) <= points_lost(n_rows, n_distinct, frozen, cut)
