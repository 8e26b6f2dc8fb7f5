"""Peak memory of a run at 10,000 rows and at 1,000,000, artifacts cached, after the same number of steps."""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

from common import finetune, rows_file

SIZES = (10_000, 1_000_000)
STEPS = "200"


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        seed_rows = rows_file(arguments.data, 10_000, scratch)
        small = rows_file(arguments.data, 200, scratch)
        cache = scratch / "cache"
        common = ("--eval", str(small), "--backend", "ort", "--out", str(scratch / "run"))
        finetune(
            str(small), *common, "--max-steps", "1", cache=cache
        )  # so that exporting is in neither figure
        peaks = []
        for n_rows in SIZES:
            data = _repeated(seed_rows, n_rows, scratch)
            result, _ = finetune(str(data), *common, "--max-steps", STEPS, cache=cache)
            peaks.append(result["peak_memory_mb"])
            print(f"{result['n_train']:,} rows, {STEPS} steps: peak memory {peaks[-1]:.0f} MB", flush=True)
    print(f"peak memory at {SIZES[1]:,} rows / at {SIZES[0]:,}: {peaks[1] / peaks[0]:.3f}")


def _repeated(source: Path, n_rows: int, folder: Path) -> Path:
    """Write a file of `n_rows` rows by repeating a smaller one."""
    header, *lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    target = folder / f"rows-{n_rows}{source.suffix}"
    with target.open("w", encoding="utf-8") as file:
        file.write(header)
        file.writelines(itertools.islice(itertools.cycle(lines), n_rows))
    return target
