"""What `edgetune inspect` found: tables on the terminal, and a corrected copy of the training file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgetune.inference.inspection import CorrectedTable, Inspection, VisitedRow
from edgetune.inference.predictions import csv_value, free_name
from edgetune.run_files.run_folder import disk_errors
from edgetune.utils.files import atomic_path
from edgetune.utils.sanitize import brief, csv_cell, visible
from edgetune.utils.tables import Section, print_sections

SHOWN = 64  # characters of a text that the terminal shows
SUGGESTION = ("suggested_label", "probability", "change")
"""Columns of a corrected copy, after those of the file."""


def print_inspection(found: Inspection, n_rows: int, console: Any) -> None:
    """Print the labels that are probably wrong, and rows that the run skipped or trained more often."""
    suspects: list[tuple[str, ...]] = [
        (
            *(f"{one.line:,}", brief(one.label), brief(one.suggested)),
            *(f"{one.label_probability:.3f}", f"{one.probability:.3f}", brief(one.text, SHOWN)),
        )
        for one in found.suspects[:n_rows]
    ]
    title = f"{len(found.suspects):,} of {len(found.examined):,} labels are probably wrong"
    if len(found.suspects) > n_rows:
        title += f"; the {n_rows:,} surest"
    header = ("line", "label", "suggested", "p(label)", "p(suggested)", "text") if suspects else ()
    waiting = "Most often seen but not trained: skipped, or waiting for a full batch when the run ended"
    sections = [
        Section(title, suspects or [("none",)], header),
        _visited(waiting, found.skipped),
        _visited("Trained more often than others", found.trained),
    ]
    print_sections([section for section in sections if section.rows], console)


def _visited(title: str, rows: Sequence[VisitedRow]) -> Section:
    cells: list[tuple[str, ...]] = [
        (
            *(f"{one.line:,}", brief(one.label), "–" if one.mean_loss is None else f"{one.mean_loss:.3f}"),
            *(f"{one.n_seen:,}", f"{one.n_trained:,}", brief(one.text, SHOWN)),
        )
        for one in rows
    ]
    return Section(title, cells, ("line", "label", "loss", "seen", "trained", "text"))


def inspection_object(found: Inspection, n_rows: int) -> dict[str, Any]:
    """Return what was found as JSON values."""
    return {
        "n_rows": found.n_rows,
        "n_examined": len(found.examined),
        "n_suspects": len(found.suspects),
        "suspects": [asdict(one) for one in found.suspects[:n_rows]],
        "skipped": [asdict(one) for one in found.skipped],
        "trained": [asdict(one) for one in found.trained],
    }


def write_corrected(path: Path, table: CorrectedTable) -> None:
    """Write all rows of the training file with their suggestions as CSV, under a temporary name first.

    A text that a spreadsheet would take for a formula gets an apostrophe; labels do not.
    """
    with (
        disk_errors(path),
        atomic_path(path) as scratch,
        scratch.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        taken: set[str] = set()
        writer.writerow(csv_cell(free_name(name, taken)) for name in (*table.columns, *SUGGESTION))
        for values, found in table.rows:
            added: tuple[Any, ...] = ("", "", "")
            if found is not None:
                probability = "" if found.probability is None else f"{found.probability:.4f}"
                added = (visible(found.suggested), probability, "yes" if found.change else "no")
            cells = [
                visible(value) if at == table.label_at and isinstance(value, str) else csv_value(value)
                for at, value in enumerate(values)
            ]
            writer.writerow([*cells, *added])
