"""A finished run, opened again: predict and evaluate with its ONNX model (with torch if there is none)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.config.settings import RunConfig
from edgetune.config.toml_config import load_config, make_config
from edgetune.data.batches import Batch, sequential_batches
from edgetune.data.examples import DataOptions, find_parts
from edgetune.data.in_memory import NAME, Data, Texts, as_path, naming_copies, texts_of
from edgetune.data.token_build import CHUNK_CHARS, most_tokenized_chars, tokenizer_input
from edgetune.data.token_format import TokenizerSpec, joined_text
from edgetune.data.token_store import TokenView
from edgetune.inference.saved_ensemble import load_ensemble
from edgetune.inference.scorers import Scorer, onnx_scorer, torch_scorer
from edgetune.models.checks import check_config, open_tokenizer
from edgetune.models.source import max_positions
from edgetune.models.vocabulary import check_vocabulary, pad_token_id
from edgetune.run_files.run_folder import ENSEMBLE, damage_errors, finish_placing_if_idle, is_run_folder
from edgetune.run_files.summary import read_summary
from edgetune.utils.errors import RunError
from edgetune.utils.files import folder_name
from edgetune.utils.formatting import counted
from edgetune.utils.machine import cache_folder
from edgetune.utils.metrics import Evaluation, softmax
from edgetune.utils.multi_label import USUAL_THRESHOLD, log_sigmoid
from edgetune.utils.multi_label_metrics import evaluate_answers
from edgetune.utils.parsing import is_encodable
from edgetune.utils.sanitize import brief
from edgetune.utils.types import FloatArray, IntArray, Say

BATCH_SIZE = 32
CHUNK = 1024  # texts tokenized and sorted by length together
DEFAULT_MAX_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one text.

    Attributes:
        label: the most probable label's name; None for an empty text.
        probability: of that label, in [0, 1]; not a number for an empty text.
        probabilities: by label name; they add up to 1 where a text has one label. {} for an empty text.
        labels: where a text may have several labels, those whose probability reaches their threshold, the
            most probable first; else None.
    """

    label: str | None
    probability: float
    probabilities: dict[str, float]
    labels: tuple[str, ...] | None = None


NO_PREDICTION = Prediction(None, math.nan, {})
"""Of an empty text."""


class Run:
    """A run folder (or a model folder with `onnx/` or `model/` in it).

    Attributes:
        folder: where it lies.
        label_names: by class id.
        summary: what its `summary.json` says, {} when there is none.
        ensemble: the other learners and the weights of all; None where the encoder answers alone.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder; use `load_run`.

        Raises:
            RunError: there is no usable model in it.
        """
        if not is_encodable(str(folder)):  # the libraries that open models cannot open such a path
            raise RunError(f"The path {brief(folder)} contains bytes that are not UTF-8; rename the folder.")
        self.folder = folder
        finish_placing_if_idle(folder)
        home = next(
            (folder / name for name in ("onnx", "model") if (folder / name / "config.json").is_file()), folder
        )
        self.ensemble = load_ensemble(folder)
        self._model_config: dict[str, Any] = {}
        if (home / "config.json").is_file():
            with damage_errors(home / "config.json"):
                config = check_config(str(folder), home / "config.json")
                if "id2label" not in config:
                    raise RunError(
                        f"{folder} is an encoder that has no labels; train it with `edgetune finetune FILE "
                        f"--model {folder}`."
                    )
                labels = config["id2label"]
                self.label_names = tuple(str(labels[key]) for key in sorted(labels, key=int))
            self._model_config = config
        elif self.ensemble is not None and self.ensemble.tokenizer_file is not None:
            home, self.label_names = folder / ENSEMBLE, self.ensemble.label_names
        else:
            raise RunError(
                f"{folder} does not contain a trained model (no onnx/ or model/ folder with a config.json); "
                "pass a run folder such as runs/NAME."
            )
        self._home = home
        self.summary = read_summary(folder)
        self._scorer: Scorer | None = None

    @property
    def config(self) -> RunConfig | None:
        """The run's settings, None for a bare model folder."""
        path = self.folder / "config.toml"
        return make_config(load_config(path)) if path.is_file() else None

    @property
    def multi_label(self) -> bool:
        """Whether a text may have several labels, or none."""
        if self.ensemble is not None:
            return self.ensemble.ensemble.multi_label
        return self._model_config.get("problem_type") == "multi_label_classification"

    @property
    def thresholds(self) -> tuple[float, ...]:
        """(C,) probabilities from which a label is predicted; () where a text has one label."""
        if not self.multi_label:
            return ()
        usual = (USUAL_THRESHOLD,) * len(self.label_names)
        return usual if self.ensemble is None else self.ensemble.ensemble.thresholds

    @property
    def max_length(self) -> int:
        """Tokens per text at most: as in training, else what the model can take."""
        given = self.summary.get("max_length")
        if given or not self._model_config:
            return int(given or DEFAULT_MAX_LENGTH)
        return min(DEFAULT_MAX_LENGTH, max_positions(self._model_config))

    @cached_property
    def pad_id(self) -> int:
        """The token id that fills a row."""
        return pad_token_id(self._model_config, self._home)

    @property
    def encoder_file(self) -> Path | None:
        """The encoder's ONNX file; None where the run was saved without one."""
        paths = (self.folder / "onnx" / "model.onnx", self._home / "model.onnx")
        return next((path for path in paths if path.is_file()), None)

    @property
    def encoder_folder(self) -> Path:
        """Where configuration and tokenizer of the encoder lie; weights only in a Hugging Face folder."""
        return self._home

    def _score(self, batch: Batch) -> FloatArray:
        if self._scorer is None:
            path = self.encoder_file
            if path is not None:
                self._scorer = onnx_scorer(path)
            else:
                self._scorer = torch_scorer(self.encoder_folder, len(self.label_names))
        return self._scorer(batch.padded(self.pad_id))

    def _logits(self, source: Any) -> Iterator[tuple[IntArray, FloatArray]]:
        for batch in sequential_batches(source, BATCH_SIZE):
            yield batch.rows, self._score(batch)

    def predict(self, texts: Texts, options: DataOptions | None = None) -> list[Prediction]:
        """Classify texts, or sentence pairs given as tuples; an empty text gets no label.

        Args:
            texts: a list of them, or a table: a list of dicts, a dict of columns, a pandas `Series` or
                `DataFrame`, or a `datasets.Dataset`.
            options: which columns of a table hold the text; by default those of training.

        Raises:
            UsageError: something else was given, or an item is no text.
            DataError: a cell of a table is no text.
        """
        options = self.data_options() if options is None else options
        return list(self.predict_all(texts_of(texts, options)))

    def predict_all(self, texts: Iterable[str | tuple[str, str]]) -> Iterator[Prediction]:
        """Classify any number of texts, in constant memory and in their order."""
        tokenizer = self.tokenizer if self.needs_encoder else None
        chunk: list[str | tuple[str, str]] = []
        n_chars = 0
        for text in texts:
            chunk.append(self.beginning(text))
            n_chars += len(text) if isinstance(text, str) else sum(map(len, text))
            if len(chunk) >= CHUNK or n_chars >= CHUNK_CHARS:
                yield from self._predict_chunk(tokenizer, chunk)
                chunk, n_chars = [], 0
        if chunk:
            yield from self._predict_chunk(tokenizer, chunk)

    @property
    def needs_encoder(self) -> bool:
        """Whether its answers depend on the encoder."""
        return self.ensemble is None or self.ensemble.needs_encoder

    def beginning(self, text: str | tuple[str, str]) -> str | tuple[str, str]:
        """Return what the tokenizer is given of a text, as in training."""
        first, second = (text, None) if isinstance(text, str) else text
        return tokenizer_input(first, second, most_tokenized_chars(self.max_length))

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, which truncates to `max_length`.

        Raises:
            RunError: the folder has none.
        """
        path = self._home / "tokenizer.json"
        if not path.is_file():
            raise RunError(
                f"{self._home} has no tokenizer.json; train the model again, or copy the whole folder again."
            )
        with damage_errors(path):
            check_vocabulary(self._model_config, path)
            tokenizer = open_tokenizer(path)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length)
        return tokenizer

    def _predict_chunk(self, tokenizer: Any, inputs: list[str | tuple[str, str]]) -> Iterator[Prediction]:
        joined = [joined_text(text) for text in inputs]
        filled = [i for i, text in enumerate(joined) if text.strip()]  # the separator is white space
        logits = None
        if self.needs_encoder and filled:
            source = EncodedTexts(tokenizer.encode_batch([inputs[i] for i in filled]))
            logits = np.zeros((len(filled), len(self.label_names)), dtype=np.float32)
            for rows, values in self._logits(source):
                logits[rows] = values
        found = [NO_PREDICTION] * len(inputs)
        if filled:
            answers = self._combined([joined[i] for i in filled], logits)
            probabilities = np.exp(answers) if self.multi_label else softmax(answers)
            for i, row in zip(filled, probabilities, strict=True):
                best = int(row.argmax())
                by_name = {name: float(p) for name, p in zip(self.label_names, row, strict=True)}
                labels = self._labels_of(row) if self.multi_label else None
                found[i] = Prediction(self.label_names[best], float(row[best]), by_name, labels)
        yield from found

    def _labels_of(self, row: FloatArray) -> tuple[str, ...]:
        """Return the labels whose probabilities (C,) reach their thresholds, the most probable first."""
        chosen = np.flatnonzero(row >= np.array(self.thresholds))
        return tuple(self.label_names[i] for i in chosen[np.argsort(-row[chosen], kind="stable")])

    def _combined(self, texts: Sequence[str], logits: FloatArray | None) -> FloatArray:
        """Return logits or log-probabilities (N, C) of the whole answer; the latter of several labels."""
        if self.ensemble is None:
            assert logits is not None
            return log_sigmoid(logits) if self.multi_label else logits
        return self.ensemble.log_proba(texts, logits)

    def _score_view(self, view: TokenView) -> FloatArray:
        """Return logits or log-probabilities (n, C) of the whole answer, in the order of the view."""
        logits = score_view(self._score, view) if self.needs_encoder else None
        return self._combined(view.texts() if self.ensemble is not None else (), logits)

    def evaluate(
        self,
        data: Data,
        options: DataOptions | None = None,
        *,
        cache_dir: Path | None = None,
        max_bad_rows: float = 0.01,
        say: Say = lambda text: None,
    ) -> Evaluation:
        """Measure the model on labelled text; rows with a label that it does not know count as wrong.

        Args:
            data: a path as in training, or rows in memory: a list of (text, label) pairs or of dicts, a dict
                of columns, a pandas `DataFrame`, or a `datasets.Dataset`.
            options: how to read it; by default as the run read its own data.
            cache_dir: where tokens are kept, and a copy of rows in memory.
            max_bad_rows: share of unusable rows above which nothing is measured.
            say: is told how many rows were left out.

        Raises:
            DataError: the text cannot be used, or has only labels that the model does not know.
            UsageError: it is neither a path nor rows.
        """
        view = self._view(data, options, cache_dir, max_bad_rows)
        name = data if isinstance(data, str | os.PathLike) else NAME
        for count, kind in (
            (view.store.meta.n_bad, ("unusable row", "unusable rows")),
            (view.store.meta.n_unlabelled, ("row without a label", "rows without a label")),
        ):
            if count:
                say(f"Left out of {name}: {counted(count, *kind)}.")
        return evaluate_answers(self._score_view(view), view.labels, view.label_names, self.thresholds)

    def answers(
        self, path: str, options: DataOptions | None = None, *, cache_dir: Path | None = None
    ) -> tuple[IntArray, IntArray]:
        """Predict the rows of labelled text; return predicted and true class ids, in the rows' order.

        Labels that the model does not know have ids above its own.

        Args:
            path: as in training.
            options: how to read it; by default as the run read its own data.
            cache_dir: where tokens are kept.

        Raises:
            DataError: as `evaluate`.
        """
        view = self._view(path, options, cache_dir, max_bad_rows=1.0)
        return self._score_view(view).argmax(axis=1), view.labels.astype(np.int64)

    def _view(
        self, data: Data, options: DataOptions | None, cache_dir: Path | None, max_bad_rows: float
    ) -> TokenView:
        """Open labelled text with the model's tokenizer and class ids."""
        if options is None:
            options = self.data_options()
        options = replace(options, multi_label=self.multi_label)
        if self.needs_encoder and (self._home / "tokenizer.json").is_file():
            with damage_errors(self._home / "tokenizer.json"):
                check_vocabulary(self._model_config, self._home / "tokenizer.json")
        spec = TokenizerSpec(self._home / "tokenizer.json", self.max_length, self.pad_id)
        from edgetune.data.tokens import open_tokens

        cache = cache_folder() if cache_dir is None else cache_dir
        path = as_path(data, cache, options)
        if (parts := find_parts(path, options)) is not None:
            options = replace(options, part=parts.validation)
        with naming_copies(path):
            rows = open_tokens(path, options, spec, cache, max_bad_rows, min_classes=1)
        return rows.relabel(self.label_names, options.merge_labels)

    def evaluation_rows(self, cache_dir: Path | None = None) -> TokenView:
        """Open the rows again that the run was evaluated on.

        Raises:
            RunError: they cannot be told from its training rows any more.
            DataError: the file cannot be read.
        """
        config = self.config
        if config is None:
            raise RunError(f"{self.folder} has no config.toml, so its evaluation rows cannot be found.")
        if config.data.eval is not None:
            return self._view(config.data.eval, None, cache_dir, config.data.max_bad_rows)
        from edgetune.data.splits import open_splits

        spec = TokenizerSpec(self._home / "tokenizer.json", self.max_length, self.pad_id)
        cache = cache_folder() if cache_dir is None else cache_dir
        found = open_splits(config, spec, cache, self.label_names, lambda _: None)
        n_train = self.summary.get("n_train")
        if found.label_names != self.label_names or n_train not in (None, len(found.train)):
            raise RunError(
                f"The evaluation rows of {self.folder} cannot be held out of {config.data.train} again: the "
                "file has changed since, or was sampled."
            )
        return found.evaluation

    def labelled_rows(
        self, path: str, options: DataOptions | None = None, cache_dir: Path | None = None
    ) -> TokenView:
        """Open labelled text with the model's class ids; arguments and errors as of `evaluate`."""
        return self._view(path, options, cache_dir, max_bad_rows=0.01)

    def data_options(self) -> DataOptions:
        """How the run read its own data."""
        if self.config is None:
            return DataOptions()
        from edgetune.data.splits import data_options

        return data_options(self.config.data)


def score_view(score: Any, view: TokenView, batch_size: int = BATCH_SIZE) -> FloatArray:
    """Score every row of a view once, shortest first; return logits (n, C) in the order of the view.

    Args:
        score: takes a batch, returns logits (B, C).
        view: labelled rows.
        batch_size: rows per call.
    """
    logits = np.empty((0, 0), dtype=np.float32)
    for number, batch in enumerate(sequential_batches(view, batch_size)):
        found = score(batch)
        if not number:
            logits = np.empty((len(view), found.shape[1]), dtype=np.float32)
        logits[view.positions[batch.rows]] = found
        if number % 64 == 0:
            view.release()
    return logits


class EncodedTexts:
    """Tokenized texts as a source of batches."""

    def __init__(self, encodings: list[Any]) -> None:
        self._tokens = [np.array(item.ids, dtype=np.int32) for item in encodings]
        self._first = np.array([item.type_ids.count(0) for item in encodings], dtype=np.int32)
        self.lengths: IntArray = np.array([len(ids) for ids in self._tokens], dtype=np.int32)
        self.labels: IntArray = np.zeros(len(encodings), dtype=np.int64)

    def batch(self, rows: IntArray) -> Batch:
        return Batch(
            rows=rows,
            labels=self.labels[rows],
            tokens=np.concatenate([self._tokens[i] for i in rows]),
            offsets=np.concatenate(([0], np.cumsum(self.lengths[rows]))),
            first_lengths=self._first[rows],
            scored=np.zeros(len(rows), dtype=np.bool_),
        )


def predict(run_dir: str | Path, texts: Texts, options: DataOptions | None = None) -> list[Prediction]:
    """Classify texts with a finished run; the command `edgetune predict` as one call.

    Args:
        run_dir: the run folder. To classify several times, open it once with `load_run`.
        texts: as of `Run.predict`.
        options: as of `Run.predict`.

    Raises:
        EdgetuneError: what is wrong and what to do, in a sentence.
    """
    return load_run(run_dir).predict(texts, options)


def evaluate(
    run_dir: str | Path,
    data: Data,
    options: DataOptions | None = None,
    *,
    cache_dir: str | Path | None = None,
    max_bad_rows: float = 0.01,
) -> Evaluation:
    """Measure a finished run on labelled text; the command `edgetune evaluate` as one call.

    Args:
        run_dir: the run folder.
        data: as of `Run.evaluate`.
        options: how to read it; by default as the run read its own data.
        cache_dir: where tokens are kept, and a copy of rows in memory.
        max_bad_rows: share of unusable rows above which nothing is measured.

    Raises:
        EdgetuneError: what is wrong and what to do, in a sentence.
    """
    cache = None if cache_dir is None else Path(cache_dir)
    return load_run(run_dir).evaluate(data, options, cache_dir=cache, max_bad_rows=max_bad_rows)


def load_run(folder: str | Path) -> Run:
    """Open a run folder to predict, evaluate, or read its summary.

    Raises:
        RunError: there is no such folder, or no trained model in it.
    """
    path = Path(folder)
    if not path.is_dir():
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        near = sorted(item.name for item in beside if item.is_dir() and is_run_folder(item))
        hint = (
            f" {folder_name(path.parent)} contains the runs {', '.join(near[:8])}."
            if near
            else " Train one with `edgetune finetune FILE`."
        )
        raise RunError(f"There is no run folder {path}.{hint}")
    run = Run(path)
    has_encoder = any((path / name).is_file() for name in ("onnx/model.onnx", "model.onnx"))
    if run.needs_encoder and not has_encoder and not any(path.glob("**/model*.safetensors")):
        raise RunError(
            f"{path} has no weights (onnx/model.onnx or model/model.safetensors); the run did not finish."
        )
    if run.needs_encoder and not has_encoder and run.summary.get("texts_apart"):  # model/ reads them together
        raise RunError(f"{path} has no onnx/model.onnx, which answers pairs; copy the whole folder again.")
    return run
