"""What the page asks of a finished run: its answers, the words that mattered, doubtful labels, a zip."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from edgetune.data.examples import read_examples
from edgetune.data.splits import data_options
from edgetune.data.token_format import PAIR_SEPARATOR
from edgetune.inference.inspection import inspect_run
from edgetune.inference.saved_ensemble import NGRAMS
from edgetune.inference.saved_run import Run, load_run
from edgetune.report.model_card import model_card
from edgetune.run_files.outputs import check_outputs, write_output
from edgetune.run_files.run_folder import ENSEMBLE, MODELS
from edgetune.utils.errors import RunError
from edgetune.utils.types import FloatArray

CARD = "README.md"
MOST_ANSWERS, MOST_WORDS, MOST_DOUBTFUL = 2000, 200, 50


@dataclass(frozen=True)
class AnsweredRow:
    """A row of labelled text beside what the model says of it."""

    line: int
    text: str
    label: str
    predicted: str
    probability: float


def open_run(folder: Path) -> Run:
    """Open a run; the last few stay open until they are trained again.

    Raises:
        RunError: there is no usable run.
    """
    receipt = folder / "summary.json"
    return _opened(folder, receipt.stat().st_mtime_ns if receipt.is_file() else 0)


@lru_cache(maxsize=2)
def _opened(folder: Path, written_ns: int) -> Run:
    return load_run(folder)


@lru_cache(maxsize=2)
def evaluated(run: Run) -> tuple[AnsweredRow, ...]:
    """Return the first rows that a run was evaluated on, with its answers.

    Raises:
        RunError: these rows cannot be found again.
    """
    view = run.evaluation_rows()
    texts = view.texts()[:MOST_ANSWERS]
    return _answers(run, texts, [view.label_names[label] for label in view.labels[: len(texts)]])


def _answers(
    run: Run, texts: list[str], labels: list[str], lines: list[int] | None = None
) -> tuple[AnsweredRow, ...]:
    predictions = run.predict_all(_as_given(text) for text in texts)
    return tuple(
        AnsweredRow(line, text, label, found.label or "", found.probability)
        for line, text, label, found in zip(
            lines or range(1, len(texts) + 1), texts, labels, predictions, strict=True
        )
    )


def _as_given(text: str) -> str | tuple[str, str]:
    first, separator, second = text.partition(PAIR_SEPARATOR)
    return (first, second) if separator else text


def doubtful_rows(folder: Path) -> tuple[AnsweredRow, ...]:
    """Return training rows that are probably mislabelled, the most doubtful first.

    Raises:
        EdgetuneError: the run or its training rows cannot be read.
    """
    _, rows = inspect_run(folder, MOST_DOUBTFUL)
    doubtful = [row for row in rows if row.kind == "mislabelled"]
    texts = [row.text.replace(" | ", PAIR_SEPARATOR) if has_pairs(folder) else row.text for row in doubtful]
    found = _answers(open_run(folder), texts, [row.label for row in doubtful], [row.line for row in doubtful])
    return tuple(answer for answer in found if answer.predicted != answer.label)


def has_pairs(folder: Path) -> bool:
    """Return whether a run is on pairs of texts."""
    config = open_run(folder).config
    return config is not None and bool(config.data.pair)


def write_corrected(folder: Path, labels: Mapping[int, str], out: Path) -> int:
    """Write the training rows of a run to a new CSV file, with other labels for some of them.

    Args:
        folder: of the run.
        labels: the new ones, by line of the training file.
        out: a file that does not exist yet.

    Returns:
        How many labels are other ones.

    Raises:
        EdgetuneError: the rows cannot be read, or the file is there already.
    """
    config = load_run(folder).config
    if config is None:
        raise RunError(f"{folder} has no config.toml, so its training rows cannot be found.")
    check_outputs({"Corrected copy": out}, reads=[config.data.train], runs=[folder], overwrite=False)
    text, n_changed = io.StringIO(), 0
    writer = csv.writer(text, lineterminator="\n")
    options = data_options(config.data)
    writer.writerow(["text", *(["text_pair"] if options.pair else []), "label"])
    for row in read_examples(config.data.train, options, lambda bad: None):
        label = labels.get(row.line, row.label)
        n_changed += label != row.label
        writer.writerow([row.text, *([] if row.text_pair is None else [row.text_pair]), label])
    write_output(out, text.getvalue())
    return n_changed


def word_effects(run: Run, text: str) -> tuple[str, list[tuple[str, float]]]:
    """Return what the n-grams make of a text, and how far each of its words supports that.

    Returns:
        The label, and the words in their order, each with the log-probability (nats) that the label loses
        without it.

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
    """Pack the models, settings and receipt of a run, and its model card, into a zip file.

    Raises:
        RunError: there is no usable run.
    """
    summary = load_run(folder).summary
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"{folder.name}/{CARD}", model_card(summary))
        for name in (*MODELS, ENSEMBLE, "config.toml", "summary.json", "run.png"):
            home = folder / name
            for path in sorted(home.rglob("*")) if home.is_dir() else [home]:
                if path.is_file():
                    packed.write(path, f"{folder.name}/{path.relative_to(folder)}")
    return out
