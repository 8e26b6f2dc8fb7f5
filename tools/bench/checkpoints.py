"""What checkpoints cost of a run's time, and how long a resumed run takes to its first step."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import finetune, rows_file

from edgetune.run_files.checkpoint import checkpoint_files
from edgetune.run_files.history import read_history

RUN_S = 150.0
MB = 1_000_000


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = rows_file(arguments.data, 20_000, scratch)
        for backend in ("ort", "torch"):
            common = (str(data), "--backend", backend, "--epochs", "100", "--set", "keep=last")
            cache = scratch / "cache"
            for _ in range(2):  # the second finds its caches
                brief, _ = finetune(
                    *common, "--max-steps", "30", "--out", str(scratch / "brief"), cache=cache
                )
            step_s = brief["time_split_s"]["train"] / brief["n_steps"]
            n_steps = round(RUN_S / step_s)
            out = scratch / "run"
            resumed_s, n_mb = _broken_off(common, out, n_steps, cache)
            summary = json.loads((out / "summary.json").read_text())
            spent_s, lost_s = summary["time_split_s"]["checkpoint"], summary["time_split_s"]["lost"]
            run_s, first_s = summary["elapsed_s"] - lost_s, brief["first_step_s"]
            print(
                f"{backend}: {n_steps:,} steps in {run_s:.0f} s, checkpoints {spent_s:.2f} s "
                f"({100 * spent_s / run_s:.2f} %), {n_mb:.0f} MB each; first step after {first_s:.1f} s, "
                f"after --resume {resumed_s:.1f} s",
                flush=True,
            )


def _broken_off(common: tuple[str, ...], out: Path, n_steps: int, cache: Path) -> tuple[float, float]:
    """Kill a run after its first checkpoint, resume it; return seconds to its first step, MB of one."""
    command = [sys.executable, "-m", "edgetune", "finetune"]
    environment = os.environ | {"EDGETUNE_CACHE": str(cache)}
    start = [*command, *common, "--max-steps", str(n_steps), "--out", str(out), "--overwrite", "--quiet"]
    with subprocess.Popen(start, env=environment) as child:
        while not checkpoint_files(out):
            if child.poll() is not None:
                raise SystemExit("the run ended before its first checkpoint")
            time.sleep(0.5)
        time.sleep(5)
        child.send_signal(signal.SIGKILL)
    n_bytes = checkpoint_files(out)[-1].stat().st_size
    subprocess.run([*command, "--resume", str(out), "--quiet"], env=environment, check=True)
    summary = json.loads((out / "summary.json").read_text())
    (broken,) = summary["breaks"]
    steps = [line for line in read_history(out / "history.jsonl") if line["kind"] == "step"]
    first = next(line for line in steps if line["step"] > broken["n_steps"])
    before_s = broken["elapsed_s"] + broken["lost_s"]
    return first["t_s"] - before_s, n_bytes / MB
