"""What earlier runs took, against the profile: weighed, kept, forgotten, and planned with."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.devices.profile_store import Fit, Match
from edgetune.planning.clock import Clock
from edgetune.planning.device_costs import (
    DOUBTED_WEIGHT,
    FILE,
    MOST_KEPT,
    NOW_WEIGHT,
    OWN_MOST_OFF,
    Calibration,
    ObservedRun,
    fit_device,
    load_observed_runs,
    record_observed_run,
    slowdown_ratio,
)
from edgetune.planning.plan import Constraints, DataLengths, Limits
from edgetune.planning.planner import make_plans
from edgetune.profiling.speed_probe import probe_speeds
from edgetune.runs.run import _remember_speed
from tests.fakes import fake_costs, fake_device
from tests.profile_samples import SHAPE, make_backend, make_profile

NOW_S = 1e9
RATIOS = st.floats(0.1, 10.0)
RUNS = st.lists(st.builds(ObservedRun, st.floats(NOW_S - 1e7, NOW_S), RATIOS, st.floats(0, 300)), max_size=8)


@pytest.mark.parametrize(
    ("age_s", "measured_s", "share"),
    [(0, 30.0, 1 / 1.1), (0, 6.0, 0.2 / 0.3), (7 * 86400, 30.0, 0.05 / 0.15), (-3600, 30.0, 1 / 1.1)],
)  # of the last, the clock was set back
def test_a_run_of_this_minute_is_nearly_believed_and_one_of_last_week_hardly(
    age_s: float, measured_s: float, share: float
) -> None:
    assert slowdown_ratio([ObservedRun(NOW_S - age_s, 1.5, measured_s)], NOW_S) == pytest.approx(1.5**share)
    assert slowdown_ratio([], NOW_S, 1.7) == pytest.approx(1.7)


def test_the_last_run_counts_most() -> None:
    earlier, later = ObservedRun(NOW_S - 3600, 1.2, 30.0), ObservedRun(NOW_S - 60, 0.9, 30.0)
    assert slowdown_ratio([earlier, later], NOW_S) < 1.0 < slowdown_ratio([earlier, later], NOW_S - 3600)


@given(RUNS, RATIOS)
def test_what_is_expected_lies_among_what_was_seen(runs: list[ObservedRun], profiled: float) -> None:
    seen = [profiled, *(run.ratio for run in runs)]
    assert min(seen) * 0.999 <= slowdown_ratio(runs, NOW_S, profiled) <= max(seen) * 1.001


def test_what_is_kept_comes_back_and_the_oldest_goes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert load_observed_runs(cache, "here") == {}
    for number in range(MOST_KEPT + 2):
        record_observed_run(cache, "here", "ort-fp32", ObservedRun(NOW_S + number, 1.0 + number / 10, 30.0))
    record_observed_run(cache, "here", "torch-bf16", ObservedRun(NOW_S, 0.8, 30.0))
    record_observed_run(cache, "there", "ort-fp32", ObservedRun(NOW_S, 3.0, 30.0))
    found = load_observed_runs(cache, "here")
    assert [run.at_s - NOW_S for run in found["ort-fp32"]] == list(range(2, MOST_KEPT + 2))
    assert found["torch-bf16"] == [ObservedRun(NOW_S, 0.8, 30.0)]
    assert load_observed_runs(cache, "there") == {"ort-fp32": [ObservedRun(NOW_S, 3.0, 30.0)]}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", '{"here": 3}', '{"here": {"ort-fp32": 3}}', '{"here": {"ort-fp32": [[1, 2]]}}'),
        '{"here": {"ort-fp32": [[1, 2, 1' + 400 * "0" + "]]}}",
        '{"here": ' + 20_000 * "[",
    ],
)
def test_a_damaged_file_is_as_none_and_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert load_observed_runs(tmp_path, "here") == {}
    record_observed_run(tmp_path, "here", "ort-fp32", ObservedRun(NOW_S, 2.0, 30.0))
    assert load_observed_runs(tmp_path, "here") == {"ort-fp32": [ObservedRun(NOW_S, 2.0, 30.0)]}


@pytest.mark.parametrize("nonsense", [0.0, -1.0, 1e9, math.nan, math.inf])
def test_what_no_machine_does_is_not_believed(tmp_path: Path, nonsense: float) -> None:
    runs = [[NOW_S, nonsense, 30], [NOW_S, 6.0, 30], [-math.inf, 1.1, 30], [NOW_S, 1.1, -1]]
    (tmp_path / FILE).write_text(json.dumps({"here": {"ort-fp32": runs}}))
    assert load_observed_runs(tmp_path, "here") == {"ort-fp32": [ObservedRun(NOW_S, 6.0, 30.0)]}
    # Its own profile cannot be six times wrong: it slept, or a neighbour came.
    assert load_observed_runs(tmp_path, "here", OWN_MOST_OFF) == {}


def test_a_folder_that_cannot_be_written_loses_only_the_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record_observed_run(tmp_path / "file" / "cache", "here", "ort-fp32", ObservedRun(NOW_S, 2.0, 30.0))


def _match(fit: Fit = "same") -> Match:
    return Match(make_profile(backends=[make_backend("ort"), make_backend("torch")]), fit, [])


def test_costs_follow_what_ran_and_what_did_not_run_is_as_slow() -> None:
    plain = fit_device(_match(), SHAPE)
    slow = fit_device(
        _match(), SHAPE, seen=Calibration({}, {"ort-fp32": [ObservedRun(NOW_S, 1.5, 30.0)]}, NOW_S)
    )
    for before, after in zip(plain.backends, slow.backends, strict=True):
        expected = slowdown_ratio([ObservedRun(NOW_S, 1.5, 30.0)], NOW_S)
        assert after.scale == pytest.approx(expected)
        price = before.cost.seconds("train", 8, 16, 0)
        assert after.cost.seconds("train", 8, 16, 0) == pytest.approx(expected * price)
        assert after.fixed == before.fixed
    assert plain.speeds_key == slow.speeds_key
    assert (plain.speeds_note, "ort-fp32 1.45" in slow.speeds_note) == ("", True)


def test_each_backend_that_ran_has_its_own_speed_and_runs_correct_a_probe() -> None:
    runs = {"ort-fp32": [ObservedRun(NOW_S, 2.0, 30.0)], "torch-fp32": [ObservedRun(NOW_S, 0.5, 30.0)]}
    seen = Calibration({}, runs, NOW_S)
    assert seen.scale("torch-fp32") < 0.6 < 1.8 < seen.scale("ort-fp32")
    assert seen.scale("torch-bf16") == pytest.approx(1.0)
    probed = Calibration({"ort-fp32": 3.0}, {"ort-fp32": [ObservedRun(NOW_S, 3.3, 30.0)]}, NOW_S)
    assert 3.2 < probed.scale("ort-fp32") < 3.3
    assert probed.note.endswith("ort-fp32 3.27.")
    # On the machine that was profiled, another model slows nothing else down.
    own = replace(probed, own_machine=True)
    assert (probed.slowness, own.slowness, own.scale("ort-fp32")) == (3.0, 1.0, probed.scale("ort-fp32"))


def test_on_the_profiled_machine_the_speed_of_the_moment_counts_and_recent_runs_correct_it() -> None:
    probed = {"ort-fp32": 0.6, "torch-fp32": 0.6}
    now = Calibration(probed, {}, NOW_S, NOW_WEIGHT, own_machine=True)
    plain, fast = fit_device(_match(), SHAPE), fit_device(_match(), SHAPE, seen=now)
    assert [costs.scale for costs in fast.backends] == pytest.approx([0.6, 0.6])
    assert [costs.fixed for costs in fast.backends] == [costs.fixed for costs in plain.backends]
    assert (fast.note, "0.60" in fast.speeds_note) == ("", True)
    ran = replace(now, runs={"torch-fp32": [ObservedRun(NOW_S, 1.0, 30.0)]})
    assert 0.7 < ran.scale("torch-fp32") < 1.0


def test_with_a_profile_of_this_machine_only_the_moment_is_measured(tmp_path: Path) -> None:
    def probe(limit_s: float, fit: Fit = "same") -> dict[str, float]:
        return probe_speeds(
            _match(fit), SHAPE, limit_s=limit_s, every_backend=True, cache_dir=tmp_path, say=said.append
        )

    said: list[str] = []
    found = probe(5.0)
    assert set(found) == {"ort-fp32", "torch-fp32"}
    assert all(ratio > 0 for ratio in found.values())
    assert probe(3.0) == {}, "a deadline of half a minute is too short for that"
    assert (said, list(tmp_path.iterdir())) == ([], [])


def test_another_processors_profile_counts_for_little_beside_a_run() -> None:
    runs = [ObservedRun(NOW_S - 7 * 86400, 3.0, 30.0)]
    assert Calibration({}, {"ort-fp32": runs}, NOW_S).scale("ort-fp32") < 1.5
    assert Calibration({}, {"ort-fp32": runs}, NOW_S, DOUBTED_WEIGHT).scale("ort-fp32") > 2.4


def test_on_another_processor_runs_of_all_backends_are_as_good_as_a_probe() -> None:
    plain = fit_device(_match("other"), SHAPE)
    one = {"ort-fp32": [ObservedRun(NOW_S, 1.2, 30.0)]}
    some = fit_device(_match("other"), SHAPE, seen=Calibration({}, one, NOW_S))
    both = fit_device(
        _match("other"), SHAPE, seen=Calibration({}, one | {"torch-fp32": one["ort-fp32"]}, NOW_S)
    )
    assert [device.foreign for device in (plain, some, both)] == [True, True, False]
    assert plain.uncertainty > some.uncertainty == both.uncertainty


@pytest.mark.parametrize("ran", [ObservedRun(NOW_S, 1.2, 1.0), ObservedRun(NOW_S - 86400, 1.2, 300.0)])
def test_a_moment_or_an_old_run_makes_nothing_sure(ran: ObservedRun) -> None:
    plain, seen = fit_device(_match("other"), SHAPE), Calibration({}, {"ort-fp32": [ran]}, NOW_S)
    assert fit_device(_match("other"), SHAPE, seen=seen).uncertainty == plain.uncertainty


@dataclass
class Remembered:
    """What `run` knows at its end, as far as speeds go."""

    n_hits: int | None = None
    freeze: str = "embeddings"
    threads: int | None = 2
    n_steps: int = 20

    def keep(self, cache: Path) -> dict[str, list[ObservedRun]]:
        device = fake_device(replace(fake_costs("ort-fp32"), scale=1.5), speeds_key="here")
        data = DataLengths(np.full(1000, 20), np.full(100, 20), 128)
        plans = make_plans(device, data, Limits(60.0), Constraints(depth=0))
        clock = Clock(60.0, plans.best.lines, lambda: 0.0)
        for _ in range(self.n_steps):
            clock.speed("train").observe(1.0, 1.1)
        hits = None if self.n_hits is None else SimpleNamespace(n_hits=self.n_hits)
        run = SimpleNamespace(
            plans=plans,
            backend=SimpleNamespace(cache=hits),
            config=SimpleNamespace(model=SimpleNamespace(threads=self.threads, freeze=self.freeze)),
            deadline=SimpleNamespace(plan=plans.best, clock=clock),
            cache_dir=cache,
        )
        _remember_speed(cast("Any", run))
        return load_observed_runs(cache, "here")


@pytest.mark.parametrize("run", [Remembered(), Remembered(n_hits=0)])
def test_a_run_is_kept_against_the_profile_and_not_against_its_plan(tmp_path: Path, run: Remembered) -> None:
    (ran,) = run.keep(tmp_path)["ort-fp32"]
    assert ran.ratio == pytest.approx(1.5 * 1.1)
    assert ran.measured_s == pytest.approx(19 * 1.1)


@pytest.mark.parametrize(
    "run", [Remembered(n_hits=1), Remembered(freeze="none"), Remembered(threads=1), Remembered(n_steps=9)]
)
def test_a_run_that_the_profile_does_not_price_is_not_kept(tmp_path: Path, run: Remembered) -> None:
    assert run.keep(tmp_path) == {}


def test_a_model_that_was_not_profiled_is_surer_once_it_ran() -> None:
    larger = SHAPE.model_copy(update={"n_layers": 12, "hidden_size": 768})
    seen = Calibration({}, {"ort-fp32": [ObservedRun(NOW_S, 1.2, 30.0)]}, NOW_S)
    device, plain = fit_device(_match(), larger, seen=seen), fit_device(_match(), larger)
    assert device.uncertainty < plain.uncertainty
    assert device.speeds_key == plain.speeds_key != fit_device(_match(), SHAPE).speeds_key
