"""Labelled text as tokens, from a cache whose key is a hash of everything that its content depends on.

open_tokens ─→ key known? ─ yes ─→ TokenStore ─→ subset, relabel ─→ TokenView ─→ Batch
                        └── no ──→ token_build, in a temporary folder, renamed when whole
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path

from edgetune.data.examples import DataOptions
from edgetune.data.readers import folder_files, require_exists
from edgetune.data.row_sample import RowSample
from edgetune.data.table import (
    BAD_BYTES,
    BROKEN_LABEL,
    NOT_A_LABEL,
    NOT_TEXT,
    STRAY_QUOTE,
    UNLABELLED,
    WRONG_COLUMN_COUNT,
)
from edgetune.data.text_files import encoding_advice, reading_errors
from edgetune.data.token_build import TokenWriter, build_tokens
from edgetune.data.token_format import CACHE_VERSION, META, Meta, TokenizerSpec
from edgetune.data.token_store import TokenStore
from edgetune.utils.cache import cache_subfolder, mark_in_use, move_into_place
from edgetune.utils.errors import DataError, ResourceError
from edgetune.utils.files import os_error_in
from edgetune.utils.formatting import counted
from edgetune.utils.hub import HUB_PREFIX
from edgetune.utils.multi_label import class_counts
from edgetune.utils.sanitize import brief
from edgetune.utils.version import __version__

_BLOCK_BYTES = 1 << 20
_BUILDING = ".building-"
_STALE_S = 24 * 3600.0  # what a killed build left behind is removed after this
ADVICE = {  # by reason of a row that cannot be used
    NOT_TEXT: "Join a list of words into one text.",
    NOT_A_LABEL: "Use --multi-label if a text may have several labels.",
    STRAY_QUOTE: "Remove the quote, or close it.",
    BROKEN_LABEL: "Close the quote, or double it where it is part of the text.",
    WRONG_COLUMN_COUNT: "Quote the fields that hold the delimiter, or see --delimiter and --escape.",
}


def tokens_cache_key(path: str, options: DataOptions, tokenizer: TokenizerSpec) -> str:
    """Hash the data's content, how it is read and how it is tokenized.

    A hub dataset is identified by its name and commit alone, so that a cached one opens without a network.

    Raises:
        DataError: the data or the tokenizer cannot be read.
    """
    digest = hashlib.sha256()
    settings = {
        "version": __version__,
        "cache": CACHE_VERSION,
        "options": asdict(options),
        "max_length": tokenizer.max_length,
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    _add_file(digest, tokenizer.path)
    if path.startswith(HUB_PREFIX):
        digest.update(path.encode())
    elif (place := require_exists(path)).is_file():
        digest.update("".join(place.suffixes[-2:]).lower().encode())
        _add_file(digest, place)
    else:
        for file in folder_files(place):
            with reading_errors(file):
                stat = file.stat()
            name = file.relative_to(place).as_posix()
            digest.update(f"\n{name} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
            _add_file(digest, file)
    return digest.hexdigest()[:32]


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    with reading_errors(path), path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)


def open_tokens(
    path: str,
    options: DataOptions,
    tokenizer: TokenizerSpec,
    cache_dir: Path,
    max_bad_rows: float,
    progress: Callable[[int], None] = lambda n_read: None,
    min_classes: int = 2,
    sample: RowSample | None = None,
) -> TokenStore:
    """Open labelled text as tokens, from a private cache if it was opened before, and note that it is in use.

    Args:
        path: a file, a folder, or `hub:NAME` (see `data_hub`).
        options: how to read it.
        tokenizer: how to tokenize it.
        cache_dir: where caches are kept, tokens in a folder of their own.
        max_bad_rows: the share of rows read, in [0, 1], that may be unusable.
        progress: called now and then with the number of rows read, while a cache is built.
        min_classes: how many different labels there must be.
        sample: how many rows are used at most, if not all are in the cache already; None: all.

    Raises:
        DataError: there is no such data, or too little of it is usable.
        UsageError: the text or label column cannot be found.
        ModelError: the tokenizer cannot be used.
        ResourceError: the cache cannot be written.
    """
    with _cache_errors(cache_dir):
        home = cache_subfolder(cache_dir, "tokens")
    folder = home / tokens_cache_key(path, options, tokenizer)
    store = _open_cached(folder)
    if store is None and sample is not None:
        part = _sample_folder(folder, sample)
        store = _open_cached(part)
        folder = part if store is not None else folder
    if store is None or store.meta.n_bad > max_bad_rows * (store.meta.n_read - store.meta.n_unlabelled):
        store = _build_cached(folder, path, options, tokenizer, max_bad_rows, progress, sample)
    if not store.label_names:
        raise DataError(f"No row of {path} has a label. Check that --label names the right column.")
    if len(store.label_names) < min_classes:
        raise DataError(
            f"Every {'label of' if store.multi_label else 'row of'} {path} "
            f"{'is' if store.multi_label else 'has the label'} "
            f'"{brief(store.label_names[0])}"; a classifier needs at least '
            f"{min_classes} different ones. Check that --label names the right column."
        )
    mark_in_use(store.folder / META)
    return store


def _sample_folder(folder: Path, sample: RowSample) -> Path:
    """Return the folder of a sample, given the folder that all rows would have."""
    return folder.with_name(f"{folder.name}-{sample.n_chars}-{sample.most}-{sample.seed}")


def _open_cached(folder: Path) -> TokenStore | None:
    """Open a cache; None if there is none or it is damaged."""
    try:
        values = json.loads((folder / META).read_text(encoding="utf-8"))
        meta = Meta(**{field.name: values[field.name] for field in fields(Meta)})
        n_labelled = meta.n_rows if meta.label_sets is not None else sum(meta.counts.values())
        sizes = {name: kind.itemsize * count for name, (kind, count) in meta.layout().items()}
        is_whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
        if meta.version != CACHE_VERSION or n_labelled != meta.n_rows or not is_whole:
            return None
        store = TokenStore(folder, meta)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    ends_well = int(store.lengths.sum()) == meta.n_tokens and int(store.lengths.min()) > 0
    counts = class_counts(store.labels.clip(0), len(store.label_names)).tolist()
    return store if ends_well and counts == list(meta.counts.values()) else None


def _build_cached(
    folder: Path,
    path: str,
    options: DataOptions,
    tokenizer: TokenizerSpec,
    max_bad_rows: float,
    progress: Callable[[int], None],
    sample: RowSample | None = None,
) -> TokenStore:
    """Build a cache beside its place and move it there; nothing is left behind if that fails."""
    with _cache_errors(folder.parent):
        _sweep(folder.parent)
        building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder.parent))
        try:
            writer = build_tokens(building, path, options, tokenizer, progress, sample)
            if sample is not None and (writer.meta.n_left_out or writer.meta.is_cut):
                folder = _sample_folder(folder, sample)
            _check_usable(path, writer, max_bad_rows)
            writer.finish()
            move_into_place(building, folder, lambda folder: _open_cached(folder) is not None)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    store = _open_cached(folder)
    if store is None:
        raise ResourceError(
            f"The token cache {folder} cannot be read back; choose another folder with --cache-dir."
        )
    return store


def _sweep(cache_dir: Path) -> None:
    """Remove what killed builds left behind."""
    for left in cache_dir.glob(f"{_BUILDING}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _cache_errors(cache_dir: Path) -> Iterator[None]:
    """Say why the token cache cannot be written."""
    try:
        yield
    except OSError as caught:
        error = os_error_in(caught) or caught
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise ResourceError(
                f"There is no space left for the token cache in {cache_dir}; free up space, or choose a "
                "folder on another disk with --cache-dir or EDGETUNE_CACHE."
            ) from caught
        raise ResourceError(
            f"Cannot write the token cache to {cache_dir} ({error.strerror or error}); choose another "
            "folder with --cache-dir or EDGETUNE_CACHE."
        ) from caught


def _check_usable(path: str, writer: TokenWriter, max_bad_rows: float) -> None:
    """Refuse data of which too much is unusable, with counts, reasons and where to look."""
    meta, reasons = writer.meta, writer.bad_reasons
    if not meta.n_read:
        raise DataError(f"{path} has no rows.")
    n_labelled = meta.n_read - meta.n_unlabelled
    rate = meta.n_bad / max(1, n_labelled)
    if rate <= max_bad_rows and meta.n_rows:
        return
    if meta.n_rows:
        reasons = {reason: count for reason, count in reasons.items() if reason not in UNLABELLED}
    firsts = [(reason, count, writer.bad_rows[reason]) for reason, count in list(reasons.items())[:4]]
    shown = "; ".join(
        f'{reason} ({counted(count, "row")}, first: {row.file}:{row.line} "{row.excerpt}")'
        for reason, count, row in firsts
    )
    hint = f" {encoding_advice(path)}".rstrip() if BAD_BYTES in reasons else ""
    hint += "".join(f" {advice}" for reason, advice in ADVICE.items() if reason in reasons)
    if not meta.n_rows:
        raise DataError(f"{path} has no usable rows ({meta.n_read:,} read): {shown}.{hint}")
    raise DataError(
        f"{meta.n_bad:,} of the {n_labelled:,} rows of {path} ({rate:.2%}) cannot be used, but at most "
        f"{max_bad_rows:.2%} are allowed: {shown}. Fix these rows, or allow more with --max-bad-rows.{hint}"
    )
