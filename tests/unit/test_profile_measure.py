"""Parts of a measurement that need no backend: the grid, the backends to measure, tables, drift, workers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from edgetune.backends.openers import find_opener
from edgetune.devices.profile_store import match_profile
from edgetune.profiling.measure import choose_keys, make_measure_grid, representative_points
from edgetune.profiling.profile_tables import (
    Drift,
    TimeRatio,
    compare_profiles,
    compare_sections,
    drift_sections,
    profile_sections,
)
from edgetune.profiling.worker import MeasurementJob, WorkerLost, WorkerProcess
from edgetune.utils.errors import MissingDependencyError, UsageError
from edgetune.utils.tables import sections_text
from tests.profile_samples import MACHINE, SHAPE, VERSIONS, make_backend, make_profile


def test_the_grid_follows_the_model() -> None:
    full, quick = make_measure_grid(SHAPE, 512, quick=False), make_measure_grid(SHAPE, 512, quick=True)
    assert (full.lengths, full.batches, full.depths) == ((8, 16, 32, 64, 128), (4, 32), (0, 3, 5))
    assert (quick.lengths, quick.batches, quick.depths) == ((16, 64), (8, 32), (0, 3))
    assert full.growing == [(4, 8), (32, 32), (32, 128)]
    shallow = SHAPE.model_copy(update={"n_layers": 1})
    assert make_measure_grid(shallow, 32, quick=False).depths == (0,)
    assert make_measure_grid(shallow, 32, quick=False).lengths == (8, 16, 32)


def test_bf16_is_measured_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_opener("ort"), "missing", lambda: "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    keys, notes = choose_keys([], MACHINE)
    assert keys == ["ort-fp32", "torch-fp32"]
    assert "bf16" in notes[0]
    keys, notes = choose_keys([], MACHINE.model_copy(update={"features": ["AVX512-BF16"], "gpu": "X"}))
    assert keys == ["ort-fp32", "torch-fp32", "torch-bf16", "torch-fp32-cuda", "torch-bf16-cuda"]
    assert notes == []
    assert choose_keys(["torch-bf16"], MACHINE) == (["torch-bf16"], [])
    with pytest.raises(UsageError, match="--backend tpu"):
        choose_keys(["tpu"], MACHINE)
    monkeypatch.setattr(find_opener("ort"), "missing", lambda: "its packages")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        choose_keys([], MACHINE)


def test_the_table_has_forward_and_backward_costs_and_says_where_energy_comes_from() -> None:
    text = sections_text(profile_sections(make_profile(noisy=True, notes=["torch-bf16 was left out."])))
    for part in ("T_f score", "T_b", "measured: RAPL", "too busy", "torch-bf16 was left out.", "3 lowest"):
        assert part in text
    estimated = make_profile().power.model_copy(update={"measured": False, "source": "estimated: 10 W"})
    assert "(estimated: 10 W)" in sections_text(profile_sections(make_profile(power=estimated)))


def test_comparing_gives_ratios_by_operation() -> None:
    slower = make_profile("slow", backends=[make_backend(factor=2.0), make_backend("torch")])
    ratios = {(one.key, one.op): one for one in compare_profiles(make_profile("fast"), slower)}
    assert set(ratios) == {("ort-fp32", "score"), ("ort-fp32", "train"), ("ort-fp32", "prefix")}
    assert ratios["ort-fp32", "train"].mean == pytest.approx(2.0)
    assert len(ratios["ort-fp32", "train"].ratios) == 8
    text = sections_text(compare_sections(make_profile("fast"), slower))
    assert "Only slow has torch-fp32" in text
    assert "2.00 to 2.00" in text


@pytest.mark.parametrize(
    ("ratios", "verdict", "percent"),
    [
        ([1.0], "holds", 0),
        ([0.5, 2.0], "holds", 0),  # a geometric mean
        ([1.05], "holds", 5),
        ([0.8], "has drifted", 20),
        ([1.6], "is far off", 60),
    ],
)
def test_drift_has_a_verdict(ratios: list[float], verdict: str, percent: int) -> None:
    drift = Drift([TimeRatio("ort-fp32", "score", ratios)], [])
    assert drift.verdict == verdict
    text = sections_text(drift_sections(match_profile(make_profile(), MACHINE, VERSIONS), drift))
    assert f"up to {percent} %" in text
    assert ("measure again" in text) == (verdict != "holds")


def test_a_check_takes_few_points_and_none_that_is_long() -> None:
    chosen = representative_points(make_backend())
    assert {point.op for point in chosen} == {"score", "train"}
    assert len(chosen) <= 6
    assert all(point.depth == 0 for point in chosen)
    assert len({(p.op, p.batch, p.length) for p in chosen}) == len(chosen)


@pytest.fixture
def job(tmp_path: Path) -> MeasurementJob:
    return MeasurementJob("none-fp32", "nowhere", {}, str(tmp_path), str(tmp_path))


def test_a_worker_says_what_failed_and_goes_on(job: MeasurementJob) -> None:
    with WorkerProcess(job) as child:
        with pytest.raises(WorkerLost, match="nowhere"):
            child.ask("open", 30.0, depth=0, threads=1)
        child.ask("power", 30.0, watts=5.0, tdp=None)
        idle = child.ask("idle", 30.0, seconds=0.05)
        assert idle["w"] == pytest.approx(5.0, rel=0.2)
        assert idle["measured"] is False
        assert child.leave() >= 0
        assert not child.alive


def test_a_worker_that_takes_too_long_is_killed(job: MeasurementJob) -> None:
    with WorkerProcess(job) as child:
        with pytest.raises(WorkerLost, match="more than 0 s"):
            child.ask("idle", 0.3, seconds=60.0)
        assert not child.alive
        with pytest.raises(WorkerLost, match="died"):
            child.ask("idle", 1.0, seconds=0.0)
