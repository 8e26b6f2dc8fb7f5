"""RAPL from recorded trees: what is counted, wrap-around, counters that lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from energy_trees import add_to, laptop_rapl, rapl_zone
from fakes import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.energy.rapl import Rapl, find_zones, usable_zones
from edgetune.energy.sensor import SensorLost

RANGE_UJ = 262143328850


def _move(counters: dict[str, Path], **by_uj: int) -> None:
    for path in counters.values():
        add_to(path, by_uj.get(path.parent.joinpath("name").read_text().strip().replace("-", "_"), 0))


def test_package_and_memory_are_added_and_nothing_twice(tmp_path: Path) -> None:
    counters, clock = laptop_rapl(tmp_path), FakeClock()
    rapl = Rapl(usable_zones(tmp_path), clock)
    assert rapl.name == "RAPL package-0 + dram"
    _move(counters, package_0=30_000_000, core=20_000_000, uncore=1_000_000, dram=2_000_000, psys=60_000_000)
    clock.now_s += 1
    assert rapl.joules() == pytest.approx(32)


def test_two_sockets_are_both_counted(tmp_path: Path) -> None:
    clock = FakeClock()
    zones = [("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1")]
    drams = [("intel-rapl:0:0", "dram"), ("intel-rapl:1:0", "dram")]
    counters = [rapl_zone(tmp_path, folder, name, 0) for folder, name in zones + drams]
    rapl = Rapl(usable_zones(tmp_path), clock)
    assert rapl.name == "RAPL package-0 + package-1 + dram"
    for i, counter in enumerate(counters):
        add_to(counter, 10**i * 1_000_000)
    clock.now_s += 10
    assert rapl.joules() == pytest.approx(1111)


def test_an_amd_processor_has_no_memory_counter(tmp_path: Path) -> None:
    rapl_zone(tmp_path, "intel-rapl:0", "package-0", 7)
    rapl_zone(tmp_path, "intel-rapl:0:0", "core", 7)
    assert Rapl(usable_zones(tmp_path)).name == "RAPL package-0"


def test_a_wrap_is_counted_through(tmp_path: Path) -> None:
    clock = FakeClock()
    counter = rapl_zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 3_000_000)
    rapl = Rapl(usable_zones(tmp_path), clock)
    counter.write_text("4000000\n")
    clock.now_s += 1
    assert rapl.joules() == pytest.approx(7.000001)
    add_to(counter, 1_000_000)
    clock.now_s += 1
    assert rapl.joules() == pytest.approx(8.000001)


@pytest.mark.parametrize(("before", "range_uj"), [(9_000_000_000, RANGE_UJ), (9_000, "")])
def test_a_reset_is_no_wrap(tmp_path: Path, before: int, range_uj: object) -> None:
    clock = FakeClock()
    counter = rapl_zone(tmp_path, "intel-rapl:0", "package-0", before, max_energy_range_uj=range_uj)
    rapl = Rapl(usable_zones(tmp_path), clock)
    counter.write_text("1000\n")
    clock.now_s += 1
    with pytest.raises(SensorLost, match="reset"):
        rapl.joules()


def test_a_counter_that_stands_still_is_dead(tmp_path: Path) -> None:
    clock = FakeClock()
    counter = rapl_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    rapl = Rapl(usable_zones(tmp_path), clock)
    for passed_s, gained_uj, joules in ((0.5, 0, 0), (0.6, 5_000_000, 5), (0.9, 0, 5)):
        add_to(counter, gained_uj)
        clock.now_s += passed_s
        assert rapl.joules() == joules
    clock.now_s += 0.2
    with pytest.raises(SensorLost, match="has stopped"):
        rapl.joules()


def test_a_counter_lost_midway_says_which(tmp_path: Path) -> None:
    counters, clock = laptop_rapl(tmp_path), FakeClock()
    rapl = Rapl(usable_zones(tmp_path), clock)
    counters["intel-rapl:0:2"].unlink()
    clock.now_s += 1
    with pytest.raises(SensorLost, match="dram"):
        rapl.joules()


def test_an_unreadable_package_rules_rapl_out_and_unreadable_memory_does_not(tmp_path: Path) -> None:
    assert find_zones(tmp_path) == usable_zones(tmp_path) == []
    counters = laptop_rapl(tmp_path)
    counters["intel-rapl:0:2"].unlink()
    counters["intel-rapl:0:2"].mkdir()  # reading it fails for root too
    assert [zone.name for zone in usable_zones(tmp_path)] == ["package-0"]
    counters["intel-rapl:0"].write_text("garbage\n")
    assert [zone.name for zone in find_zones(tmp_path)] == ["package-0", "dram"]
    assert usable_zones(tmp_path) == []


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(0, RANGE_UJ),
    gains=st.lists(st.integers(0, 500_000_000), min_size=1, max_size=30),
)
def test_any_gains_add_up_over_wraps_and_never_go_back(
    tmp_path_factory: pytest.TempPathFactory, start: int, gains: list[int]
) -> None:
    root, clock = tmp_path_factory.mktemp("rapl"), FakeClock()
    counter = rapl_zone(root, "intel-rapl:0", "package-0", start)
    rapl = Rapl(usable_zones(root), clock)
    seen = [0.0]
    for gain in gains:
        counter.write_text(str((int(counter.read_text()) + gain) % (RANGE_UJ + 1)))
        clock.now_s += 0.01 if gain == 0 else 1.0
        seen.append(rapl.joules())
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(sum(gains) / 1e6)
