"""Against Hugging Face `Trainer` with its defaults: same model, rows and batch size, call to saved model."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import finetune, rows_file, spread

BATCH = 32
THEIR_SCRIPT = Path(__file__).with_name("hf_trainer.py")


def main(arguments: argparse.Namespace) -> None:
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = rows_file(arguments.data, arguments.rows, scratch)
        small = rows_file(arguments.data, 100, scratch)
        for repeat in range(min(arguments.repeats, 3)):
            theirs_s = _theirs(data, scratch / "theirs")
            cache = scratch / f"cache-{repeat}"
            result, ours_s = finetune(
                str(data),
                "--eval",
                str(small),
                "--out",
                str(scratch / "ours"),
                "--batch-size",
                str(BATCH),
                cache=cache,
            )
            n_rows = result["n_train"]
            ratios.append(theirs_s / ours_s)
            print(
                f"{n_rows:,} rows, batch {BATCH}: Trainer {theirs_s:.0f} s ({n_rows / theirs_s:.1f}/s), "
                f"edgetune on {result['backend']} {ours_s:.0f} s ({n_rows / ours_s:.1f}/s, no caches)",
                flush=True,
            )
    print(f"edgetune / Trainer, examples per second from call to saved model: {spread(ratios)}")


def _theirs(data: Path, out: Path) -> float:
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, str(THEIR_SCRIPT), str(data), str(out), str(BATCH)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    return time.perf_counter() - started
