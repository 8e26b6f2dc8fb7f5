"""Write the documents that are made from code and data: method cards, and the tables of results.

    python tools/docs.py            # writes docs/method-cards.md, docs/results/README.md and its pictures
    python tools/docs.py --check    # says which of them are stale, exit code 1

Every table in docs/results/README.md comes from one docs/results/*.jsonl, the outcomes that `edgetune
compare` left (its `results.jsonl`); docs/results/NAME.txt beside it, if there is one, introduces it.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgetune.compare.comparison_charts import draw_accuracy
from edgetune.compare.method_cards import cards_markdown
from edgetune.compare.outcome import Outcome
from edgetune.compare.ranking import BASE, LEGEND, DataTable, RankedRow, make_tables, markdown

ROOT = Path(__file__).resolve().parent.parent
CARDS = ROOT / "docs" / "method-cards.md"
RESULTS = ROOT / "docs" / "results" / "README.md"
HEAD = """\
# Results

Made by `python tools/docs.py` from the outcomes in this folder, one line of JSON a run: settings,
answers to every evaluation row (packed bits), seconds, machine, date. Change the data, never this page.
What they mean is in [findings.md](../findings.md).
"""
FRONTIER = """\
## Beside what else could be had in the same time

Accuracy in percent, macro-F1 in brackets; \\* is a model that was ready more than a second after the
deadline. Made by `python tools/bench frontier --deadlines SECONDS` (`--help` tells of sets, systems and their
interpreters). Every system gets the same files, and the deadline counts from the start of its process to its
fitted model; predicting the test rows (the first 10,000 of QQP, all others whole) comes after. edgetune runs
with empty caches. A linear SVM on word 1–2-grams (characters 1–3 for Chinese) has no deadline and takes the
time it takes. "alone" is a learner of the edgetune run.
"""
LABEL_ERRORS = """\
## Wrong labels found by inspect

5 % of the labels of a random sample were flipped. Precision is the share of flipped rows among as many
rows as were flipped, the most suspicious first; a row counts as wrong unless its label was flipped, though
the sets have wrong labels of their own. "suspects" are the rows that are listed. cleanlab's
`find_label_issues` gets the same out-of-fold probabilities. Made by `python tools/bench label_errors --rows
ROWS --seeds SEEDS`; means over seeds, in brackets the range.
"""
OVERVIEWS = (
    ("A minute each", "equal-clock-60s", ""),
    ("Two minutes each", "equal-clock-120s", ""),
    ("Five minutes each", "equal-clock-300s", ""),
    ("Two passes each", "two-passes", "In brackets: seconds to the saved model over those of train-all."),
)
"""Tables over data sets: heading, what the names of the files that go in begin with, and what to say of the
shares of train-all's time, which are shown where something is said."""


def frontier_markdown(folder: Path) -> list[str]:
    """Return the tables of `tools/bench frontier`, one a file: SECONDSs[-TESTROWS[-ROWS]][-CPU].jsonl."""
    paths = sorted(folder.glob("*.jsonl"))
    files = [[json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in paths]
    parts = [FRONTIER] if files else []

    def order(one: tuple[Path, list[dict[str, Any]]]) -> tuple[float, float]:
        first = one[1][0]
        return first["deadline_s"], first.get("n_rows") or math.inf

    for path, here in sorted(zip(paths, files, strict=True), key=order):
        deadline_s, n_rows = here[0]["deadline_s"], here[0].get("n_rows")
        most_test = f"{path.stem}-".split("-")[1]
        sets = list(dict.fromkeys(row["set"] for row in here))
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in here:
            found.setdefault((row["system"], row["set"]), []).append(row)
            for name in ("encoder", "n-grams"):
                scores = row.get("members", {}).get(name)
                if scores is None:
                    continue
                alone = {"seconds": 0.0, **scores}
                found.setdefault((f"its {name} alone", row["set"]), []).append(alone)
        cells: dict[str, dict[str, dict[str, Any]]] = {}
        for (system, name), runs in found.items():
            cells.setdefault(system, {})[name] = _mean_run(runs)
        means = {
            name: statistics.mean(one["accuracy"] for one in by_set.values())
            for name, by_set in cells.items()
            if len(by_set) == len(sets) and all("accuracy" in one for one in by_set.values())
        }
        rows = f", {int(most_test):,} test rows at most, the first of each set" if most_test else ""
        few = f", {n_rows:,} random training rows" if n_rows else ""
        cpu = ", a CPU with AVX512" if "AVX512" in (here[0]["features"] or ()) else ""
        parts.append(f"### {deadline_s:g} s{few}{rows}{cpu}\n")
        head = ["", *sets, "mean"]
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name in sorted(cells, key=lambda name: (-means.get(name, 0.0), name)):
            shown = [_frontier_cell(cells[name].get(one), deadline_s) for one in sets]
            mean = f"{100 * means[name]:.1f}" if name in means else "–"
            lines.append(f"| {name} | {' | '.join([*shown, mean])} |")
        machines = "; ".join(
            sorted({f"{row['cpu']} ({', '.join(row['features'] or ['?'])})" for row in here})
        )
        days = sorted({row["date"] for row in here})
        seeds = sorted({row["seed"] for row in here})
        when = " to ".join(days[:: max(1, len(days) - 1)])
        made = f"{machines}; {when}; seed {', '.join(map(str, seeds))}."
        parts.append("\n".join(lines) + f"\n\n{made}\n")
    return parts


def label_errors_markdown(folder: Path) -> list[str]:
    """Return the table of `tools/bench label_errors`, of all its files in a folder."""
    rows = [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    if not rows:
        return []
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["set"], row["system"]), []).append(row)
    lines = [
        "| set | rows | system | precision | suspects | their precision | their recall |",
        "|---" * 7 + "|",
    ]
    for (name, system), runs in found.items():
        mean = {
            key: statistics.mean(one[key] for one in runs) for key in runs[0] if key.startswith("suspects_")
        }
        precisions = [one["precision"] for one in runs]
        spread = f"{statistics.mean(precisions):.3f} ({min(precisions):.3f} to {max(precisions):.3f})"
        n_suspects = statistics.mean(one["n_suspects"] for one in runs)
        lines.append(
            f"| {name} | {runs[0]['n_rows']:,} | {system} | {spread} | {n_suspects:.0f} for "
            f"{runs[0]['n_flipped']} | {mean['suspects_precision']:.2f} | {mean['suspects_recall']:.2f} |"
        )
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    cpus = "; ".join(sorted({row["cpu"] for row in rows}))
    made = f"{cpus}; {max(row['date'] for row in rows)}; seeds {seeds}."
    return [LABEL_ERRORS, "\n".join(lines) + f"\n\n{made}\n"]


def _mean_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over seeds; an error where one of them has no model."""
    failed = [one for one in runs if "error" in one]
    if failed:
        return failed[0]
    means = {key: statistics.mean(one[key] for one in runs) for key in ("accuracy", "macro_f1")}
    return {"seconds": max(one["seconds"] for one in runs), **means}


def _frontier_cell(row: dict[str, Any] | None, deadline_s: float) -> str:
    """Say accuracy and macro-F1 in percent; * where the model was ready more than a second too late."""
    if row is None:
        return "–"
    if "error" in row:
        return "no model"
    late = "\\*" if row["seconds"] > deadline_s + 1 else ""
    return f"{100 * row['accuracy']:.1f}{late} ({100 * row['macro_f1']:.0f})"


def results_markdown(folder: Path) -> str:
    """Return the page of all outcome files in a folder."""
    parts = [HEAD, *frontier_markdown(folder / "frontier")]
    parts += label_errors_markdown(folder / "label_errors")
    for heading, beginning, of_shares in OVERVIEWS:
        tables = [one for path in sorted(folder.glob(f"{beginning}*.jsonl")) for one in _read(path)[1]]
        words = f"{of_shares}\n\n" if of_shares else ""
        parts.append(f"## {heading}\n\n{words}{_overview(tables, bool(of_shares))}\n")
    for path in sorted(folder.glob("*.jsonl")):
        outcomes, tables = _read(path)
        note = path.with_suffix(".txt")
        words = note.read_text(encoding="utf-8").strip() + "\n\n" if note.is_file() else ""
        table = markdown(tables, path.stem).replace(LEGEND, "").rstrip()
        parts.append(f"{_deeper(table.split(chr(10), 1)[0])}\n\n{words}{_made(outcomes)}\n")
        parts.append(_deeper(table.split("\n", 1)[1].strip()) + "\n")
        parts += [
            f"![{one.data}: accuracy against seconds]({name})\n" for one, name in _pictures(path, tables)
        ]
    parts.append(f"## How to read the tables\n\n{LEGEND}")
    return "\n".join(parts)


def _overview(tables: list[DataTable], shares: bool) -> str:
    """Return accuracies, a line a method and a column a data set; by their mean, the highest first.

    Methods that were not measured on every set stand last. In each column = marks a tie with the best.
    """
    found: dict[str, dict[int, RankedRow]] = {}
    for column, table in enumerate(tables):
        for line in table.lines:
            found.setdefault(line.ranked.method, {})[column] = line
    means = {
        name: statistics.mean(one.ranked.accuracy for one in by_column.values())
        for name, by_column in found.items()
        if len(by_column) == len(tables)
    }
    base_s = {column: line.seconds for column, line in found.get(BASE, {}).items()} if shares else {}
    names = ["method", *(table.data for table in tables), "mean"]
    rows = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for name in sorted(found, key=lambda name: (-means.get(name, 0.0), name)):
        cells = [_cell(found[name].get(column), base_s.get(column)) for column in range(len(tables))]
        mean = f"{100 * means[name]:.1f}" if name in means else "–"
        if shares and name in means:
            share = statistics.mean(line.seconds / base_s[at] for at, line in found[name].items())
            mean += f" ({share:.2f})"
        rows.append(f"| {name} | {' | '.join([*cells, mean])} |")
    return "\n".join(rows)


def _cell(line: RankedRow | None, base_s: float | None) -> str:
    """Say an accuracy in percent, = where it ties with the best, and its share of train-all's `base_s`."""
    if line is None:
        return "–"
    words = f"{100 * line.ranked.accuracy:.1f}{'=' * line.ranked.tied_with_best}"
    return words if base_s is None else f"{words} ({line.seconds / base_s:.2f})"


@lru_cache
def _read(path: Path) -> tuple[list[Outcome], list[DataTable]]:
    """Return a file's outcomes and their tables, which take seconds to draw and serve page and pictures."""
    lines = path.read_text(encoding="utf-8").splitlines()
    outcomes = [Outcome.model_validate(json.loads(line)) for line in lines]
    return outcomes, make_tables(outcomes)


def _pictures(path: Path, tables: list[DataTable]) -> list[tuple[DataTable, str]]:
    """Return each table with the name of its picture."""
    return [
        (table, f"{path.stem}-{number}.png" if len(tables) > 1 else f"{path.stem}.png")
        for number, table in enumerate(tables, 1)
    ]


def draw_pictures(folder: Path) -> None:
    """Draw accuracy against seconds for every table; pictures depend on matplotlib and are not checked."""
    for path in sorted(folder.glob("*.jsonl")):
        for table, name in _pictures(path, _read(path)[1]):
            draw_accuracy(table, folder / name)


def _deeper(text: str) -> str:
    """Put headings one level lower."""
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in text.split("\n"))


def _made(outcomes: list[Outcome]) -> str:
    """Say when and with what the outcomes were made."""
    days = sorted({one.date[:10] for one in outcomes})
    wanted = ("edgetune", "torch", "onnxruntime-training-cpu", "transformers")
    found = next((one.versions for one in outcomes if one.versions), {})
    versions = ", ".join(f"{name} {found[name]}" for name in wanted if name in found)
    n_failed = sum(not one.ok for one in outcomes)
    failed = f", {n_failed} of them without a result" if n_failed else ""
    return f"{len(outcomes)} runs{failed}; {' to '.join(days[:: max(1, len(days) - 1)])}; {versions}."


def main() -> None:
    """Write the documents, or check them."""
    wanted = {CARDS: cards_markdown(), RESULTS: results_markdown(RESULTS.parent)}
    if "--check" in sys.argv[1:]:
        stale = [
            path.relative_to(ROOT)
            for path, text in wanted.items()
            if not path.is_file() or path.read_text(encoding="utf-8") != text
        ]
        if stale:
            raise SystemExit(f"stale: {', '.join(map(str, stale))}; run python tools/docs.py")
        return
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    draw_pictures(RESULTS.parent)


if __name__ == "__main__":
    main()
