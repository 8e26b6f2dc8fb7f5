"""Which rows are trained and which are evaluated: the files of a config, opened as tokens with label ids."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetune.caches import cache_home, in_use
from edgetune.data.dataset import DataOptions
from edgetune.data.token_format import META
from edgetune.data.tokens import TokenizerSpec, TokenStore, TokenView, open_tokens, overlap, split_holdout
from edgetune.errors import EnvironmentError_
from edgetune.settings import LabelledText, RunConfig

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rows:
    """Rows to train and evaluate on, with the model's label ids.

    Attributes:
        train: rows to train on.
        evaluation: rows to evaluate on.
        eval_source: where those came from, in words.
        label_names: by class id.
        warnings: sentences with counts.
        bad_rows_files: JSON lines of rows left out, from train and eval.
        n_bad: rows left out.
    """

    train: TokenView
    evaluation: TokenView
    eval_source: str
    label_names: tuple[str, ...]
    warnings: tuple[str, ...]
    bad_rows_files: tuple[Path, ...]
    n_bad: int

    def cut(self, max_length: int) -> Rows:
        """Return the same rows with at most so many tokens each."""
        return dataclasses.replace(
            self, train=self.train.cut(max_length), evaluation=self.evaluation.cut(max_length)
        )


def data_options(data: LabelledText) -> DataOptions:
    """Pick the settings that decide how a file is read."""
    return DataOptions(
        text=data.text,
        label=data.label,
        header=data.header,
        encoding=data.encoding,
        delimiter=data.delimiter,
        pair=data.pair,
    )


def open_cached(
    path: str,
    options: DataOptions,
    spec: TokenizerSpec,
    cache_dir: Path,
    max_bad_rows: float,
    progress: Callable[[int], None] | None = None,
    min_classes: int = 2,
) -> TokenStore:
    """Open labelled text in a private cache, and note that it is in use; arguments as of `open_tokens`.

    Raises:
        EdgetuneError: what is wrong with the data or the cache, in a sentence.
    """
    try:
        home = cache_home(cache_dir, "tokens")
    except OSError as error:
        raise EnvironmentError_(
            f"The token cache cannot be written in {cache_dir} ({error.strerror or error}); choose another "
            "folder with --cache-dir."
        ) from error
    store = open_tokens(path, options, spec, home, max_bad_rows, progress, min_classes)
    in_use(store.folder / META)
    return store


def open_rows(
    config: RunConfig,
    spec: TokenizerSpec,
    cache_dir: Path,
    known: tuple[str, ...],
    say: Say,
    check: Callable[[], None] = lambda: None,
) -> Rows:
    """Open the rows of a config, or hold some of them out for evaluation.

    Args:
        config: which data, and how to read it.
        spec: how to tokenize it.
        cache_dir: where tokens are kept.
        known: the model's own label names in order; used when the data has the same ones.
        say: is told of slow progress.
        check: is called now and then while text is tokenized; what it raises ends that.

    Raises:
        EdgetuneError: what is wrong with the data, in a sentence.
    """
    options = data_options(config.data)

    def reader(path: str, min_classes: int) -> TokenStore:
        with reading(path, say, check) as progress:
            return open_cached(
                path, options, spec, cache_dir, config.data.max_bad_rows, progress, min_classes
            )

    store = reader(config.data.train, 2)
    names = known if set(known) == set(store.label_names) else store.label_names
    everything = store.relabel(names)
    warnings = list(store.warnings())
    stores = [store]
    if config.data.eval is not None:
        eval_store = reader(config.data.eval, 1)
        stores.append(eval_store)
        train, evaluation, source = everything, eval_store.relabel(names), config.data.eval
    else:
        rng = np.random.default_rng([config.train.seed, 1])
        train_rows, eval_rows = split_holdout(
            everything.labels, config.data.holdout, config.data.max_holdout_rows, rng
        )
        train, evaluation = everything.subset(train_rows), everything.subset(eval_rows)
        source = f"{len(evaluation):,} rows held out of {config.data.train}"
    if n_same := overlap(train, evaluation):
        warnings.append(
            f"{n_same:,} of {len(evaluation):,} evaluation texts are also training texts; "
            "the accuracy will look better than it is."
        )
    store.release()
    return Rows(
        train=train,
        evaluation=evaluation,
        eval_source=source,
        label_names=tuple(names),
        warnings=tuple(warnings),
        bad_rows_files=tuple(item.bad_rows_file for item in stores if item.n_bad),
        n_bad=sum(item.n_bad for item in stores),
    )


@contextlib.contextmanager
def reading(path: str, say: Say, check: Callable[[], None] = lambda: None) -> Iterator[Callable[[int], None]]:
    """Say now and then how many rows were read, when there are many."""
    told = 100_000

    def progress(n_read: int) -> None:
        nonlocal told
        check()
        if n_read >= told:
            say(f"Tokenizing {path}: {n_read:,} rows")
            told *= 2

    yield progress
