"""Builds the files of a token cache, row by row, in memory that does not grow with the data.

examples ─→ chunks of 1,000 ─→ tokenizer ─→ tokens.bin  offsets.bin  labels.bin  first_lengths.bin  hashes.bin
                                      texts.bin  text_offsets.bin
bad rows ─→ bad_rows.jsonl                                                          counts ─→ meta.json
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgetune.data.examples import DataOptions, Example, read_examples
from edgetune.data.labels import label_order
from edgetune.data.quality import check_label_count, count_repeats, mixed_label_kinds
from edgetune.data.row_sample import RowSample, draw_sample
from edgetune.data.table import NO_TOKENS, UNLABELLED, BadRow, excerpt_of
from edgetune.data.token_format import BAD_ROWS, CACHE_VERSION, META, Meta, TokenizerSpec, joined_text
from edgetune.utils.errors import ModelError
from edgetune.utils.types import IntArray

CHUNK_ROWS = 1_000
CHUNK_CHARS = 1 << 22  # a chunk ends with the text that reaches this
LEAST_TOKENIZED_CHARS = 1 << 16
TOKENIZED_CHARS_PER_TOKEN = 512
MAX_BAD_ROWS_KEPT = 1_000  # of each reason, in bad_rows.jsonl; all are counted


def text_hash(text: str, text_pair: str | None) -> bytes:
    """Return 8 bytes that are equal for texts that differ in letter case or white space at most."""
    normal = " ".join(text.lower().split())
    if text_pair is not None:
        normal += "\x1f" + " ".join(text_pair.lower().split())
    return blake2b(normal.encode(), digest_size=8).digest()


def load_tokenizer(spec: TokenizerSpec) -> Any:
    """Load a `tokenizer.json`, set to cut and not to pad.

    Raises:
        ModelError: it cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(spec.path))
        tokenizer.no_padding()
        tokenizer.enable_truncation(spec.max_length)
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"The tokenizer {spec.path} cannot be used: {error}.") from error
    return tokenizer


def tokenizer_input(text: str, text_pair: str | None, most_chars: int) -> str | tuple[str, str]:
    """Return the beginning of a text, or of both of a pair, so that 10 MB cost no more than a page.

    Nothing that is kept changes: a token has far fewer than `TOKENIZED_CHARS_PER_TOKEN` characters. For
    `most_chars` see `most_tokenized_chars`.
    """
    return text[:most_chars] if text_pair is None else (text[:most_chars], text_pair[:most_chars])


def most_tokenized_chars(max_length: int) -> int:
    """Return how many characters of a text are tokenized if `max_length` tokens are kept."""
    return max(LEAST_TOKENIZED_CHARS, TOKENIZED_CHARS_PER_TOKEN * max_length)


def _chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Yield examples by the thousand; fewer where they are long."""
    chunk: list[Example] = []
    n_chars = 0
    for example in examples:
        chunk.append(example)
        n_chars += len(example.text) + len(example.text_pair or "")
        if len(chunk) >= CHUNK_ROWS or n_chars >= CHUNK_CHARS:
            yield chunk
            chunk, n_chars = [], 0
    if chunk:
        yield chunk


class TokenWriter:
    """Appends tokenized examples to the files of a cache folder; use as a context manager.

    Attributes:
        meta: what was written; whole after `finish`.
        bad_rows: the first row of each reason for leaving rows out.
    """

    def __init__(self, folder: Path, source: str, spec: TokenizerSpec) -> None:
        self._folder, self._spec = folder, spec
        tokenizer = load_tokenizer(spec)
        self._encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
        largest_id = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        self._stack = ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._ids: dict[str, int] = {}  # in order of appearance
        self._sets: dict[tuple[int, ...], int] = {}  # of labels, where rows may have several
        self._first_lines: dict[str, int] = {}  # where each label came first
        self._counts: Counter[int] = Counter()
        self._reasons: Counter[str] = Counter()
        self.bad_rows: dict[str, BadRow] = {}
        self.meta = Meta(
            CACHE_VERSION,
            source,
            max_length=spec.max_length,
            token_dtype=_unsigned(largest_id),
            length_dtype=_unsigned(spec.max_length),
        )

    def __enter__(self) -> TokenWriter:
        for name in (*self.meta.layout(), BAD_ROWS):
            self._files[name] = self._stack.enter_context((self._folder / name).open("wb"))
        for name in ("offsets.bin", "text_offsets.bin"):
            self._append(name, np.zeros(1, dtype=np.int64))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def bad_reasons(self) -> dict[str, int]:
        """Rows left out, by reason, most frequent first."""
        return dict(self._reasons.most_common())

    def add_bad(self, row: BadRow) -> None:
        """Count a row that cannot be used or has no label, and keep it for the user to look at."""
        self.meta.n_read += 1
        if row.reason in UNLABELLED:
            self.meta.n_unlabelled += 1
        else:
            self.meta.n_bad += 1
        self._reasons[row.reason] += 1
        self.bad_rows.setdefault(row.reason, row)
        if self._reasons[row.reason] <= MAX_BAD_ROWS_KEPT:
            self._files[BAD_ROWS].write(json.dumps(asdict(row), ensure_ascii=True).encode() + b"\n")

    def add_loose(self, row: BadRow) -> None:
        """Count a row whose quotes had to be guessed."""
        self.meta.n_loose += 1
        self.meta.first_loose = self.meta.first_loose or f"{row.file}:{row.line}"

    def set_guess(self, columns: list[str]) -> None:
        """Keep which columns were guessed, for the user to be told."""
        self.meta.guessed_columns = columns

    def add(self, examples: list[Example]) -> None:
        """Tokenize and append a chunk of examples."""
        most_chars = most_tokenized_chars(self._spec.max_length)
        inputs = [tokenizer_input(one.text, one.text_pair, most_chars) for one in examples]
        try:
            encodings = self._encode(inputs)
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelError(f"The tokenizer {self._spec.path} cannot tokenize a text: {error}.") from error
        ids = [encoding.ids for encoding in encodings]
        if not all(ids):
            kept = self._without_empty(examples, ids)
            examples, inputs = [examples[i] for i in kept], [inputs[i] for i in kept]
            encodings, ids = [encodings[i] for i in kept], [ids[i] for i in kept]
        meta = self.meta
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        n_new = int(lengths.sum())
        self._append("tokens.bin", np.fromiter(chain.from_iterable(ids), dtype=meta.token_dtype, count=n_new))
        self._append("offsets.bin", meta.n_tokens + np.cumsum(lengths))
        firsts = _first_lengths(examples, encodings, lengths)
        self._append("first_lengths.bin", firsts.astype(meta.length_dtype))
        self._append("labels.bin", self._label_ids(examples))
        self._files["hashes.bin"].write(b"".join(text_hash(e.text, e.text_pair) for e in examples))
        self._append_texts(inputs)
        meta.n_tokens += n_new
        meta.n_truncated += sum(
            bool(encoding.overflowing)
            or len(example.text) > most_chars
            or len(example.text_pair or "") > most_chars
            for encoding, example in zip(encodings, examples, strict=True)
        )
        meta.n_read += len(examples)

    def finish(self) -> None:
        """Number the labels in their order, and write `meta.json`; the files must be closed."""
        names = label_order(self._ids)
        rank = np.empty(len(names), dtype=np.int32)
        rank[[self._ids[name] for name in names]] = np.arange(len(names))
        labels = np.fromfile(self._folder / "labels.bin", dtype=np.int32)
        if not self._sets:
            labels = rank[labels]
            labels.tofile(self._folder / "labels.bin")
        hashes = np.fromfile(self._folder / "hashes.bin", dtype=np.uint64)
        meta = self.meta
        meta.n_duplicates, meta.n_conflicts = count_repeats(hashes, labels)
        meta.bad_reasons = self.bad_reasons
        meta.counts = {name: self._counts[self._ids[name]] for name in names}
        meta.label_change = mixed_label_kinds(self._first_lines) or ""
        meta.label_sets = [sorted(rank[list(ids)].tolist()) for ids in self._sets] or None
        (self._folder / META).write_text(json.dumps(asdict(meta), indent=1), encoding="utf-8")

    def _append(self, name: str, values: IntArray) -> None:
        self._files[name].write(values.tobytes())

    def _append_texts(self, inputs: list[str | tuple[str, str]]) -> None:
        """Append what the tokenizer was given of each example, for learners that read words."""
        encoded = [joined_text(one).encode() for one in inputs]
        self._files["texts.bin"].write(b"".join(encoded))
        ends = self.meta.n_text_bytes + np.cumsum([len(text) for text in encoded], dtype=np.int64)
        self._append("text_offsets.bin", ends)
        self.meta.n_text_bytes += sum(map(len, encoded))

    def _label_ids(self, examples: list[Example]) -> IntArray:
        """Return the number of each row's label, or of its set of labels where it may have several."""
        found = []
        for example in examples:
            for label in example.labels:
                if label not in self._ids:
                    self._ids[label] = len(self._ids)
                    self._first_lines[label] = example.line
                    check_label_count(self.meta.source, len(self._ids), label)
            ids = tuple(self._ids[label] for label in example.labels)
            self._counts.update(ids)
            is_one = example.several is None
            found.append(ids[0] if is_one else self._sets.setdefault(ids, len(self._sets)))
        return np.array(found, dtype=np.int32)

    def _without_empty(self, examples: list[Example], ids: list[list[int]]) -> list[int]:
        """Count the rows of which the tokenizer keeps nothing as bad; return the numbers of the others."""
        for example in (e for e, tokens in zip(examples, ids, strict=True) if not tokens):
            self.add_bad(BadRow(self.meta.source, example.line, NO_TOKENS, excerpt_of(example.text)))
        return [i for i, tokens in enumerate(ids) if tokens]


def _unsigned(largest: int) -> str:
    """Return the type of numbers up to the largest."""
    return "uint16" if largest <= 0xFFFF else "uint32"


def _first_lengths(examples: list[Example], encodings: list[Any], lengths: IntArray) -> IntArray:
    """Return how many leading tokens of each row have type 0; a single text has no others."""
    firsts: IntArray = lengths.copy()
    for i, example in enumerate(examples):
        if example.text_pair is not None:
            types = encodings[i].type_ids
            firsts[i] = types.index(1) if 1 in types else len(types)
    return firsts


def build_tokens(
    folder: Path,
    path: str,
    options: DataOptions,
    spec: TokenizerSpec,
    progress: Callable[[int], None],
    sample: RowSample | None = None,
) -> TokenWriter:
    """Tokenize every usable row of `path`, or a sample, into the files of `folder`; then call `finish`."""
    with TokenWriter(folder, path, spec) as writer:
        examples: Iterable[Example] = read_examples(
            path, options, writer.add_bad, writer.add_loose, writer.set_guess
        )
        if sample is not None:
            drawn = draw_sample(examples, sample, progress)
            examples, writer.meta.is_cut = drawn.examples, drawn.is_cut
            writer.meta.n_left_out = drawn.n_seen - len(drawn.examples)
            writer.meta.n_read += writer.meta.n_left_out
        for chunk in _chunks(examples):
            writer.add(chunk)
            progress(writer.meta.n_read)
    return writer
