"""What the benchmarks share: rows to run on, the command line as a child process, medians."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgetune.data.demo import write_demo
from edgetune.utils.errors import WORSE_THAN_MAJORITY
from edgetune.utils.machine import machine_info, versions
from edgetune.utils.version import __version__


def machine_line() -> str:
    """Say what the figures were made on."""
    machine, found = machine_info(), versions()
    packages = ", ".join(f"{name} {found[name]}" for name in sorted(found))
    return f"# {machine['cpu']}, {machine['cores']} cores; edgetune {__version__}; {packages}"


def rows_file(data: str | None, n_rows: int, folder: Path) -> Path:
    """Return a file with the first `n_rows` rows of the data, or with generated ones."""
    if data is None:
        target = folder / "generated.csv"
        write_demo(target, n_rows=n_rows)
        return target
    target = folder / f"first-{n_rows}{Path(data).suffix}"
    with open(data, encoding="utf-8") as source, target.open("w", encoding="utf-8") as file:
        file.writelines(itertools.islice(source, n_rows + 1))
    return target


def finetune(*arguments: str, cache: Path, timeout_s: float = 7200) -> tuple[dict[str, Any], float]:
    """Run `edgetune finetune … --json` as a child; return its object and its wall-clock seconds."""
    command = [sys.executable, "-m", "edgetune", "finetune", *arguments, "--json", "--quiet", "--overwrite"]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=os.environ | {"EDGETUNE_CACHE": str(cache)},
    )
    elapsed_s = time.perf_counter() - started
    if done.returncode not in (0, WORSE_THAN_MAJORITY):
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout), elapsed_s


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Say a median and its range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
