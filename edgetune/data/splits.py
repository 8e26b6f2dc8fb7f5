"""The training, held-out and evaluation rows of a config, as tokens with label ids."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetune.config.settings import LabelledText, RunConfig
from edgetune.data.encodings import AUTO
from edgetune.data.examples import DataOptions, find_parts, open_rows
from edgetune.data.in_memory import name_copies
from edgetune.data.labels import find_labels, merge_hint
from edgetune.data.near_duplicates import Comparable, families, near_duplicates
from edgetune.data.quality import DataFinding, by_importance, overlap_findings, uncategorical_labels
from edgetune.data.row_sample import MOST_ROWS, sample_for
from edgetune.data.token_format import TokenizerSpec
from edgetune.data.token_store import TokenStore, TokenView
from edgetune.data.tokens import open_tokens
from edgetune.utils.errors import DataError
from edgetune.utils.formatting import describe_unknown
from edgetune.utils.hub import HUB_PREFIX
from edgetune.utils.multi_label import is_multi_hot, strata
from edgetune.utils.sanitize import brief
from edgetune.utils.types import BoolArray, IntArray, Say

HELD_OUT_RATE, MOST_HELD_OUT = 0.1, 1000
"""Share of the training rows, and their largest number, that the weights of an ensemble are fitted on …"""
FEW_RATE, FEW_HELD_OUT = 0.25, 300
"""… and, if that is fewer than this number, a larger share, up to this number."""
SPARE_RATE = 0.1
"""The held-out part may exceed its planned size by this share, to keep near-duplicates together."""
APART_RATE = 0.5
"""Share of the rows set aside whose near-duplicates are set aside with them."""
FEWEST_TO_SET_ASIDE = 60
"""With fewer training rows than this, none are set aside."""


def split_holdout(
    labels: IntArray, share: float, max_rows: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Draw evaluation rows, stratified by class.

    A class's last row always stays in training, so that no class is evaluated without having been trained.
    At least one row is drawn if any can be and `share` and `max_rows` are above 0.

    Args:
        labels: (n,) class ids.
        share: share of the rows to draw, in [0, 1].
        max_rows: largest number of rows to draw.
        rng: decides which.

    Returns:
        Row numbers to train on and to evaluate on, both ascending.
    """
    classes, counts = np.unique(labels, return_counts=True)
    quotas = _quotas(counts, share, max_rows)
    drawn = [
        rng.choice(np.flatnonzero(labels == name), size=int(quota), replace=False)
        for name, quota in zip(classes, quotas, strict=True)
    ]
    evaluated = np.zeros(len(labels), dtype=np.bool_)
    if drawn:
        evaluated[np.concatenate(drawn)] = True
    return _both_sides(evaluated)


def _both_sides(evaluated: BoolArray) -> tuple[IntArray, IntArray]:
    return np.flatnonzero(~evaluated).astype(np.int32), np.flatnonzero(evaluated).astype(np.int32)


def _quotas(counts: IntArray, share: float, max_rows: int) -> IntArray:
    """Return how many rows to draw of each class (C,), `max_rows` in all: the share, by largest remainder."""
    limits = counts - 1
    n_rows = int(counts.sum())
    wanted = min(round(share * n_rows), max_rows)
    if share > 0 and max_rows > 0:
        wanted = max(wanted, 1)
    wanted = min(wanted, int(limits.sum()))
    if wanted <= 0:
        return np.zeros_like(counts)
    exact = counts * (wanted / n_rows)
    quotas: IntArray = np.minimum(np.floor(exact).astype(counts.dtype), limits)
    while (missing := wanted - int(quotas.sum())) > 0:
        open_classes = np.flatnonzero(quotas < limits)
        by_remainder = open_classes[np.argsort((quotas - exact)[open_classes], kind="stable")]
        quotas[by_remainder[:missing]] += 1
    return quotas


@dataclass(frozen=True)
class Splits:
    """Rows to train and evaluate on, with the model's label ids.

    Attributes:
        train: rows to train on.
        evaluation: rows to evaluate on.
        held_out: rows that no learner is fitted on, for the weights of the ensemble; may be empty.
        eval_source: where the evaluation rows came from, in words, without their number.
        label_names: by class id.
        warnings: sentences with counts, first those about what should be mended.
        bad_rows_files: JSON lines of rows left out, from train and eval.
        n_bad: rows left out because they cannot be used; those without a label are `n_unlabelled`.
        guessed_columns: the label column and the text columns, if they were guessed; else empty.
    """

    train: TokenView
    evaluation: TokenView
    eval_source: str
    label_names: tuple[str, ...]
    warnings: tuple[str, ...]
    bad_rows_files: tuple[Path, ...]
    n_bad: int
    held_out: TokenView | None = None
    n_unlabelled: int = 0
    guessed_columns: tuple[str, ...] = ()

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several labels."""
        return is_multi_hot(self.train.labels)

    def cut(self, max_length: int) -> Splits:
        """Return the same rows with at most so many tokens each."""
        return dataclasses.replace(
            self,
            train=self.train.cut(max_length),
            evaluation=self.evaluation.cut(max_length),
            held_out=None if self.held_out is None else self.held_out.cut(max_length),
        )


def data_options(data: LabelledText) -> DataOptions:
    """Pick the settings that decide how a file is read."""
    names = [field.name for field in dataclasses.fields(DataOptions) if field.name != "part"]
    return DataOptions(**{name: getattr(data, name) for name in names})


def open_splits(
    config: RunConfig,
    spec: TokenizerSpec,
    cache_dir: Path,
    known: tuple[str, ...],
    say: Say,
    check: Callable[[], None] = lambda: None,
    elapsed_s: Callable[[], float] = lambda: 0.0,
) -> Splits:
    """Open the rows of a config, or hold some of them out for evaluation.

    Args:
        config: which data, and how to read it.
        spec: how to tokenize it.
        cache_dir: where tokens are kept.
        known: the model's own label names in order; used when the data has the same ones.
        say: called with messages about slow progress.
        check: called now and then while text is tokenized; an exception ends tokenizing.
        elapsed_s: returns seconds since the run began; with a deadline, a large file is sampled.

    Raises:
        EdgetuneError: what is wrong with the data, in a sentence.
    """
    deadline_s, seed = config.budget.deadline_s, config.train.seed
    paths = (config.data.train, config.data.eval)
    options = data_options(config.data)

    def reader(
        path: str, min_classes: int, most_rows: int = MOST_ROWS, part: str | None = None
    ) -> TokenStore:
        sample = sample_for(deadline_s, seed, elapsed_s, most_rows)
        how = dataclasses.replace(options, part=part)
        if options.encoding == AUTO and not path.startswith(HUB_PREFIX):
            encoding = open_rows(path, how).encoding.removesuffix("-sig")
            if encoding not in ("", "utf-8"):
                say(f"The encoding of {path} was detected as {encoding}; if it is not, set --encoding.")
        progress = _reading_progress(name_copies(path, path), say, check)
        return open_tokens(
            path, how, spec, cache_dir, config.data.max_bad_rows, progress, min_classes, sample
        )

    store = reader(config.data.train, 2)
    if problem := uncategorical_labels(store.meta.source, store.counts):
        raise DataError(problem)
    same = len(known) == len(store.label_names) == len(find_labels(store.label_names, known))
    names, merge = known if same else store.label_names, options.merge_labels
    everything = store.relabel(names, merge)
    options = dataclasses.replace(options, multi_label=store.multi_label)  # so for the evaluation rows
    findings = store.findings()
    stores = [store]
    eval_path, part = config.data.eval, None
    if eval_path is None and (parts := find_parts(config.data.train, options)) is not None:
        say(parts.describe(config.data.train))
        eval_path, part = config.data.train, parts.validation
    if eval_path is not None:
        eval_store = reader(eval_path, 1, config.data.max_holdout_rows, part)
        stores.append(eval_store)
        train, evaluation = everything, eval_store.relabel(names, merge)
        source = eval_path if part is None else f'"{brief(part)}" in {eval_path}'
        counts = evaluation.counts
        if unknown := {name: counts[name] for name in evaluation.label_names[len(names) :]}:
            text = describe_unknown(unknown, len(evaluation)) + merge_hint(unknown, names)
            findings.append(DataFinding(text, mend=True))
    else:
        rng = np.random.default_rng([config.train.seed, 1])
        train_rows, eval_rows = hold_out(
            everything, strata(everything.labels), config.data.holdout, config.data.max_holdout_rows, rng
        )
        train, evaluation = everything.subset(train_rows), everything.subset(eval_rows)
        source = f"rows held out of {config.data.train}"
    findings += overlap_findings(train.text_hashes, evaluation.text_hashes)
    held_out = None
    if config.train.fits_ngrams:
        train, held_out = _set_aside(train, np.random.default_rng([config.train.seed, 6]))
    store.release()
    return Splits(
        train=train,
        evaluation=evaluation,
        eval_source=name_copies(source, *paths),
        label_names=tuple(names),
        warnings=tuple(name_copies(finding.text, *paths) for finding in by_importance(findings)),
        bad_rows_files=tuple(item.bad_rows_file for item in stores if item.meta.bad_reasons),
        n_bad=sum(item.meta.n_bad for item in stores),
        n_unlabelled=sum(item.meta.n_unlabelled for item in stores),
        guessed_columns=tuple(store.meta.guessed_columns),
        held_out=held_out,
    )


def n_held_out(n_rows: int) -> int:
    """Return how many of the training rows are set aside for the weights of an ensemble."""
    few = min(FEW_HELD_OUT, round(FEW_RATE * n_rows))
    return min(MOST_HELD_OUT, max(few, round(HELD_OUT_RATE * n_rows)))


def _set_aside(train: TokenView, rng: np.random.Generator) -> tuple[TokenView, TokenView | None]:
    """Set rows aside for the weights of an ensemble, stratified by class.

    Equal texts stay together. Future texts may repeat phrases of the training rows, as random rows of one
    file do, or not, as those of a separate test set. Therefore, half of the drawn rows are set aside with
    their near-duplicates, if that leaves training rows of every class, and half without them. Nothing is set
    aside if a class would be left without a row to train on, or if there are too few rows.
    """
    if len(train) < FEWEST_TO_SET_ASIDE:
        return train, None
    labels = strata(train.labels)
    _, first, group = np.unique(train.text_hashes, return_index=True, return_inverse=True)
    share = n_held_out(len(train)) / len(train)  # of the texts, however many rows each has
    _, chosen = split_holdout(labels[first], share, round(share * len(first)), rng)
    if not len(chosen):
        return train, None
    classes = labels[first][chosen]
    texts, one_each = train.subset(first), np.ones_like(first)
    half = rng.random(len(chosen)) < APART_RATE
    taken: BoolArray = np.isin(group, chosen[~half])
    if half.any():
        apart = _rows_apart(texts, labels, group, chosen[half], classes[half], one_each, rng)
        if apart is not None:
            taken = taken | apart
    if not _leave_all_classes(taken, labels):
        apart = _rows_apart(texts, labels, group, chosen, classes, one_each, rng)
        if apart is None:
            return train, None
        taken = apart
    return train.subset(np.flatnonzero(~taken)), train.subset(np.flatnonzero(taken))


def hold_out(
    view: Comparable, labels: IntArray, share: float, max_rows: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Draw evaluation rows, stratified by class, together with their near-duplicates.

    Equal texts stay on one side, as do the near-duplicates of a drawn row. If that would leave a class
    without a row to train on, or nothing to evaluate on, only equal texts are kept together, or no rows. If
    no rows are related, the result is that of `split_holdout`, which has the same arguments.
    """
    train_rows, drawn = split_holdout(labels, share, max_rows, rng)
    if not len(drawn):
        return train_rows, drawn
    _, first, group, sizes = np.unique(
        view.text_hashes, return_index=True, return_inverse=True, return_counts=True
    )
    chosen, texts = np.unique(group[drawn]), view.subset(first)
    taken = _rows_apart(texts, labels, group, chosen, labels[drawn], sizes, rng, max_rows)
    if taken is None:
        return train_rows, drawn
    return _both_sides(taken)


def _leave_all_classes(taken: BoolArray, labels: IntArray) -> bool:
    """Whether some rows are taken, and rows of every class are left."""
    return bool(taken.any()) and len(np.unique(labels[~taken])) == len(np.unique(labels))


def _rows_apart(
    texts: Comparable,
    labels: IntArray,
    group: IntArray,
    chosen: IntArray,
    wanted: IntArray,
    sizes: IntArray,
    rng: np.random.Generator,
    max_rows: int | None = None,
) -> BoolArray | None:
    """Choose the rows of drawn texts and of their families, or of fewer, so that each class has some.

    All rows have a class in `labels` (n,) and a text in `group` (n,); a text counts as `sizes` rows. `chosen`
    (m,) are the drawn texts, and `wanted` repeats each class as often as rows of it are wanted. At most
    `max_rows` are chosen, or a tenth more than are wanted.

    Returns:
        (n,) which rows; None if a class would be left without a row to train on.
    """
    most = (1 + SPARE_RATE) * len(wanted)
    most = most if max_rows is None else min(most, max_rows)
    of_text = np.zeros(len(sizes), dtype=labels.dtype)
    of_text[group[::-1]] = labels[::-1]  # the first row's, where the rows of a text differ
    incomplete: BoolArray | None = None
    for related in (families, near_duplicates, lambda _, rows: list(rows[:, None])):
        found = _some_families(related(texts, chosen), of_text[chosen], sizes, wanted, most, rng)
        taken = np.isin(group, found)
        if not _leave_all_classes(taken, labels):
            continue
        if np.isin(wanted, labels[taken]).all():
            return taken
        incomplete = taken if incomplete is None else incomplete
    return incomplete


def _some_families(
    families: list[IntArray],
    classes: IntArray,
    sizes: IntArray,
    wanted: IntArray,
    most: float,
    rng: np.random.Generator,
) -> IntArray:
    """Return the members of all families, or of random ones with about as many of each class as wanted.

    At most `most` rows are taken, and of no class more than `SPARE_RATE` above what is wanted, rounded up.
    `classes` are those of the texts that families were found for; for other arguments see `_rows_apart`.
    """
    together = np.unique(np.concatenate(families))
    if sizes[together].sum() <= most:
        return together
    taken: set[int] = set()
    n_taken = 0
    names, n_wanted = np.unique(wanted, return_counts=True)
    for at in np.argsort(n_wanted, kind="stable").tolist():  # the rarest class first
        n_of_class = 0
        for number in rng.permutation(np.flatnonzero(classes == names[at])).tolist():
            more = [text for text in families[number].tolist() if text not in taken]
            n_more = int(sizes[more].sum())
            fits = n_of_class + n_more <= math.ceil((1 + SPARE_RATE) * n_wanted[at])
            if fits and n_taken + n_more <= most:
                taken.update(more)
                n_taken += n_more
                n_of_class += n_more
            if n_of_class >= n_wanted[at]:
                break
    return np.array(sorted(taken), dtype=np.int64)


def _reading_progress(path: str, say: Say, check: Callable[[], None]) -> Callable[[int], None]:
    """Return a function that says now and then how many rows were read, when there are many."""
    told = 100_000

    def progress(n_read: int) -> None:
        nonlocal told
        check()
        if n_read >= told:
            say(f"Tokenizing {path}: {n_read:,} rows")
            told *= 2

    return progress
