"""What the page asks of a finished run: its answers, the words that mattered, a corrected copy, a zip."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from edgetune.data.examples import find_columns, open_rows
from edgetune.data.token_format import split_text
from edgetune.inference.inspection import Inspection, corrected_table
from edgetune.inference.saved_ensemble import NGRAMS
from edgetune.inference.saved_run import Run, load_run
from edgetune.report.model_card import model_card
from edgetune.report.result_tables import write_corrected
from edgetune.run_files.outputs import check_outputs
from edgetune.run_files.run_folder import ENSEMBLE, MODELS
from edgetune.utils.errors import RunError
from edgetune.utils.types import FloatArray

MOST_ANSWERS, MOST_WORDS = 2000, 200


def open_run(folder: Path) -> Run:
    """Open a run; the last few stay open until they are trained again.

    Raises:
        RunError: there is no usable run.
    """
    summary = folder / "summary.json"
    return _opened(folder, summary.stat().st_mtime_ns if summary.is_file() else 0)


@lru_cache(maxsize=2)
def _opened(folder: Path, written_ns: int) -> Run:
    return load_run(folder)


@lru_cache(maxsize=2)
def evaluated(run: Run) -> list[tuple[str, str, str, float]]:
    """Return the first rows that a run was evaluated on: text, label, predicted label and its probability.

    Raises:
        RunError: these rows cannot be found again, or may have several labels.
    """
    if run.multi_label:
        raise RunError("The texts of this run may have several labels, so there is no confusion matrix.")
    view = run.evaluation_rows()
    texts = view.texts()[:MOST_ANSWERS]
    labels = [view.label_names[label] for label in view.labels[: len(texts)]]
    predictions = run.predict_all(split_text(text) for text in texts)
    return [
        (text, label, found.label or "", found.probability)
        for text, label, found in zip(texts, labels, predictions, strict=True)
    ]


def write_mended(folder: Path, found: Inspection, labels: Mapping[int, str], out: Path) -> list[str]:
    """Write the training file of a run to a new CSV file; return the names of the text columns.

    Its column `suggested_label` has the labels that are given by line, and those of the other rows.

    Raises:
        EdgetuneError: the rows cannot be read, or the file is there already.
    """
    check_outputs({"Corrected copy": out}, reads=[found.train], runs=[folder], overwrite=False)
    table = corrected_table(found, lambda bad: None)
    mended = (
        (
            values,
            row and replace(row, suggested=labels.get(row.line, row.label), change=row.line in labels),
        )
        for values, row in table.rows
    )
    write_corrected(out, replace(table, rows=mended))
    opened = open_rows(found.train, found.options)
    return [opened.columns[column] for column in find_columns(opened, found.options).text]


def word_effects(run: Run, text: str) -> tuple[str, list[tuple[str, float]]]:
    """Return the n-grams' label of a text, and its words, each with the nats that the label loses without it.

    Raises:
        RunError: the run has no n-grams.
    """
    if run.ensemble is None or NGRAMS not in run.ensemble.ensemble.names:
        raise RunError("The n-grams take no part in this run's answers, so words cannot be told apart.")
    words = text.split()[:MOST_WORDS]
    without = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    scores: FloatArray = run.ensemble.ngrams.log_proba([" ".join(words), *without])
    best = int(scores[0].argmax())
    effects = (scores[0, best] - scores[1:, best]).tolist()
    return run.label_names[best], list(zip(words, effects, strict=True))


def zip_run(folder: Path, out: Path) -> Path:
    """Pack the models, settings and summary of a run, and its model card, into a zip file.

    Raises:
        RunError: there is no usable run.
    """
    summary = load_run(folder).summary
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"{folder.name}/README.md", model_card(summary))
        for name in (*MODELS, ENSEMBLE, "config.toml", "summary.json", "run.png"):
            home = folder / name
            for path in sorted(home.rglob("*")) if home.is_dir() else [home]:
                if path.is_file():
                    packed.write(path, f"{folder.name}/{path.relative_to(folder)}")
    return out
