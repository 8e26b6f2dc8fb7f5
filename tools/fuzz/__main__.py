"""Feed strange files to everything that reads files: never a traceback, a hang, or too much memory.

    python tools/fuzz --files 10000 --seed 7
    python tools/fuzz --seed 7 --only 4711          # one case again, with what it said

Files are generated and mutated, of every format that is read (cases.py lists them), each fed to its loader
in a process that lives on (worker.py): 2 s of processor time a file, 50 µs a line and 0.2 µs a byte (five
times as much of wall clock), and `edgetune.utils.limits.MEMORY_MB` of memory above what the process had
before, measured as its peak resident size. Exit code 1 when one of them breaks that; the file is kept. A
number and a seed make a case again, as long as tools/fuzz and its packages are the same.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

from cases import Case, make_case
from harness import BAD, GOOD, Outcome, Worker

from edgetune.utils.limits import MEMORY_MB
from edgetune.utils.sanitize import brief, on_terminal

SAY_EVERY_S = 20.0


def table(counts: dict[str, Counter[str]]) -> str:
    """Return what came of the files, by family."""
    names = ("family", "files", *GOOD, *BAD)
    total: Counter[str] = sum(counts.values(), Counter())
    lines = ["".join(name.rjust(11) if i else name.ljust(14) for i, name in enumerate(names))]
    for family, found in [*sorted(counts.items()), ("all", total)]:
        cells = [found.total(), *(found[name] for name in names[2:])]
        lines.append(family.ljust(14) + "".join(f"{cell:11,}" for cell in cells))
    return "\n".join(lines)


def keep(case: Case, outcome: Outcome, number: int, folder: Path) -> Path:
    """Copy the place of a case that broke something, with what it said beside it."""
    target = folder / f"{number}-{outcome.what}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(case.path.parent, target, symlinks=True, ignore=_pipes)
    (target / "WHAT.txt").write_text(
        f"{case}\n{outcome.what} after {outcome.seconds:.2f} s, {outcome.grew_mb:.0f} MB\n{outcome.said}\n",
        encoding="utf-8",
        errors="backslashreplace",
    )
    return target


def _pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_fifo()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--limit", type=float, default=2.0, help="processor seconds beside those of lines and bytes"
    )
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where broken cases are put")
    parser.add_argument("--only", type=int, help="run the case of this number alone")
    given = parser.parse_args()
    numbers = range(given.files) if given.only is None else [given.only]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    slowest: list[tuple[float, int, str]] = []
    grew_mb, started, told = 0.0, time.perf_counter(), time.perf_counter()
    with Worker(given.limit) as worker:
        for number in numbers:
            with tempfile.TemporaryDirectory(prefix="edgetune-fuzz-") as place:
                case = make_case(given.seed, number, Path(place))
                outcome = worker.run(case)
                counts[case.family][outcome.what] += 1
                grew_mb = max(grew_mb, outcome.grew_mb)
                slowest = sorted([*slowest, (outcome.seconds, number, case.path.name)], reverse=True)[:3]
                if outcome.what in BAD:
                    where = keep(case, outcome, number, given.keep / str(given.seed))
                    last = (outcome.said.strip().splitlines() or [""])[-1]
                    print(f"{number}: {outcome.what}: {brief(last, 300)} (kept in {where})", flush=True)
                if given.only is not None:
                    print(on_terminal(f"{case}\n{outcome}"))
            if time.perf_counter() - told > SAY_EVERY_S:
                told = time.perf_counter()
                print(f"{number + 1:,} of {given.files:,}", file=sys.stderr, flush=True)
    print(table(counts))
    n_bad = sum(found[name] for found in counts.values() for name in BAD)
    n_files = sum(found.total() for found in counts.values())
    took = ", ".join(f"{seconds:.2f} s ({brief(name)}, case {number})" for seconds, number, name in slowest)
    print(
        f"{n_files:,} files in {time.perf_counter() - started:.0f} s, seed {given.seed}: {n_bad} broke "
        f"something. Slowest: {took}. Memory grew by at most {grew_mb:.0f} MB (allowed: {MEMORY_MB:,} MB)."
    )
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
