"""A token cache as batches: rows in memory-mapped files, and views of some of them."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.data.batches import Batch
from edgetune.data.labels import find_labels, merge_hint
from edgetune.data.quality import (
    DataFinding,
    Repeats,
    label_findings,
    labels_per_row_findings,
    reading_findings,
)
from edgetune.data.token_format import BAD_ROWS, Meta
from edgetune.utils.errors import DataError
from edgetune.utils.formatting import describe_counts
from edgetune.utils.limits import MAX_MULTI_HOT
from edgetune.utils.multi_label import class_counts, is_multi_hot, multi_hot
from edgetune.utils.sanitize import brief
from edgetune.utils.types import IntArray, Labels


class _Mapped:
    """A file as a read-only array whose pages the system may drop."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.array: IntArray = np.frombuffer(self._map, dtype=dtype)

    def release(self) -> None:
        """Drop the pages in memory; they are read again when touched."""
        if hasattr(self._map, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


@dataclass(eq=False, repr=False)
class TokenView:
    """Some rows of a store, with labels of their own; implements `batches.TokenSource`.

    Attributes:
        store: where they are.
        rows: (n,) row numbers in the store.
        labels: (n,) int32 ids into `label_names`, or (n, C) float32 multi-hot.
        label_names: of the class ids.
        limit: tokens per row at most; None: as in the store.
    """

    store: TokenStore
    rows: IntArray
    labels: Labels
    label_names: tuple[str, ...]
    limit: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_numbered(self) -> int:
        """Row numbers of batches are below this: how many rows the store has."""
        return len(self.store.lengths)

    @cached_property
    def lengths(self) -> IntArray:
        """(n,) tokens per row."""
        lengths = self.store.lengths[self.rows]
        return lengths if self.limit is None else np.minimum(lengths, self.limit)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.lengths.max(initial=0))

    @property
    def text_hashes(self) -> IntArray:
        """(n,) uint64; equal for texts that differ in letter case or white space at most."""
        return self.store.hashes[self.rows]

    @property
    def counts(self) -> dict[str, int]:
        """Rows by label."""
        found = class_counts(self.labels, len(self.label_names))
        return {name: int(count) for name, count in zip(self.label_names, found, strict=True)}

    def batch(self, rows: IntArray) -> Batch:
        """Copy rows, given by their position in the view; `Batch.rows` are those of the store."""
        return self.store.gather(self.rows[rows], self.labels[rows], self.limit)

    def texts(self, rows: IntArray | None = None) -> list[str]:
        """Return the texts of rows, given by their position in the view; of all rows by default.

        The two texts of a pair have `PAIR_SEPARATOR` between them. Long texts are cut as for the tokenizer.
        """
        return self.store.read_texts(self.rows if rows is None else self.rows[rows])

    def numbered(self, rows: IntArray) -> Batch:
        """Copy rows of the view, (B,) given by their numbers in the store."""
        return self.batch(self.positions[rows])

    @cached_property
    def positions(self) -> IntArray:
        """(n_numbered,) position in the view of each row of the store; -1 if it is not in the view."""
        positions = np.full(self.n_numbered, -1, dtype=np.int32)
        positions[self.rows] = np.arange(len(self.rows), dtype=np.int32)
        return positions

    def subset(self, rows: IntArray) -> TokenView:
        """Return a view of some rows, given by their position in this one."""
        return TokenView(self.store, self.rows[rows], self.labels[rows], self.label_names, self.limit)

    def cut(self, limit: int) -> TokenView:
        """Return the same rows with at most `limit` tokens: the first ones, and the row's last token.

        For rows of one text that end in one special token this is what the tokenizer's truncation gives.
        """
        return TokenView(self.store, self.rows, self.labels, self.label_names, limit)

    def relabel(self, names: Sequence[str], merge: bool = False) -> TokenView:
        """Return the same rows with ids in a model's label order.

        Labels that the model does not have follow its own in `label_names`: none of its predictions is right
        for rows with such labels.

        Args:
            names: of the model's labels.
            merge: whether other spellings of a label count as that label; see `labels.variant_key`.

        Raises:
            DataError: no row's label is among `names`.
        """
        ids = find_labels(self.label_names, names, merge)
        counts = {name: count for name, count in self.counts.items() if count}
        unknown = [name for name in counts if name not in ids]
        if counts and len(unknown) == len(counts):
            known = ", ".join(f'"{brief(name)}"' for name in names[:20]) + (", …" if len(names) > 20 else "")
            raise DataError(
                f"{self.store.meta.source} contains only labels that the model does not know: "
                f"{describe_counts(counts)}. The labels of the model are {known}.{merge_hint(counts, names)}"
            )
        ids |= {name: len(names) + i for i, name in enumerate(unknown)}
        new_ids = np.array([ids.get(name, -1) for name in self.label_names], dtype=np.int32)
        labels = _renumbered(self.labels, new_ids, len(names) + len(unknown))
        view = TokenView(self.store, self.rows, labels, (*names, *unknown), self.limit)
        if "lengths" in self.__dict__:
            view.lengths = self.lengths
        return view

    def release(self) -> None:
        """Drop the store's pages that are in memory; they are read again when touched."""
        self.store.release()


def _renumbered(labels: Labels, new_ids: IntArray, n_classes: int) -> Labels:
    """Return labels with new class ids: `new_ids` (C,) by old id; -1: no row has the label."""
    if not is_multi_hot(labels):
        return new_ids[labels.astype(np.int64)]
    found = np.zeros((len(labels), n_classes), dtype=np.float32)
    for old, new in enumerate(new_ids.tolist()):
        if new >= 0:  # several spellings of a label may get one id
            np.maximum(found[:, new], labels[:, old], out=found[:, new])
    return found


class TokenStore(TokenView):
    """All rows of a token cache.

    Labels and lengths are in memory (12 bytes a row with the row numbers), the rest is mapped from files.

    Attributes:
        folder: of the cache.
        meta: what it holds.
        label_names: as found in the file, by number if all are whole numbers, else by letter.
        lengths: (n,) int32 tokens per row.
        hashes: (n,) uint64; see `text_hashes`.
    """

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.folder = folder
        self.meta = meta
        self._files = {name: _Mapped(folder / name, kind) for name, (kind, _) in meta.layout().items()}
        labels: Labels = np.array(self._files["labels.bin"].array)
        n_rows, n_classes = len(labels), len(meta.counts)
        if meta.label_sets is not None:
            if n_rows * n_classes > MAX_MULTI_HOT:
                raise DataError(
                    f"{meta.source} has {n_rows:,} rows with {n_classes:,} different labels, several each: "
                    "too many to be held in memory. Use fewer rows, or fewer labels."
                )
            labels = multi_hot(meta.label_sets, n_classes)[labels.astype(np.int64)]
        self.rows, self.labels = np.arange(n_rows, dtype=np.int32), labels
        self.label_names, self.limit = tuple(meta.counts), None
        self.lengths = np.diff(self._files["offsets.bin"].array).astype(np.int32)
        self.hashes = self._files["hashes.bin"].array
        self._files["offsets.bin"].release()

    @property
    def store(self) -> TokenStore:  # type: ignore[override]  # an attribute would be a cycle
        """Itself; maps and labels are freed with the last view, without a garbage collection."""
        return self

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several labels."""
        return self.meta.label_sets is not None

    @property
    def bad_rows_file(self) -> Path:
        """JSON lines: file, line, reason and excerpt of the first 1,000 rows left out for each reason."""
        return self.folder / BAD_ROWS

    def findings(self) -> list[DataFinding]:
        """Say what a user should look at before training; [] if nothing."""
        meta = self.meta
        found = reading_findings(meta.guessed_columns, meta.label_change, meta.n_loose, meta.first_loose)
        if meta.is_cut:
            text = (
                f"Only the first {meta.n_read:,} rows of {meta.source} were read, and {meta.n_rows:,} of "
                "them are used: the deadline is too short for the whole file. Allow more time, or shuffle "
                "the file."
            )
            found.append(DataFinding(text))
        elif meta.n_left_out:
            text = (
                f"A random sample of {meta.n_rows:,} of the {meta.n_read:,} rows of {meta.source} is used: "
                "the deadline is too short for all of them."
            )
            found.append(DataFinding(text))
        repeats = Repeats(meta.n_duplicates, meta.n_conflicts)
        n_rows = len(self) if self.multi_label else None
        found += label_findings(meta.counts, repeats, meta.n_truncated, meta.max_length, n_rows)
        if is_multi_hot(self.labels):
            n_labels, n_rows_each = np.unique(self.labels.sum(axis=1).astype(int), return_counts=True)
            found += labels_per_row_findings(dict(zip(n_labels.tolist(), n_rows_each.tolist(), strict=True)))
        return found

    def gather(self, rows: IntArray, labels: Labels, limit: int | None = None) -> Batch:
        """Copy rows, (B,) numbers in the store, and give them these labels; see `TokenView.cut`."""
        starts = self._files["offsets.bin"].array[rows]
        whole = self.lengths[rows]
        lengths = whole if limit is None else np.minimum(whole, limit)
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        places[offsets[1:] - 1] = starts + whole - 1
        return Batch(
            rows=np.asarray(rows, dtype=np.int64),
            labels=np.asarray(labels, dtype=np.float32 if is_multi_hot(labels) else np.int64),
            tokens=self._files["tokens.bin"].array[places].astype(np.int32),
            offsets=offsets,
            first_lengths=np.minimum(self._files["first_lengths.bin"].array[rows].astype(np.int32), lengths),
            scored=np.zeros(len(rows), dtype=np.bool_),
        )

    def checksum(self) -> int:
        """Return a checksum of the texts, labels and lengths of all rows."""
        found = 0
        for array in (self.hashes, self.labels, self.lengths):
            found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
        return found

    def read_texts(self, rows: IntArray) -> list[str]:
        """Return the texts of rows, (B,) numbers in the store; see `TokenView.texts`."""
        offsets, data = self._files["text_offsets.bin"].array, self._files["texts.bin"].array
        return [data[offsets[row] : offsets[row + 1]].tobytes().decode() for row in rows]

    def release(self) -> None:
        """Drop pages that are in memory; they are read again when touched."""
        for mapped in self._files.values():
            mapped.release()
