"""`edgetune profile` on a tiny model: measured, shown, compared, checked, stopped. No timing is asserted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgetune.devices.cost_function import CostFunction
from edgetune.devices.device_profile import DeviceProfile
from edgetune.devices.profile_store import load_profile, save_profile
from tests.conftest import RunCli, child_environment
from tests.profile_samples import make_profile

pytestmark = pytest.mark.alone  # on a machine that stalls, measurements are refused as not plausible


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the user's own profiles."""
    folder = tmp_path_factory.mktemp("profiles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETUNE_PROFILES", str(folder))
        patch.setattr("edgetune.profiling.measure.QUICK_S", 12.0)
        patch.setattr("edgetune.profiling.measure.CHECK_S", 4.0)
        yield folder


@pytest.fixture(scope="module")
def measured(home: Path, tiny_model: Path, run_cli: RunCli) -> DeviceProfile:
    """A quick profile of the tiny model on ONNX Runtime."""
    code, out, err = run_cli(
        *("profile", "--quick", "--name", "tiny", "--model", tiny_model, "--backend", "ort-fp32"),
        *("--watts", "9"),
    )
    assert code == 0, err
    assert "T_f score" in out
    assert str(home / "tiny.toml") in out
    return load_profile("tiny")


def test_a_quick_profile_has_everything(measured: DeviceProfile) -> None:
    (backend,) = measured.backends
    assert measured.quick
    assert measured.model.n_layers == 2
    places = {(p.op, p.depth) for p in backend.points}
    assert places == {("score", 0), ("train", 0), ("prefix", 1), ("score", 1), ("train", 1)}
    assert len(backend.points) == 5 * 2 * 2
    assert all(point.low_s <= point.s <= point.high_s for point in backend.points)
    assert measured.power.train_w == pytest.approx(9.0, rel=0.05)
    assert not measured.power.measured
    assert backend.fixed.export_s > 0
    assert backend.memory.base_mb > 10
    assert CostFunction(backend, measured.model).seconds("train", 16, 32, 1) > 0


def test_it_is_shown(measured: DeviceProfile, run_cli: RunCli) -> None:
    for arguments in (("profile", "show", "tiny"), ("profile", "show")):
        code, out, _ = run_cli(*arguments)
        assert code == 0
        # Without a name: this machine's best, which a busy moment may not leave to the one just measured.
        assert "Profile tiny" in out if "tiny" in arguments else "Profile " in out
    code, out, _ = run_cli("profile", "show", "tiny", "--json")
    assert json.loads(out)["name"] == "tiny"


def test_it_is_compared(measured: DeviceProfile, run_cli: RunCli, tmp_path: Path) -> None:
    other = save_profile(make_profile("other"), tmp_path / "other.toml")
    code, out, _ = run_cli("profile", "compare", "tiny", other)
    assert code == 0
    assert "different models" in out
    code, out, _ = run_cli("profile", "compare", "tiny", "tiny", "--json")
    assert {row["ratio"] for row in json.loads(out)} == {1.0}


def test_it_is_checked(measured: DeviceProfile, run_cli: RunCli, tiny_model: Path) -> None:
    code, out, err = run_cli("profile", "check", "tiny", "--model", tiny_model, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["verdict"] in ("holds", "has drifted", "is far off")
    assert {row["op"] for row in found["ratios"]} == {"score", "train"}
    assert found["fit"] == "same"


@pytest.mark.slow
def test_torch_is_measured_too(tiny_model: Path, run_cli: RunCli, tmp_path: Path) -> None:
    out = tmp_path / "there" / "mine.toml"
    code, shown, err = run_cli(
        *("profile", "--quick", "--model", tiny_model, "--backend", "torch-fp32"),
        "--out",
        out,
        "--json",
        "-q",
    )
    assert code == 0, err
    assert err == ""
    (backend,) = load_profile(out).backends
    assert (load_profile(out).name, backend.key) == ("mine", "torch-fp32")
    assert backend.fixed.save_model_s < backend.fixed.save_s
    assert backend.fixed.export_s == 0
    assert json.loads(shown)["name"] == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("profile", "--name", "a b"), 2, "--name a b"),
        (("profile", "--watts", "-1"), 2, "--watts -1"),
        (("profile", "--backend", "tpu"), 2, "--backend tpu"),
        (("profile", "--model", "no/such/model"), 1, "no/such/model"),
        (("profile", "show", "nobody"), 2, "no profile nobody"),
        (("profile", "compare", "nobody", "x"), 2, "no profile nobody"),
        (("profile", "check", "nowhere.toml"), 2, "no profile file nowhere.toml"),
    ],
)
def test_a_mistake_is_one_sentence(run_cli: RunCli, arguments: tuple[str, ...], code: int, says: str) -> None:
    got, out, err = run_cli(*arguments)
    assert (got, out) == (code, "")
    assert says in err
    assert err.count("\n") == 1


def test_a_check_needs_the_model_of_the_profile(run_cli: RunCli, tiny_model: Path) -> None:
    save_profile(make_profile("large"))
    code, _, err = run_cli("profile", "check", "large", "--model", tiny_model)
    assert code == 2
    assert "--model" in err


def test_ctrl_c_kills_the_workers_and_writes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped.toml"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "edgetune", "profile", "--quick", "--model", str(tiny_model)),
            *("--backend", "torch-fp32", "--out", str(out)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(EDGETUNE_PROFILES=str(tmp_path)),
    )
    assert process.stderr is not None
    for line in process.stderr:  # wait until a worker is at work
        if "importing" in line:
            break
    time.sleep(0.5)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert workers
    assert process.returncode == 130
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
    _gone, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
