"""Estimates say how they were made; codecarbon is asked for a number and does nothing else."""

from __future__ import annotations

import subprocess
import sys
from importlib import util
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from energy_trees import write
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from edgetune.energy import estimate
from edgetune.energy.estimate import ConstantPower, CpuUsePower, estimate_by_use, process_cpu_s, tdp_w

CPUINFO = "processor : 0\nmodel name : {name}\nphysical id : {socket}\nflags : fpu avx2{flags}\n\n"


def test_steady_watts_times_seconds() -> None:
    clock = FakeClock()
    sensor = ConstantPower(25, "estimated: --watts 25", clock)
    clock.now_s += 4
    assert (sensor.joules(), sensor.measured) == (100, False)


@pytest.mark.parametrize(("busy_s", "joules"), [(0, 100), (20, 550), (40, 1000), (80, 1000)])
def test_use_lies_between_idle_and_full(busy_s: float, joules: float) -> None:
    clock, used = FakeClock(), [7.0]
    sensor = CpuUsePower(100, 4, "estimated: so", clock, lambda: used[0])
    clock.now_s += 10
    used[0] += busy_s
    assert sensor.joules() == pytest.approx(joules)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 100)), min_size=1, max_size=20))
def test_use_never_goes_back_and_never_exceeds_full(moves: list[tuple[float, float]]) -> None:
    clock, used = FakeClock(), [0.0]
    sensor = CpuUsePower(50, 4, "estimated: so", clock, lambda: used[0])
    seen = [0.0]
    for passed_s, busy_s in moves:
        clock.now_s += passed_s
        used[0] += busy_s
        seen.append(sensor.joules())
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(seen))
    assert seen[-1] <= 50 * (clock.now_s - 100) + 1e-6


def test_cpu_seconds_include_children_that_have_ended() -> None:
    before_s = process_cpu_s()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert process_cpu_s() - before_s > 0.01


def test_the_rule_per_core_and_a_tdp_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "usable_cores", lambda: 8)
    monkeypatch.setattr(estimate.os, "cpu_count", lambda: 16)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 8)
    monkeypatch.setattr(estimate.platform, "machine", lambda: "x86_64")
    clock = FakeClock()
    by_use = estimate_by_use(None, clock)
    assert by_use.source.startswith("estimated: 10 W per core x 4 cores x CPU use, idle 10%")
    clock.now_s += 100
    assert 400 <= by_use.joules() < 800  # idle, and the little that this test uses
    monkeypatch.setattr(estimate.platform, "machine", lambda: "aarch64")
    assert estimate_by_use().source.startswith("estimated: 2 W per core x 4 cores")
    assert estimate_by_use(120).source == "estimated: 120 W TDP (codecarbon) x CPU use, idle 10%"


def _cpuinfo(root: Path, *sockets: int, name: str = "Some CPU", flags: str = "") -> Path:
    text = "".join(CPUINFO.format(name=name, socket=socket, flags=flags) for socket in sockets)
    write(root / "proc", cpuinfo=text)
    return root


def _codecarbon(monkeypatch: pytest.MonkeyPatch, watts: Any) -> list[str]:
    asked: list[str] = []

    class TDP:
        def __init__(self) -> None:
            raise AssertionError("the constructor guesses")

        def _get_cpu_power_from_registry(self, name: str) -> Any:
            asked.append(name)
            if isinstance(watts, Exception):
                raise watts
            return watts

    monkeypatch.setitem(sys.modules, "codecarbon", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "codecarbon.core", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "codecarbon.core.cpu", SimpleNamespace(TDP=TDP))
    return asked


@pytest.mark.parametrize(
    ("told", "sockets", "flags", "watts"),
    [
        (95.0, (0, 0), "", 95),
        (95.0, (0, 1, 0, 1), "", 190),
        (95.0, (0,), " hypervisor", None),  # a virtual machine has none of its own
        *((told, (0,), "", None) for told in (None, 0, -5, float("nan"), RuntimeError("changed"))),
    ],
)
def test_a_tdp_is_of_all_sockets_or_unknown(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    told: Any,
    sockets: tuple[int, ...],
    flags: str,
    watts: float | None,
) -> None:
    asked = _codecarbon(monkeypatch, told)
    assert tdp_w(_cpuinfo(tmp_path, *sockets, flags=flags)) == watts
    assert asked == ([] if flags else ["Some CPU"])


def test_without_codecarbon_there_is_no_tdp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon.core.cpu", None)
    assert tdp_w(_cpuinfo(tmp_path, 0)) is None


WATCHED = """
import sys
seen = []
def audit(event, args):
    if event.startswith("socket.") and event != "socket.__new__":
        seen.append((event, args))
    if event == "open" and isinstance(args[1], str) and set("wax+") & set(args[1]):
        seen.append((event, args))
sys.dont_write_bytecode = True
sys.addaudithook(audit)
from pathlib import Path
from edgetune.energy.estimate import tdp_w
print(tdp_w(Path(sys.argv[1])))
sys.exit(repr(seen) if seen else 0)
"""


@pytest.mark.skipif(util.find_spec("codecarbon") is None, reason="needs the extra `energy`")
@pytest.mark.parametrize(
    ("name", "watts"),
    [("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", "15.0"), ("AMD EPYC", "None"), ("No Such Chip", "None")],
)
def test_codecarbon_only_reads(tmp_path: Path, name: str, watts: str) -> None:
    root, home = _cpuinfo(tmp_path / "root", 0, name=name), tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", WATCHED, str(root)]
    environment = {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [watts]
    assert list(home.iterdir()) == []


def test_importing_energy_loads_nothing_heavy() -> None:
    heavy = "{'numpy', 'pandas', 'codecarbon', 'pynvml', 'psutil', 'pydantic', 'torch'}"
    code = f"import sys, edgetune.energy; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
