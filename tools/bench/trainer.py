"""Against Hugging Face `Trainer` with its defaults: same model, rows and batch size, call to saved model."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import finetune, rows_file, spread

BATCH = 32
OURS: dict[str, tuple[str, ...]] = {"default": (), "ort": ("--backend", "ort")}


def main(arguments: argparse.Namespace) -> None:
    ratios: dict[str, list[float]] = {name: [] for name in OURS}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = rows_file(arguments.data, arguments.rows, scratch)
        small = rows_file(arguments.data, 100, scratch)
        for repeat in range(arguments.repeats):
            theirs_s = _theirs(data, small, scratch)
            print(f"{arguments.rows:,} rows, batch {BATCH}: Trainer {theirs_s:.0f} s", flush=True)
            for name, choice in OURS.items():
                command = (str(data), "--eval", str(small), "--out", str(scratch / "ours"), *choice)
                found, ours_s = finetune(
                    *command, "--batch-size", str(BATCH), cache=scratch / f"{name}-{repeat}"
                )
                ratios[name].append(theirs_s / ours_s)
                used = f"{found['backend']} {found['precision']}"
                print(f"  edgetune, {name} ({used}), no caches: {ours_s:.0f} s", flush=True)
    for name, of_repeats in ratios.items():
        rate = spread(of_repeats)
        print(f"edgetune, {name} / Trainer, examples per second from call to saved model: {rate}")


def _theirs(data: Path, small: Path, scratch: Path) -> float:
    """Run the baseline `hf-trainer` for one pass; return its seconds to the saved model."""
    given = {"data": {"train": str(data)}, "eval": str(small), "out": str(scratch / "theirs")}
    task = scratch / "task.json"
    task.write_text(json.dumps(given | {"epochs": 1, "batch_size": BATCH}), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "edgetune.compare.baselines", "hf-trainer", str(task)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return float(json.loads((scratch / "theirs" / "result.json").read_text(encoding="utf-8"))["elapsed_s"])
