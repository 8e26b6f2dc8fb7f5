"""inspect finds labels that are probably wrong, and writes a corrected copy of the training file."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli

SUBJECTS = {"billing": "invoice refund payment charge", "network": "router cable signal outage"}
WORDS = ["please", "today", "again", "why", "my", "still", "since", "monday", "help", "urgent", "thanks"]
FLIPPED = range(7, 120, 20)
MOST_OF_THEM = 5


def write_rows(path: Path, flipped: range = FLIPPED) -> list[dict[str, str]]:
    """Write 120 texts of two subjects, some of them with the label of the other subject; return the rows."""
    rng, names = random.Random(0), list(SUBJECTS)
    rows = []
    for number in range(120):
        name = names[number % 2]
        words = [*rng.choices(SUBJECTS[name].split(), k=5), *rng.sample(WORDS, 3)]
        label = names[(number + 1) % 2] if number in flipped else name
        rows.append({"id": f"{number:03}", "text": " ".join(words), "label": label})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.fixture(scope="module")
def ngrams_run(run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of n-grams alone on rows of which some have a wrong label."""
    home = tmp_path_factory.mktemp("inspected")
    write_rows(home / "rows.csv")
    arguments = ("--learners", "ngrams", "--deadline", "30s", "--out", home / "run", "--quiet")
    code, _, err = run_cli("finetune", home / "rows.csv", *arguments)
    assert code == 0, err
    return home / "run"


def listed(done: Any) -> dict[str, Any]:
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_flipped_labels_are_found_by_a_run_that_trained_nothing(ngrams_run: Path, run_cli: RunCli) -> None:
    found = listed(run_cli("inspect", ngrams_run, "--json", "--rows", 50))
    suspects = {one["line"]: one for one in found["suspects"]}
    wrong = {number + 2 for number in FLIPPED}
    assert set(suspects) <= wrong
    assert len(suspects) >= MOST_OF_THEM
    for one in suspects.values():
        assert {one["label"], one["suggested"]} == set(SUBJECTS)
        assert one["probability"] > one["label_probability"]
    shown = run_cli("inspect", ngrams_run, "--rows", 2)
    assert shown.code == 0
    assert f"{len(suspects)} of 120 labels" in shown.out
    assert sum("router" in line or "invoice" in line for line in shown.out.splitlines()) <= 2


def test_a_corrected_copy_has_every_row_and_column(ngrams_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    source, out = ngrams_run.parent / "rows.csv", tmp_path / "corrected.csv"
    before = source.read_bytes()
    assert run_cli("inspect", ngrams_run, "--out", out).code == 0
    assert source.read_bytes() == before
    with source.open(newline="") as file, out.open(newline="") as corrected:
        given, written = list(csv.DictReader(file)), list(csv.DictReader(corrected))
    assert list(written[0]) == ["id", "text", "label", "suggested_label", "probability", "change"]
    assert [{name: row[name] for name in given[0]} for row in written] == given
    names = list(SUBJECTS)
    changed = {number for number, row in enumerate(written) if row["change"] == "yes"}
    assert changed <= set(FLIPPED)
    assert len(changed) >= MOST_OF_THEM
    for number, row in enumerate(written):
        assert row["suggested_label"] == (names[number % 2] if number in changed else row["label"])
    arguments = ("--label", "suggested_label", "--learners", "ngrams", "--deadline", "30s", "--quiet")
    assert run_cli("finetune", out, *arguments, "--out", tmp_path / "again").code == 0
    left = {one["line"] - 2 for one in listed(run_cli("inspect", tmp_path / "again", "--json"))["suspects"]}
    assert left <= set(FLIPPED) - changed


def test_of_many_rows_a_sample_is_checked(ngrams_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    out = tmp_path / "corrected.csv"
    done = run_cli("inspect", ngrams_run, "--limit", 50, "--out", out, "--json")
    assert listed(done)["n_examined"] == 50
    assert "50 of 120 rows" in done.err
    with out.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 120
    assert sum(row["probability"] != "" for row in written) == 50


def test_rows_that_cannot_be_trained_on_stay_in_the_copy(run_cli: RunCli, tmp_path: Path) -> None:
    data, out = tmp_path / "rows.csv", tmp_path / "corrected.csv"
    write_rows(data)
    lines = data.read_text().splitlines()
    lines[5:5] = ["900,a row without a label,", "901,one cell too many,billing,x"]
    data.write_text("\n".join(lines) + "\n")
    arguments = ("--learners", "ngrams", "--deadline", "30s", "--quiet", "--out", tmp_path / "run")
    assert run_cli("finetune", data, *arguments).code == 0
    done = run_cli("inspect", tmp_path / "run", "--out", out)
    assert done.code == 0, done.err
    assert f"{data}:7 " in done.err
    with out.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 121
    assert (written[4]["id"], written[4]["suggested_label"], written[4]["change"]) == ("900", "", "")
    assert MOST_OF_THEM <= [row["change"] for row in written].count("yes") <= len(FLIPPED)


def test_what_is_wrong_is_a_sentence(ngrams_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    source = ngrams_run.parent / "rows.csv"
    before = source.read_bytes()

    def refused(*words: object) -> str:
        code, _, err = run_cli("inspect", ngrams_run, *words)
        assert code in (1, 2)
        assert len(err.strip().splitlines()) == 1
        assert "Traceback" not in err
        return str(err)

    assert "was trained" in refused("--out", source, "--overwrite")
    assert source.read_bytes() == before
    (tmp_path / "taken.csv").write_text("mine")
    assert "--overwrite" in refused("--out", tmp_path / "taken.csv")
    try:
        source.write_text(before.decode().replace("billing", "bills"))
        assert "has changed" in refused()
        source.unlink()
        assert refused("--out", tmp_path / "c.csv")
    finally:
        source.write_bytes(before)
    assert not (tmp_path / "c.csv").exists()
    config = ngrams_run / "config.toml"
    kept = config.read_bytes()
    try:
        config.unlink()
        assert "config.toml" in refused()
    finally:
        config.write_bytes(kept)
