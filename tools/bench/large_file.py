"""A file far too large for its deadline: rows used, accuracy, seconds, memory.

The file is made of a smaller one: each row again and again, with its words rotated, so that vocabulary and
classes stay and hardly any two texts are equal.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgetune.data.examples import DataOptions, read_examples
from edgetune.utils.errors import WORSE_THAN_MAJORITY


def write_large(source: str, target: Path, n_rows: int) -> None:
    """Write `n_rows` rows as CSV with the columns `text` and `label`.

    Args:
        source: labelled text that edgetune can read.
        target: of the new file.
        n_rows: to write.
    """
    rows = list(read_examples(source, DataOptions(), lambda bad: None))
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(n_rows):
            example = rows[number % len(rows)]
            words = example.text.split()
            turn = (number // len(rows)) % max(1, len(words))
            writer.writerow([" ".join(words[turn:] + words[:turn]), example.label])


def measure(train: Path, evaluation: str, deadline: str) -> dict[str, object]:
    """Run `edgetune finetune` with a deadline and an empty token cache; return what came of it."""
    with tempfile.TemporaryDirectory() as scratch:
        out, started = Path(scratch) / "run", time.perf_counter()
        command = [sys.executable, "-m", "edgetune", "finetune", str(train), "--eval", evaluation]
        done = subprocess.run([*command, "--deadline", deadline, "--out", str(out), "--quiet"], check=False)
        seconds = time.perf_counter() - started
        if done.returncode not in (0, WORSE_THAN_MAJORITY):
            return {"deadline": deadline, "exit_code": done.returncode, "seconds": seconds}
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        check = subprocess.run(
            [sys.executable, "-m", "edgetune", "evaluate", str(out), evaluation, "--json"],
            check=True,
            capture_output=True,
            text=True,
        )
    return {
        "deadline": deadline,
        "seconds": round(seconds, 1),
        "accuracy_on_all": json.loads(check.stdout)["accuracy"],
        "rows_used": summary["n_train"],
        "rows_trained": summary["n_trained"],
        "peak_memory_mb": summary["peak_memory_mb"],
        "notes": summary["warnings"],
    }


def main(arguments: argparse.Namespace) -> None:
    """Make the file and run every deadline on it."""
    with tempfile.TemporaryDirectory() as scratch:
        large = Path(scratch) / "large.csv"
        write_large(arguments.data, large, arguments.rows)
        print(f"{arguments.rows:,} rows, {large.stat().st_size / 1e6:,.0f} MB", flush=True)
        for deadline_s in arguments.deadlines or (60, 120):
            print(json.dumps(measure(large, arguments.eval, f"{deadline_s}s")), flush=True)
