"""From the command to the first training step on `ort`, without any cache and with everything cached."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from common import finetune, rows_file, spread


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = rows_file(arguments.data, arguments.rows, scratch)
        small = rows_file(arguments.data, 100, scratch)
        cache = scratch / "cache"
        command = (
            str(data),
            "--eval",
            str(small),
            "--backend",
            "ort",
            "--max-steps",
            "1",
            "--out",
            str(scratch / "run"),
        )
        for name, n, forget in (("without any cache", 3, True), ("cached", arguments.repeats, False)):
            first = []
            for _ in range(n):
                if forget:
                    shutil.rmtree(cache, ignore_errors=True)
                first.append(finetune(*command, cache=cache)[0]["first_step_s"])
            print(
                f"{arguments.rows:,} rows, {name}: first step after {spread(first)} s, {n} runs", flush=True
            )
