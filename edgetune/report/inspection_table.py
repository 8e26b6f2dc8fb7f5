"""What `edgetune inspect` found, on the terminal and as a table for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgetune.inference.inspection import KINDS, InspectedRow, as_table
from edgetune.run_files.outputs import write_output
from edgetune.utils.sanitize import brief, csv_row
from edgetune.utils.tables import Section, print_sections

SHOWN = 64  # characters of a text that the terminal shows
TITLES = {
    "mislabelled": "Most likely mislabelled: never predicted correctly, highest loss first",
    "skipped": "Most often seen but not trained: skipped, or waiting for a full batch when the run ended",
    "trained": "Trained more often than others",
}


def print_inspection(findings: Sequence[InspectedRow], console: Any) -> None:
    """Print the rows found, a section for each kind."""
    header = ("line", "label", "loss", "p(label)", "seen", "trained", "text")
    for kind in KINDS:
        rows: list[tuple[str, ...]] = [
            (
                f"{one.line:,}",
                brief(one.label),
                "–" if one.mean_loss is None else f"{one.mean_loss:.3f}",
                "–" if one.confidence is None else f"{one.confidence:.3f}",
                f"{one.n_seen:,}",
                f"{one.n_trained:,}",
                brief(one.text, SHOWN),
            )
            for one in findings
            if one.kind == kind
        ]
        print_sections([Section(TITLES[kind], rows or [("none",)], header if rows else ())], console)


def write_inspection(path: Path, findings: Sequence[InspectedRow]) -> None:
    """Write the rows found as CSV; texts are guarded against becoming formulas, labels are as in the file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(InspectedRow.__dataclass_fields__)
    for row in as_table(findings):
        writer.writerow(csv_row(row))
    write_output(path, out.getvalue())
