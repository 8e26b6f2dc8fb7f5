"""What a finished run tells of its training rows: which labels are probably wrong, which rows were skipped.

training file ─→ out-of-fold probabilities (`label_errors`) ─→ suspicious rows ─→ terminal, corrected copy
rows.npz (counts, losses) ──────────────────────────────────→ rows skipped, rows trained more than others
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.ort.bert_graph import can_write
from edgetune.backends.ort.forward_only import ForwardOnly
from edgetune.config.settings import RunConfig
from edgetune.data.examples import DataOptions, Example, find_columns, open_rows, read_examples
from edgetune.data.labels import find_labels, label_order
from edgetune.data.row_sample import FEWEST_ROWS
from edgetune.data.splits import data_options
from edgetune.data.table import BadRow
from edgetune.data.token_format import joined_text, shown_text, text_or_pair
from edgetune.inference.label_errors import find_label_errors, out_of_fold_probabilities
from edgetune.inference.saved_run import CHUNK, Run, encoded_batches, load_run
from edgetune.models.source import resolve_model
from edgetune.run_files.example_stats import FILE, ExampleStats, load_example_stats
from edgetune.utils.errors import DataError, EdgetuneError, RunError, UsageError
from edgetune.utils.formatting import counted
from edgetune.utils.hub import HUB_PREFIX
from edgetune.utils.sanitize import brief
from edgetune.utils.types import FloatArray, IntArray, Say

FEWEST = 20
"""Of fewer rows nothing is learned that could be compared with their labels."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A training row whose label is probably wrong, or any other row with what learners say of it.

    Attributes:
        line: of the training file.
        label: as given there, in its normal form.
        suggested: the label to use: another one where the given one is probably wrong.
        probability: of the suggested label, by learners that never saw the row; None where that is unknown.
        label_probability: of the given label; None as above.
        change: whether the label is probably wrong.
        text: of the row; a pair is joined by ` | `.
    """

    line: int
    label: str
    suggested: str
    probability: float | None
    label_probability: float | None
    change: bool
    text: str


@dataclass(frozen=True, slots=True)
class VisitedRow:
    """A training row and how often the run met it.

    Attributes:
        line, label, text: as of `Suspect`.
        mean_loss: nats, over the times it was measured; None where it never was.
        n_seen, n_trained: how often.
    """

    line: int
    label: str
    text: str
    mean_loss: float | None
    n_seen: int
    n_trained: int


@dataclass(frozen=True)
class Inspection:
    """What was found in the training rows of a run.

    Attributes:
        train: the training file, as the run was given it.
        options: how it is read.
        n_rows: usable rows of it.
        examined: rows whose label was checked, by line.
        suspects: of these, those whose label is probably wrong, the surest first.
        skipped: seen more often than trained, the largest difference first; [] if the run has no record.
        trained: trained more often than others; [] as above.
    """

    train: str
    options: DataOptions
    n_rows: int
    examined: dict[int, Suspect]
    suspects: list[Suspect]
    skipped: list[VisitedRow]
    trained: list[VisitedRow]


def inspect_run(folder: Path, n_rows: int, limit: int, say: Say = lambda text: None) -> Inspection:
    """Check the labels of a run's training rows, and read its record of them.

    At most `limit` rows are checked, of more a random sample; at most `n_rows` that were skipped, and as many
    that were trained more often, are returned.

    Raises:
        RunError: the run has no config, or its training file is gone or has changed.
        DataError: there are too few rows.
        EdgetuneError: the training file cannot be read.
    """
    run = load_run(folder)
    config = run.config
    if config is None:
        raise RunError(f"{folder} has no config.toml, so its training rows cannot be found.")
    if run.multi_label:
        raise UsageError(
            f"Texts of {folder} may have several labels each; inspect is for runs of one label a text."
        )
    path, options = config.data.train, data_options(config.data)
    if not path.startswith(HUB_PREFIX) and not Path(path).exists():
        raise RunError(
            f"{path}, which {folder} was trained on, does not exist; restore it, or run this command in the "
            "folder where the run was started."
        )
    record = load_example_stats(folder) if (folder / FILE).is_file() else ExampleStats.empty(0)
    visited = {kind: rank_rows(record, kind)[:n_rows] for kind in ("skipped", "trained")}
    wanted = {int(row) for rows in visited.values() for row in rows}
    kept, examples, n_read = _read(path, options, wanted, limit, config.train.seed)
    _check_unchanged(run, path, n_read, len(record), kept)
    if len(kept) < FEWEST:
        raise DataError(
            f"{path} has {counted(len(kept), 'usable row')}; at least {FEWEST} are needed to check labels."
        )
    if len(kept) < n_read:
        say(f"Checking a random sample of {len(kept):,} of {n_read:,} rows; --limit sets its size.")
    suspects, examined = _check_labels(run, config, kept, say)
    found = {
        kind: [_visited(record, int(row), examples[int(row)]) for row in rows]
        for kind, rows in visited.items()
    }
    return Inspection(path, options, n_read, examined, suspects, **found)


def _read(
    path: str, options: DataOptions, wanted: set[int], limit: int, seed: int
) -> tuple[list[Example], dict[int, Example], int]:
    """Return a random sample of the usable rows in their order, the wanted ones, and how many there are."""
    rng = random.Random(seed)
    sample: list[tuple[int, Example]] = []
    chosen: dict[int, Example] = {}
    n_read = 0
    for example in read_examples(path, options, lambda bad: None):
        if n_read in wanted:
            chosen[n_read] = example
        if len(sample) < limit:
            sample.append((n_read, example))
        elif (place := rng.randrange(n_read + 1)) < limit:  # reservoir sampling
            sample[place] = (n_read, example)
        n_read += 1
    return [example for _, example in sorted(sample)], chosen, n_read


def _check_unchanged(run: Run, path: str, n_read: int, n_recorded: int, rows: Sequence[Example]) -> None:
    """Refuse a file that is not what the run was trained on.

    Raises:
        RunError: it has other labels, or another number of rows than the run's record. A file that was too
            large for a deadline was sampled, so that its number of rows says nothing.
    """
    labels = {example.label for example in rows}
    known = find_labels(labels, run.label_names)
    unknown = sorted(labels - known.keys())
    if unknown:
        what = f'has the label "{brief(unknown[0])}", which the run does not know'
    elif n_recorded and n_read != n_recorded and n_recorded < FEWEST_ROWS:
        what = f"has {counted(n_read, 'usable row')} instead of {n_recorded:,}"
    else:
        return
    raise RunError(
        f"{path} has changed since {run.folder} was trained: it {what}; restore the old file, or train again."
    )


def _check_labels(
    run: Run, config: RunConfig, rows: list[Example], say: Say
) -> tuple[list[Suspect], dict[int, Suspect]]:
    """Return the rows whose label is probably wrong, the surest first, and all rows by their line."""
    names = label_order({example.label for example in rows})
    ids = {name: number for number, name in enumerate(names)}
    labels = np.array([ids[example.label] for example in rows])
    features = _features(run, config, rows, say)
    say(f"Fitting classifiers to check the labels of {len(rows):,} rows")
    texts = [joined_text(text_or_pair(example.text, example.text_pair)) for example in rows]
    probabilities = out_of_fold_probabilities(texts, labels, len(names), features, config.train.seed)
    errors = find_label_errors(probabilities, labels)
    found = []
    for at, example in enumerate(rows):
        change, of_label = bool(errors.is_error[at]), float(errors.label_probability[at])
        known = None if np.isnan(of_label) else of_label
        suspect = Suspect(
            line=example.line,
            label=example.label,
            suggested=names[errors.suggested[at]] if change else example.label,
            probability=float(errors.probability[at]) if change else known,
            label_probability=known,
            change=change,
            text=shown_text(example.text, example.text_pair),
        )
        found.append(suspect)
    suspects = [found[at] for at in errors.ranked if errors.is_error[at]]
    return suspects, {one.line: one for one in found}


def _features(run: Run, config: RunConfig, rows: list[Example], say: Say) -> FloatArray | None:
    """Return features (n, F) of the run's encoder before it was trained; None where n-grams have to do.

    A trained encoder would repeat the labels that it was trained on.
    """
    if config.model.artifacts is not None or not {"probe", "encoder"} & set(config.train.learners):
        return None
    pair = config.data.pair
    try:
        source = resolve_model(config.model.model, config.model.pooling)
        if not can_write(source.config, source.pools_mean, source.folder):
            return None
        encoder = ForwardOnly(source, 1, pair=pair, threads=config.model.threads)
    except (EdgetuneError, ImportError) as error:
        say(f"The encoder takes no part in the check, n-grams alone do: {error}")
        return None
    say(f"Running the encoder on {counted(len(rows), 'text')}")
    texts = [text_or_pair(one.text, one.text_pair) for one in rows]
    return encoder_features(encoder, run.tokenizer, [run.beginning(text) for text in texts])


def encoder_features(
    encoder: ForwardOnly, tokenizer: Any, texts: Sequence[str | tuple[str, str]]
) -> FloatArray:
    """Return features (n, F) of texts, or of pairs."""
    places, found = [], []
    for start in range(0, len(texts), CHUNK):
        for batch in encoded_batches(tokenizer.encode_batch(texts[start : start + CHUNK])):
            places.append(start + batch.rows)
            found.append(encoder.features(batch))
    return np.concatenate(found)[np.argsort(np.concatenate(places))]


def rank_rows(record: ExampleStats, kind: str) -> IntArray:
    """Return row numbers, the most telling first.

    `skipped`: seen more often than trained, the largest difference first, then the lowest loss. `trained`:
    more often than others, then the highest loss.
    """
    loss: FloatArray = np.nan_to_num(record.mean_loss(), nan=-1.0)
    if kind == "skipped":
        skipped = record.n_seen - record.n_trained
        rows = np.flatnonzero(skipped > 0)
        return rows[np.lexsort((loss[rows], -skipped[rows]))]
    seen = record.n_trained[record.n_seen > 0]
    if not len(seen):
        return np.zeros(0, dtype=np.int64)
    rows = np.flatnonzero(record.n_trained > max(1, int(np.median(seen))))
    return rows[np.lexsort((-loss[rows], -record.n_trained[rows]))]


def _visited(record: ExampleStats, row: int, example: Example) -> VisitedRow:
    n_measured = int(record.n_measured[row])
    return VisitedRow(
        line=example.line,
        label=example.label,
        text=shown_text(example.text, example.text_pair),
        mean_loss=float(record.sum_loss[row] / n_measured) if n_measured else None,
        n_seen=int(record.n_seen[row]),
        n_trained=int(record.n_trained[row]),
    )


@dataclass(frozen=True)
class CorrectedTable:
    """The training file with a suggestion for each row.

    Attributes:
        columns: of the file.
        label_at: which of them holds the label; None where that is not one whole column.
        rows: values of these columns, and what was found; None for a row without a usable text or label.
    """

    columns: tuple[str, ...]
    label_at: int | None
    rows: Iterator[tuple[Sequence[Any], Suspect | None]]


def corrected_table(inspection: Inspection, on_bad: Say) -> CorrectedTable:
    """Read the training file again, all rows and columns in their order.

    `on_bad` is told where a row lies that is left out because its columns cannot be told apart.
    """
    table = open_rows(inspection.train, inspection.options)
    label_at = find_columns(table, inspection.options).label

    def rows() -> Iterator[tuple[Sequence[Any], Suspect | None]]:
        usable = read_examples(inspection.train, inspection.options, lambda bad: None)
        example = next(usable, None)
        for row in table.read(range(table.n_whole)):
            if isinstance(row, BadRow):
                on_bad(f"{row.file}:{row.line} ({row.reason})")
                continue
            line, values = row
            found = None
            if example is not None and example.line == line:
                unknown = Suspect(line, example.label, example.label, None, None, False, "")
                found = inspection.examined.get(line, unknown)
                example = next(usable, None)
            yield values, found

    columns = table.columns[: table.n_whole]
    return CorrectedTable(columns, label_at if label_at in range(len(columns)) else None, rows())
