"""The check of labelled text: what was read, what is in it, what should be mended, what n-grams reach.

    file ─→ every row ─→ labels, hashes of texts ─────→ counts, repeats, conflicts, overlap
              └─ sample ─→ words, tokens of the encoder ─→ lengths, scripts, near-duplicates
                             └─→ folds ─→ n-grams ─────→ accuracy, most surprising rows

All rows are read and counted, as long as that takes a minute; what costs more is done with a sample.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from edgetune.backends.model_loader import ModelLoader
from edgetune.checking.script_coverage import ScriptCoverage, coverage_by_script
from edgetune.config.settings import RunConfig
from edgetune.data.columns import Columns
from edgetune.data.examples import (
    DataOptions,
    Example,
    find_columns,
    find_parts,
    open_labelled,
    read_examples,
)
from edgetune.data.in_memory import name_copies
from edgetune.data.labels import find_labels, label_order, merge_hint
from edgetune.data.near_duplicates import Words, make_folds, similar_groups
from edgetune.data.quality import (
    MEND_RATE,
    DataFinding,
    by_importance,
    check_label_count,
    count_repeats,
    label_findings,
    labels_per_row_findings,
    mixed_label_kinds,
    overlap_findings,
    reading_findings,
    uncategorical_labels,
)
from edgetune.data.row_sample import RowSample, draw_sample
from edgetune.data.splits import data_options
from edgetune.data.table import UNLABELLED, BadRow, Table
from edgetune.data.token_build import load_tokenizer, text_hash
from edgetune.data.token_format import TokenizerSpec, joined_text, shown_text, text_or_pair
from edgetune.data.tokens import ADVICE
from edgetune.learners.ngrams.learner import cross_fit_ngrams
from edgetune.models.vocabulary import unknown_token
from edgetune.utils.errors import DataError
from edgetune.utils.formatting import counted, describe_unknown, percent
from edgetune.utils.metrics import evaluate_predictions
from edgetune.utils.sanitize import brief
from edgetune.utils.types import IntArray, Say

READ_S = 60.0
"""Seconds after which no more rows are read."""
SAMPLE_ROWS, SAMPLE_CHARS, MAX_CHARS = 20_000, 10_000_000, 10_000
"""Rows of the sample, characters of all of them, and characters of one of them that are looked at."""
CROSS_VALIDATION_S, NEARLY_ALL = 40.0, 0.9
"""Seconds for all folds, and the share of them that is used up where fits were cut short."""
FEWEST_ROWS = 20
"""Fewer rows are not cross-validated."""
LENGTHS = (32, 64, 128, 256, 512)
"""Values of `--max-length` for which it is told how many texts they cut."""
MOST_SURPRISING = MOST_CONFLICTS = 5
UNKNOWN_RATE, TOKENS_PER_WORD = 0.05, 3.0
"""Above these a vocabulary writes a script poorly."""
SEVERAL = (
    "Rows may have several labels; n-grams are not cross-validated, and no surprising labels are listed."
)
LONGEST = 1024
"""Words and tokens that are counted of a text."""


@dataclass(frozen=True)
class ReadingFact:
    """How something was read, and the option that says otherwise."""

    what: str
    found: str
    option: str


@dataclass(frozen=True)
class ClassShare:
    """Rows of a class."""

    label: str
    rows: int
    share: float


@dataclass(frozen=True)
class LengthQuantiles:
    """Lengths of the sample's texts, in words or in tokens of the encoder; `LONGEST` is that or more."""

    unit: str
    shortest: int
    median: int
    percentile_95: int
    longest: int


@dataclass(frozen=True)
class CutShare:
    """How many of the sample's texts have more tokens than a `--max-length` keeps."""

    max_length: int
    rows: int
    share: float


@dataclass(frozen=True)
class ConflictingText:
    """A text that comes with several labels, and the lines of its rows."""

    text: str
    labels: tuple[str, ...]
    lines: tuple[int, ...]


@dataclass(frozen=True)
class SurprisingRow:
    """A row whose label n-grams, fitted on other rows, find improbable."""

    line: int
    label: str
    probability: float
    predicted: str
    text: str


@dataclass(frozen=True)
class CrossValidation:
    """What two simple classifiers reach on rows that they were not fitted on.

    Attributes:
        n_rows: of the sample.
        majority: accuracy of always predicting the most frequent class.
        accuracy: of an n-gram classifier.
        interval: of 95 %, of that accuracy.
        macro_f1: of the n-gram classifier.
        apart: whether near-duplicates are in one fold; where too many rows are alike, only equal texts are.
        is_cut: whether n-grams were fitted on fewer rows, or less often, because time had run out.
    """

    n_rows: int
    majority: float
    accuracy: float
    interval: tuple[float, float]
    macro_f1: float
    apart: bool
    is_cut: bool


@dataclass(frozen=True)
class DataCheck:
    """What `edgetune check` found.

    Attributes:
        source: what was read.
        findings: what a user should know, those first that should be mended.
        reading: how it was read.
        n_read, n_rows, n_unusable, n_unlabelled: rows read, and what became of them.
        unusable: rows that were left out, by reason.
        n_duplicates: rows whose text was there before.
        n_conflicts: texts with several labels.
        n_sampled: rows of the sample, on which what follows rests.
        n_near_duplicates: different texts of the sample that are near-duplicates of an earlier one.
        classes: rows of each class.
        lengths: in words and in tokens.
        cuts: texts cut by `--max-length`.
        scripts: what texts are written in, and how well the encoder's vocabulary writes that.
        conflicts: some of the texts with several labels.
        cross_validation: None where there are too few rows, or labels are no categories.
        surprising: rows with the most improbable labels.
    """

    source: str
    findings: tuple[DataFinding, ...]
    reading: tuple[ReadingFact, ...]
    n_read: int
    n_rows: int
    n_unusable: int
    n_unlabelled: int
    unusable: dict[str, int]
    n_duplicates: int
    n_conflicts: int
    n_sampled: int
    n_near_duplicates: int
    classes: tuple[ClassShare, ...]
    lengths: tuple[LengthQuantiles, ...]
    cuts: tuple[CutShare, ...]
    scripts: tuple[ScriptCoverage, ...]
    conflicts: tuple[ConflictingText, ...]
    cross_validation: CrossValidation | None
    surprising: tuple[SurprisingRow, ...]

    @property
    def needs_mending(self) -> bool:
        """Whether something should be mended before training."""
        return any(finding.mend for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        findings = [finding._asdict() for finding in self.findings]
        return {**asdict(self), "findings": findings, "needs_mending": self.needs_mending}

    def frame(self, part: str) -> Any:
        """Return a part that has rows as a pandas `DataFrame`; as a list of dicts where pandas is missing.

        Args:
            part: `findings`, `reading`, `classes`, `lengths`, `cuts`, `scripts`, `conflicts` or `surprising`.
        """
        rows = self.to_dict()[part]
        try:
            from pandas import DataFrame
        except ImportError:
            return rows
        return DataFrame(rows)


@dataclass
class _Rows:
    """What is counted of every row of a file; `text_hashes` as of a `TokenView`."""

    n_rows: int = 0
    multi_label: bool = False
    labels: Counter[str] = field(default_factory=Counter)
    n_labels: Counter[int] = field(default_factory=Counter)
    first_lines: dict[str, int] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    first_bad: dict[str, str] = field(default_factory=dict)
    n_loose: int = 0
    first_loose: str = ""
    guess: tuple[str, ...] = ()
    label_ids: array[int] = field(default_factory=partial(array, "i"))
    _hashes: bytearray = field(default_factory=bytearray)

    def add_bad(self, row: BadRow) -> None:
        self.reasons[row.reason] += 1
        self.first_bad.setdefault(row.reason, f"{row.file}:{row.line}")

    def add_loose(self, row: BadRow) -> None:
        self.n_loose += 1
        self.first_loose = self.first_loose or f"{row.file}:{row.line}"

    def set_guess(self, columns: list[str]) -> None:
        self.guess = tuple(columns)

    def counted(self, path: str, options: DataOptions) -> Iterator[Example]:
        """Yield the usable rows of a file, their texts cut to what is looked at."""
        numbers: dict[str, int] = {}  # of labels, or of sets of them
        for example in read_examples(path, options, self.add_bad, self.add_loose, self.set_guess):
            self.n_rows += 1
            self.multi_label = example.several is not None
            self.labels.update(example.labels)
            self.n_labels[len(example.labels)] += 1
            for label in example.labels:
                self.first_lines.setdefault(label, example.line)
            self.label_ids.append(numbers.setdefault(example.label, len(numbers)))
            self._hashes += text_hash(example.text, example.text_pair)
            check_label_count(path, len(self.labels), example.label)
            pair = example.text_pair
            cut = None if pair is None else pair[:MAX_CHARS]
            yield example._replace(text=example.text[:MAX_CHARS], text_pair=cut)

    @property
    def text_hashes(self) -> IntArray:
        """(n,) uint64; equal for texts that differ in letter case or white space at most."""
        return np.frombuffer(bytes(self._hashes), dtype=np.uint64)

    @property
    def n_unlabelled(self) -> int:
        """Rows without a label."""
        return sum(self.reasons[reason] for reason in UNLABELLED)

    @property
    def n_unusable(self) -> int:
        """Rows that cannot be used."""
        return sum(self.reasons.values()) - self.n_unlabelled


def check_data(config: RunConfig, model_loader: ModelLoader, say: Say = lambda text: None) -> DataCheck:
    """Check the labelled text of a config.

    Raises:
        DataError: the file is missing, or no row can be used.
        UsageError: the text or label column cannot be found.
    """
    path, options = config.data.train, data_options(config.data)
    table = open_labelled(path, options)
    chosen = find_columns(table, options)
    started, rows = time.monotonic(), _Rows()
    most = RowSample(0, SAMPLE_ROWS, config.train.seed, lambda: time.monotonic() - started > READ_S)
    drawn = draw_sample(rows.counted(path, options), most, lambda n_read: None)
    n_rows = rows.n_rows
    if not n_rows:
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in rows.reasons.most_common())
        raise DataError(f"{path} has no usable rows{': ' if reasons else ''}{reasons}.")
    n_chars = sum(len(example.text) + len(example.text_pair or "") for example in drawn.examples)
    sample = drawn.examples[:: max(1, -(-n_chars // SAMPLE_CHARS))]
    if n_rows > len(sample):
        say(f"Checking a sample of {len(sample):,} of {n_rows:,} rows")
    names = label_order(rows.labels)
    counts = {name: rows.labels[name] for name in names}
    repeats = count_repeats(rows.text_hashes, np.array(rows.label_ids, dtype=np.int32))
    texts = [joined_text(text_or_pair(example.text, example.text_pair)) for example in sample]
    words = Words(texts)
    lengths, n_tokens, scripts = _tokenized(sample, texts, words, model_loader)
    cuts = [_cut(limit, n_tokens) for limit in LENGTHS if limit <= model_loader.max_positions]
    groups = similar_groups(words)
    problems = list(_label_problems(path, counts))
    validated: CrossValidation | None = None
    surprising: list[SurprisingRow] = []
    if not problems and not rows.multi_label:
        validated, surprising = _cross_validated(sample, texts, names, words, groups, config.train.seed)
    mixed, n_multi_label = mixed_label_kinds(rows.first_lines) or "", n_rows if rows.multi_label else None
    findings = [
        *reading_findings(rows.guess, mixed, rows.n_loose, rows.first_loose),
        *_row_findings(rows, n_rows, drawn.is_cut),
        *(problems or label_findings(counts, repeats, 0, config.data.max_length, n_multi_label)),
        *([*labels_per_row_findings(rows.n_labels), DataFinding(SEVERAL)] if rows.multi_label else ()),
        *_sample_findings(config, n_tokens, scripts, validated, model_loader.source.name),
        *_eval_findings(config, options, rows, names),
    ]
    return DataCheck(
        source=name_copies(path, path),
        findings=tuple(
            finding._replace(text=name_copies(finding.text, path, config.data.eval))
            for finding in by_importance(findings)
        ),
        reading=tuple(_reading(table, chosen, options)),
        n_read=n_rows + sum(rows.reasons.values()),
        n_rows=n_rows,
        n_unusable=rows.n_unusable,
        n_unlabelled=rows.n_unlabelled,
        unusable=dict(rows.reasons.most_common()),
        n_duplicates=repeats.n_duplicates,
        n_conflicts=repeats.n_conflicts,
        n_sampled=len(sample),
        n_near_duplicates=len(np.unique(words.text_hashes)) - len(np.unique(groups)),
        classes=tuple(ClassShare(name, count, count / n_rows) for name, count in counts.items()),
        lengths=lengths,
        cuts=tuple(cuts),
        scripts=tuple(scripts),
        conflicts=tuple(islice(_conflicts(sample, words), MOST_CONFLICTS)),
        cross_validation=validated,
        surprising=tuple(surprising),
    )


def _reading(table: Table, chosen: Columns, options: DataOptions) -> Iterator[ReadingFact]:
    guessed = " (guessed)" if chosen.guessed else ""
    texts = " and ".join(f'"{brief(table.columns[i])}"' for i in chosen.text)
    yield ReadingFact("text", texts + ("" if options.text else guessed), "--text")
    flags = chosen.flags or (() if chosen.label is None else (chosen.label,))
    labels = ", ".join(f'"{brief(table.columns[i])}"' for i in flags)
    yield ReadingFact("label", labels + ("" if options.label else guessed), "--label")
    if table.encoding:
        yield ReadingFact("encoding", table.encoding.removesuffix("-sig"), "--encoding")
    if table.dialect is not None:
        header = "the first row names the columns" if table.has_names else "none"
        yield ReadingFact("header", header, "--no-header" if table.has_names else "--header")
        names = {"\t": "tab", ",": "comma", ";": "semicolon", " ": "blank"}
        delimiter = table.dialect.delimiter
        yield ReadingFact("delimiter", names.get(delimiter, brief(delimiter)), "--delimiter")
        quotes = "escaped by backslashes" if table.dialect.escaped else "as in CSV"
        found = quotes if table.dialect.quoted else "part of the text"
        yield ReadingFact("quotes", found, "--no-escape" if table.dialect.escaped else "--escape")


def _tokenized(
    sample: Sequence[Example], texts: Sequence[str], words: Words, model_loader: ModelLoader
) -> tuple[tuple[LengthQuantiles, LengthQuantiles], IntArray, list[ScriptCoverage]]:
    """Return the lengths of texts, their tokens (n,) with special ones, and the scripts."""
    tokenizer = load_tokenizer(TokenizerSpec(model_loader.tokenizer_file, LONGEST, 0))
    unknown = unknown_token(tokenizer)
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    lengths, unknowns = [], []
    for start in range(0, len(sample), 1000):
        part = sample[start : start + 1000]
        inputs = [text_or_pair(one.text, one.text_pair) for one in part]
        for found in encode(inputs, add_special_tokens=False):
            lengths.append(len(found.ids))
            unknowns.append(found.ids.count(unknown))
    inner = np.array(lengths, dtype=np.int64)
    n_tokens = inner + tokenizer.num_special_tokens_to_add(sample[0].text_pair is not None)
    scripts = coverage_by_script(texts, words.lengths, inner, np.array(unknowns, dtype=np.int64))
    return (_quantiles("words", words.lengths), _quantiles("tokens", n_tokens)), n_tokens, scripts


def _quantiles(unit: str, lengths: IntArray) -> LengthQuantiles:
    shown = np.minimum(lengths, LONGEST)
    found = np.percentile(shown, [0, 50, 95, 100], method="nearest").astype(int).tolist()
    return LengthQuantiles(unit, *found)


def _cut(limit: int, n_tokens: IntArray) -> CutShare:
    n_cut = int(np.count_nonzero(n_tokens > limit))
    return CutShare(limit, n_cut, n_cut / len(n_tokens))


def _conflicts(sample: Sequence[Example], words: Words) -> Iterator[ConflictingText]:
    order = np.argsort(words.text_hashes, kind="stable")
    starts = np.flatnonzero(np.diff(words.text_hashes[order])) + 1
    for rows in np.split(order, starts):
        examples = [sample[row] for row in rows.tolist()]
        labels = tuple(sorted({example.label for example in examples}))
        if len(labels) > 1:
            lines = tuple(example.line for example in examples)
            yield ConflictingText(shown_text(examples[0].text, examples[0].text_pair), labels, lines)


def _cross_validated(
    sample: Sequence[Example],
    texts: Sequence[str],
    names: Sequence[str],
    words: Words,
    groups: IntArray,
    seed: int,
) -> tuple[CrossValidation | None, list[SurprisingRow]]:
    """Fit n-grams on all folds but one, for each fold, and compare what they say of it with its labels."""
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[example.label] for example in sample], dtype=np.int64)
    if len(sample) < FEWEST_ROWS or len(np.unique(labels)) < 2:
        return None, []
    rng = np.random.default_rng(seed)
    folds = make_folds(groups, labels, rng)
    apart = folds is not None
    if folds is None and (folds := make_folds(words.text_hashes, labels, rng)) is None:
        return None, []
    started_s = time.monotonic()
    log_proba = cross_fit_ngrams(texts, labels, len(names), folds, seed, limit_s=CROSS_VALIDATION_S)
    is_cut = time.monotonic() - started_s > NEARLY_ALL * CROSS_VALIDATION_S
    found = evaluate_predictions(log_proba, labels, names)
    majority = int(np.bincount(labels).max()) / len(labels)
    validated = CrossValidation(
        len(labels), majority, found.accuracy, found.interval, found.macro_f1, apart, is_cut
    )
    own_proba = log_proba[np.arange(len(labels)), labels]
    predicted = log_proba.argmax(axis=1)
    order = np.argsort(own_proba, kind="stable")
    _, first = np.unique(words.text_hashes[order], return_index=True)  # of each text one row
    wrong = [row for row in order[np.sort(first)].tolist() if predicted[row] != labels[row]]
    surprising = []
    for row in wrong[:MOST_SURPRISING]:
        one, probability = sample[row], float(np.exp(own_proba[row]))
        text = shown_text(one.text, one.text_pair)
        surprising.append(SurprisingRow(one.line, one.label, probability, names[predicted[row]], text))
    return validated, surprising


def _row_findings(rows: _Rows, n_rows: int, is_cut: bool) -> Iterator[DataFinding]:
    if is_cut:
        yield DataFinding(
            f"Only the first {n_rows:,} usable rows were read; the file is too large for a check."
        )
    if n_bad := rows.n_unusable:
        reasons = "; ".join(
            f"{reason} ({count:,}, the first is {rows.first_bad[reason]})"
            for reason, count in rows.reasons.most_common()
            if reason not in UNLABELLED
        )
        rate = n_bad / (n_rows + n_bad)
        text = f"{counted(n_bad, 'row')} ({rate:.1%}) cannot be used: {reasons}."
        advice = [ADVICE[reason] for reason in rows.reasons if reason in ADVICE]
        yield DataFinding(" ".join([text, *advice]), rate > MEND_RATE)
    if rows.n_unlabelled:
        share = rows.n_unlabelled / (n_rows + sum(rows.reasons.values()))
        yield DataFinding(
            f"{counted(rows.n_unlabelled, 'row')} ({share:.1%}) without a label will be left out."
        )


def _label_problems(path: str, counts: dict[str, int]) -> Iterator[DataFinding]:
    if len(counts) == 1:
        (name,) = counts
        text = f'Every row has the label "{brief(name)}"; a classifier needs at least two different ones. '
        yield DataFinding(f"{text}Check that --label names the right column.", mend=True)
    elif problem := uncategorical_labels(path, counts):
        yield DataFinding(problem, mend=True)


def _sample_findings(
    config: RunConfig,
    n_tokens: IntArray,
    scripts: Iterable[ScriptCoverage],
    validated: CrossValidation | None,
    encoder: str,
) -> Iterator[DataFinding]:
    cut = _cut(config.data.max_length, n_tokens)
    if cut.share >= MEND_RATE:
        text = f"{percent(cut.share)} of the texts have more than {cut.max_length} tokens and are truncated"
        yield DataFinding(f"{text}; see --max-length.")
    for one in scripts:
        poorly = one.unknown_rate > UNKNOWN_RATE
        if one.share > MEND_RATE and (poorly or one.tokens_per_word > TOKENS_PER_WORD):
            what = (
                f"cannot write {percent(one.unknown_rate)} of the tokens"
                if poorly
                else f"needs {one.tokens_per_word:.1f} tokens a word"
            )
            yield DataFinding(
                f"The vocabulary of {encoder} {what} of the {percent(one.share)} of texts in {one.script} "
                "script; choose an encoder for that language with --model.",
                poorly,
            )
    if validated is not None and validated.interval[1] < validated.majority:
        text = "An n-gram classifier is less accurate than always predicting the most frequent label; "
        yield DataFinding(f"{text}check that --text and --label name the right columns.")


def _eval_findings(
    config: RunConfig, options: DataOptions, rows: _Rows, names: Sequence[str]
) -> list[DataFinding]:
    path, part = config.data.eval, None
    if path is None:
        path = config.data.train
        if (parts := find_parts(path, options)) is None:
            return []
        part = parts.validation
    evaluation = _Rows()
    for _ in evaluation.counted(path, replace(options, part=part, multi_label=rows.multi_label)):
        pass
    n_rows = evaluation.n_rows
    if not n_rows:
        raise DataError(f"{path} has no usable rows to evaluate on.")
    found = overlap_findings(rows.text_hashes, evaluation.text_hashes)
    known = find_labels(evaluation.labels, names, options.merge_labels)
    if unknown := {name: count for name, count in evaluation.labels.items() if name not in known}:
        text = describe_unknown(unknown, n_rows) + merge_hint(unknown, names)
        found.append(DataFinding(text, mend=True))
    return found
