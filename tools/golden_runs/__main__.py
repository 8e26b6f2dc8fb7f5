"""Train twelve small runs and compare what they leave with recorded hashes.

    python tools/golden_runs            # compare; exit code 1 on a difference
    python tools/golden_runs --write    # record this checkout's hashes as the expected ones

A refactoring must not change what is computed. Each run trains a random two-layer BERT on generated tickets
through the command line: both backends, five methods, layers frozen and not, and four runs that are stopped
after six steps and continued with `--resume`. Two hashes of each run are kept: that of the saved weights,
and that of every evaluation, loss and row count that it recorded (neither times nor names of fields).

Floating-point results depend on the processor and on the versions of the runtimes, so the expected hashes
name both. Where they are not this machine's, a mismatch says so and proves nothing: record hashes at the
commit before the change, on the same machine, and compare again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import write_tiny_model  # noqa: E402

from edgetune.data.demo import write_demo  # noqa: E402
from edgetune.utils.errors import WORSE_THAN_MAJORITY  # noqa: E402
from edgetune.utils.failpoints import SWITCH  # noqa: E402
from edgetune.utils.machine import cpu_features, cpu_name  # noqa: E402

EXPECTED = Path(__file__).with_name("expected.json")
RUNTIMES = ("onnxruntime-training-cpu", "torch", "numpy")
STOP_AT_STEP = 6
COMMON = ("--epochs", "2", "--batch-size", "8", "--precision", "fp32", "--threads", "1", "--seed", "5")
METHODS = ("train-all", "random", "auto-threshold", "three-stage", "info-batch")


@dataclass(frozen=True)
class GoldenRun:
    """One run: its backend, method, frozen layers, and whether it is stopped and resumed."""

    backend: str
    method: str
    freeze: str
    broken: bool = False

    @property
    def name(self) -> str:
        return f"{self.backend} {self.method} freeze={self.freeze}{' resumed' if self.broken else ''}"


RUNS = (
    GoldenRun("ort", "train-all", "embeddings"),
    GoldenRun("ort", "train-all", "1", broken=True),
    GoldenRun("ort", "random", "embeddings"),
    GoldenRun("ort", "auto-threshold", "1"),
    GoldenRun("ort", "three-stage", "embeddings", broken=True),
    GoldenRun("ort", "info-batch", "1"),
    GoldenRun("torch", "train-all", "none", broken=True),
    GoldenRun("torch", "train-all", "1"),
    GoldenRun("torch", "random", "1"),
    GoldenRun("torch", "auto-threshold", "none"),
    GoldenRun("torch", "three-stage", "1", broken=True),
    GoldenRun("torch", "info-batch", "embeddings"),
)


def machine() -> dict[str, str]:
    """Return what floating-point results depend on besides the code."""
    features = " ".join(sorted(cpu_features()))
    return {"cpu": f"{cpu_name()} ({features})", **{name: version(name) for name in RUNTIMES}}


def edgetune(home: Path, *arguments: str, fault: str = "") -> int:
    """Run the command line of this checkout in a process of its own; return its exit code."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "EDGETUNE_CACHE": str(home / "cache"),
        "EDGETUNE_PROFILES": str(home / "profiles"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **({SWITCH: fault} if fault else {}),
    }
    command = [sys.executable, "-m", "edgetune", *arguments]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, WORSE_THAN_MAJORITY, 130):
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.returncode


def train(run: GoldenRun, home: Path, model: Path) -> Path:
    """Make one run; return its folder."""
    out = home / run.name.replace(" ", "-")
    how = ("--backend", run.backend, "--method", run.method, "--freeze", run.freeze)
    more = ("--eval", "dev.csv", "--model", str(model), "--set", "warmup_gain=0", "--set", "lr=0.002")
    arguments = ("finetune", "train.csv", "--no-ngrams", "--out", str(out), "--quiet", *COMMON, *how, *more)
    fault = f"step:{STOP_AT_STEP}:stop" if run.broken else ""
    stopped = edgetune(home, *arguments, fault=fault) == 130
    if stopped != run.broken:
        raise SystemExit(f"{run.name}: {'was not stopped' if run.broken else 'was stopped'}")
    if run.broken and edgetune(home, "finetune", "--resume", str(out), "--quiet") == 130:
        raise SystemExit(f"{run.name}: was stopped again")
    return out


def numbers(value: Any) -> list[Any]:
    """Return the leaves of a JSON value in order, names of fields left out."""
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in numbers(one)]
    if isinstance(value, list):
        return [leaf for one in value for leaf in numbers(one)]
    return [value]


def hashes(out: Path) -> dict[str, str]:
    """Return the two hashes of a finished run."""
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [[line["loss"], line["n_trained"]] for line in lines if line["kind"] == "step"]
    evaluations = [[line["accuracy"], line["loss"]] for line in lines if line["kind"] == "eval"]
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    counts = [summary[name] for name in ("n_seen", "n_scored", "n_trained", "n_steps", "best_epoch")]
    told = json.dumps([steps, evaluations, numbers(metrics), counts])
    return {
        "weights": hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()[:16],
        "evaluations": hashlib.sha256(told.encode()).hexdigest()[:16],
    }


def main() -> int:
    """Make the runs, then compare or record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="record the hashes as the expected ones")
    write = parser.parse_args().write
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        model = write_tiny_model(home)
        write_demo(home / "train.csv", n_rows=300, seed=0)
        write_demo(home / "dev.csv", n_rows=100, seed=1)
        for run in RUNS:
            found[run.name] = hashes(train(run, home, model))
            print(f"{run.name:42} {found[run.name]['weights']} {found[run.name]['evaluations']}", flush=True)
    if len({one["weights"] for one in found.values()}) < len(RUNS) - 2:
        raise SystemExit("Too many runs have equal weights: they do not train what they name.")
    here = machine()
    if write:
        EXPECTED.write_text(json.dumps({"machine": here, "runs": found}, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {EXPECTED.relative_to(ROOT)}")
        return 0
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    different = [name for name in found if found[name] != expected["runs"].get(name)]
    other = [f"{name}: {expected['machine'].get(name)} recorded, {here[name]} here" for name in here]
    other = [
        line for line, name in zip(other, here, strict=True) if expected["machine"].get(name) != here[name]
    ]
    if not different:
        print(f"All {len(found)} runs leave what was recorded.")
        return 0
    print(f"{len(different)} of {len(found)} runs differ: {', '.join(different)}")
    if other:
        print(
            "This machine is not the one they were recorded on, so that proves nothing:", *other, sep="\n  "
        )
    return 1


if __name__ == "__main__":
    sys.exit(main())
