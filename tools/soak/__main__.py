"""A long run, watched from outside: does memory, the history, or the number of open files and threads grow?

    python tools/soak                           1,000,000 rows, 100,000 optimizer steps of a tiny model
    python tools/soak --together 5              five runs at once on empty caches that they share

Memory is what the process alone has written (on Linux; elsewhere USS), sampled every second: pages of mapped
files are not in it, which the system takes back when it needs them, and which USS counts or not as other
processes that map the same libraries come and go. Flat means that after a fifth of the run no sample is more
than 5 % off the median. No layers are frozen: their cache is meant to fill, up to its room. Exit code 1 where
something grows, or where runs that share caches differ from one alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from edgetune.utils.errors import WORSE_THAN_MAJORITY  # noqa: E402

MB = 1_000_000
WARM_UP_RATE = 0.2
FLAT_RATE = 0.05


@dataclass(frozen=True)
class Sample:
    """A look at a process."""

    t_s: float
    memory_mb: float
    n_files: int
    n_threads: int
    history_mb: float


def start(*arguments: object, cache: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a run."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EDGETUNE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "edgetune", "finetune", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log.open("wb"))


def own_memory_mb(process: psutil.Process) -> float:
    """Return the memory that a process shares with no other one and no file.

    Raises:
        OSError: it has ended; psutil.Error, where psutil is what is asked.
    """
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    if not rollup.exists():
        return float(process.memory_full_info().uss / MB)
    fields = dict(line.split(":", 1) for line in rollup.read_text().splitlines()[1:])
    return int(fields["Private_Dirty"].split()[0]) * 1024 / MB


def watch(child: subprocess.Popen[bytes], history: Path, every_s: float) -> list[Sample]:
    """Sample a process from its first optimizer step until it ends its last."""
    process, started_s, samples = psutil.Process(child.pid), time.monotonic(), []
    while child.poll() is None:
        with contextlib.suppress(psutil.Error, OSError):
            if history.exists() and history.stat().st_size > 10_000:
                memory_mb = own_memory_mb(process)
                samples.append(
                    Sample(
                        time.monotonic() - started_s,
                        memory_mb,
                        process.num_fds(),
                        process.num_threads(),
                        history.stat().st_size / MB,
                    )
                )
        time.sleep(every_s)
    return samples


def soak(home: Path, n_rows: int, n_steps: int, backend: str) -> int:
    """Run once for long; return how many things grew."""
    from edgetune.data.demo import write_demo
    from edgetune.run_files.history import read_history
    from tests.conftest import write_tiny_model

    data, out = home / "rows.csv", home / "run"
    print(f"Writing {n_rows:,} rows", flush=True)
    write_demo(data, n_rows=n_rows, seed=0)
    child = start(
        *(data, "--model", write_tiny_model(home), "--out", out, "--backend", backend, "--batch-size", 8),
        *("--epochs", 100, "--max-steps", n_steps, "--precision", "fp32", "--threads", 1, "--quiet"),
        *("--method", "three-stage", "--set", "keep=last", "--set", "warmup_gain=0"),
        cache=home / "cache",
        log=home / "log.txt",
    )
    samples = watch(child, out / "history.jsonl", 1.0)
    if child.returncode not in (0, WORSE_THAN_MAJORITY):
        print((home / "log.txt").read_text())
        return 1
    summary = json.loads((out / "summary.json").read_text())
    trained_s = max(line["t_s"] for line in read_history(out / "history.jsonl") if line["kind"] == "step")
    training = [one for one in samples if one.t_s < trained_s]
    late = training[int(WARM_UP_RATE * len(training)) :]
    memory = np.array([one.memory_mb for one in late])
    middle = float(np.median(memory))
    slope = float(np.polyfit([one.t_s for one in late], memory, 1)[0]) * 3600
    off = float(np.abs(memory / middle - 1).max())
    n_files, n_threads = ({getattr(one, name) for one in late} for name in ("n_files", "n_threads"))
    n_steps, n_seen, elapsed_s = (summary[name] for name in ("n_steps", "n_seen", "elapsed_s"))
    print(f"{n_steps:,} steps, {n_seen:,} rows seen, {elapsed_s:.0f} s, {backend}")
    print(f"memory {middle:.0f} MB, {100 * off:.1f} % off at most, {slope:+.1f} MB/h ({len(late)} samples)")
    tenths = [float(np.median(part)) for part in np.array_split([one.memory_mb for one in training], 10)]
    print("memory by tenth of the training:", " ".join(f"{part:.0f}" for part in tenths))
    print(f"open files {sorted(n_files)}, threads {sorted(n_threads)}")
    n_lines = (out / "history.jsonl").read_bytes().count(b"\n")
    print(f"history {n_lines:,} lines, {(out / 'history.jsonl').stat().st_size / MB:.1f} MB")
    grew = [off > FLAT_RATE, max(n_files) - min(n_files) > 3, max(n_threads) - min(n_threads) > 1]
    return sum(grew)


def together(home: Path, n_runs: int) -> int:
    """Start runs at one moment on empty caches; return how many failed or differ from one that ran alone."""
    from edgetune.data.demo import write_demo
    from tests.conftest import write_tiny_model

    data, model = home / "rows.csv", write_tiny_model(home)
    write_demo(data, n_rows=2000, seed=0)
    common = (data, "--model", model, "--epochs", 1, "--threads", 1, "--quiet", "--backend")
    left: dict[str, bytes] = {}
    for backend in ("ort", "torch"):
        alone = home / f"alone-{backend}"
        start(*common, backend, "--out", alone, cache=home / "own", log=home / "alone.txt").wait()
        left[backend] = (alone / "model" / "model.safetensors").read_bytes()
    backends = [("ort", "torch")[number % 2] for number in range(n_runs)]
    children = [
        start(*common, backend, "--out", home / str(i), cache=home / "shared", log=home / f"{i}.txt")
        for i, backend in enumerate(backends)
    ]
    codes = [child.wait() for child in children]
    n_bad = 0
    for i, (code, backend) in enumerate(zip(codes, backends, strict=True)):
        same = not code and (home / str(i) / "model" / "model.safetensors").read_bytes() == left[backend]
        n_bad += not same
        if not same:
            print(f"run {i} ({backend}): exit {code}: {(home / f'{i}.txt').read_text()[-400:]}")
    rest = [str(path) for path in (home / "shared").rglob(".*")]
    print(f"{n_runs} runs at once: {n_bad} failed or differ; left lying in the caches: {rest or 'nothing'}")
    return n_bad


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--backend", choices=("ort", "torch"), default="ort")
    parser.add_argument("--together", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        home = Path(folder)
        n_bad = (
            together(home, given.together)
            if given.together
            else soak(home, given.rows, given.steps, given.backend)
        )
    sys.exit(1 if n_bad else 0)


if __name__ == "__main__":
    main()
