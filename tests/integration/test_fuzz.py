"""`tools/fuzz`: a few hundred strange files break nothing, and a loader that breaks is noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, child_environment

FUZZ = ROOT / "tools" / "fuzz"
N_FILES = 150


def test_strange_files_break_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--files", str(N_FILES), "--seed", "1", "--keep", str(tmp_path)],
        capture_output=True,
        text=True,
        env=child_environment(),
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    total = next(line.split() for line in done.stdout.splitlines() if line.startswith("all "))
    n_files, n_read, n_refused, *broken = (int(number.replace(",", "")) for number in total[1:])
    assert n_files == N_FILES == n_read + n_refused
    assert min(n_read, n_refused) > N_FILES / 5  # neither everything nor nothing gets through
    assert broken == [0] * 5


def test_what_breaks_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FUZZ))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}:{ROOT}")
    from cases import Case
    from harness import Worker

    path = tmp_path / "data.csv"
    kinds = {kind: kind for kind in ("read", "refused", "unclear", "traceback", "memory", "died")}
    with Worker(limit_s=30.0, feeds="fuzz_feeds") as worker:
        for content, what in (kinds | {"too much memory": "memory"}).items():
            path.write_text(content)
            assert worker.run(Case("csv", "data", path, 0)).what == what
            path.write_text("read")  # and it goes on with the next file
            assert worker.run(Case("csv", "data", path, 0)).what == "read"
    path.write_text("hang")
    with Worker(limit_s=1.5, feeds="fuzz_feeds") as worker:
        assert worker.run(Case("csv", "data", path, 0)).what == "hang"


def test_a_number_and_a_seed_make_a_case_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FUZZ))
    from cases import FAMILIES, make_case

    for number in range(len(FAMILIES)):
        found = []
        for name in "ab":
            place = tmp_path / name / str(number)
            place.mkdir(parents=True)
            case = make_case(3, number, place)
            files = sorted(path for path in place.rglob("*") if path.is_file())
            found.append([(str(path.relative_to(place)), path.read_bytes()) for path in files])
            assert case.path.exists()
        assert found[0] == found[1]
