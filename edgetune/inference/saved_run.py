"""A finished run, opened again: predict and evaluate with its ONNX model (with torch if there is none)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from edgetune.data.splits import data_options, open_splits
from edgetune.data.token_build import CHUNK_CHARS, most_tokenized_chars, tokenizer_input
from edgetune.data.token_format import TokenizerSpec, joined_text
from edgetune.data.token_store import TokenView
from edgetune.data.tokens import open_tokens
from edgetune.inference.saved_ensemble import Scorer, load_ensemble, onnx_scorer, torch_scorer
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
from edgetune.utils.multi_label import USUAL_THRESHOLD, evaluate_answers, log_sigmoid
from edgetune.utils.parsing import is_encodable
from edgetune.utils.sanitize import brief
from edgetune.utils.types import FloatArray, IntArray, Say

BATCH_SIZE = 32
CHUNK = 1024  # texts tokenized and sorted by length together
DEFAULT_MAX_LENGTH = 512
EXPORTED = "classifier.onnx"
"""What `edgetune export RUN` writes."""


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
        encoder_folder: configuration and tokenizer of the encoder; weights only in a Hugging Face folder.
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
        elif (folder / EXPORTED).is_file():
            raise RunError(
                f"{folder} is an exported classifier; use it with `python {folder / 'predict.py'} TEXT`, or "
                "pass the run folder that it was exported from."
            )
        else:
            raise RunError(
                f"{folder} does not contain a trained model (no onnx/ or model/ folder with a config.json); "
                "pass a run folder such as runs/NAME."
            )
        self.encoder_folder = home
        self.summary = read_summary(folder)

    @property
    def config(self) -> RunConfig | None:
        """The run's settings, None for a bare model folder."""
        path = self.folder / "config.toml"
        return make_config(load_config(path)) if path.is_file() else None

    @property
    def takes_pairs(self) -> bool | None:
        """Whether it was trained on pairs of texts; None for a bare model folder, which takes both."""
        config = self.config
        return None if config is None else config.data.pair

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
        if given := self.summary.get("max_length"):
            return int(given)
        config = self._model_config
        return min(DEFAULT_MAX_LENGTH, max_positions(config)) if config else DEFAULT_MAX_LENGTH

    @cached_property
    def pad_id(self) -> int:
        """The token id that fills a row."""
        return pad_token_id(self._model_config, self.encoder_folder)

    @property
    def encoder_file(self) -> Path | None:
        """The encoder's ONNX file; None where the run was saved without one."""
        paths = (self.folder / "onnx" / "model.onnx", self.encoder_folder / "model.onnx")
        return next((path for path in paths if path.is_file()), None)

    @cached_property
    def _scorer(self) -> Scorer:
        path = self.encoder_file
        return onnx_scorer(path) if path else torch_scorer(self.encoder_folder, len(self.label_names))

    def _score(self, batch: Batch) -> FloatArray:
        return self._scorer(batch.padded(self.pad_id))

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
        return list(self.predict_all(texts_of(texts, options or self.data_options())))

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
        path = self._tokenizer_file
        if not path.is_file():
            raise RunError(
                f"{path.parent} has no tokenizer.json; train the model again, or copy the whole folder again."
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
            logits = np.zeros((len(filled), len(self.label_names)), dtype=np.float32)
            for batch in encoded_batches(tokenizer.encode_batch([inputs[i] for i in filled])):
                logits[batch.rows] = self._score(batch)
        found = [NO_PREDICTION] * len(inputs)
        if filled:
            answers = self._combined([joined[i] for i in filled], logits)
            probabilities = np.exp(answers) if self.multi_label else softmax(answers)
            for i, row in zip(filled, probabilities, strict=True):
                found[i] = self._prediction(row)
        yield from found

    def _prediction(self, row: FloatArray) -> Prediction:
        """Return what probabilities (C,) say."""
        best = int(row.argmax())
        by_name = dict(zip(self.label_names, row.tolist(), strict=True))
        labels = None
        if self.multi_label:
            chosen = np.flatnonzero(row >= np.array(self.thresholds))
            ranked = chosen[np.argsort(-row[chosen], kind="stable")]  # the most probable first
            labels = tuple(self.label_names[i] for i in ranked)
        return Prediction(self.label_names[best], float(row[best]), by_name, labels)

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
        cache_dir: str | Path | None = None,
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
        view = self.labelled_rows(data, options, cache_dir, max_bad_rows)
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

        Labels that the model does not know have ids above its own. All else is as of `evaluate`.
        """
        view = self.labelled_rows(path, options, cache_dir, max_bad_rows=1.0)
        return self._score_view(view).argmax(axis=1), view.labels.astype(np.int64)

    @property
    def _tokenizer_file(self) -> Path:
        return self.encoder_folder / "tokenizer.json"

    @property
    def _tokenizer_spec(self) -> TokenizerSpec:
        return TokenizerSpec(self._tokenizer_file, self.max_length, self.pad_id)

    def labelled_rows(
        self,
        path: Data,
        options: DataOptions | None = None,
        cache_dir: str | Path | None = None,
        max_bad_rows: float = 0.01,
    ) -> TokenView:
        """Open labelled text with the model's tokenizer and class ids; all as of `evaluate`."""
        options = replace(options or self.data_options(), multi_label=self.multi_label)
        tokenizer_file = self._tokenizer_file
        if self.needs_encoder and tokenizer_file.is_file():
            with damage_errors(tokenizer_file):
                check_vocabulary(self._model_config, tokenizer_file)
        cache = cache_folder(cache_dir)
        path = as_path(path, cache, options)
        if (parts := find_parts(path, options)) is not None:
            options = replace(options, part=parts.validation)
        with naming_copies(path):
            rows = open_tokens(path, options, self._tokenizer_spec, cache, max_bad_rows, min_classes=1)
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
            return self.labelled_rows(config.data.eval, None, cache_dir, config.data.max_bad_rows)
        cache = cache_folder(cache_dir)
        found = open_splits(config, self._tokenizer_spec, cache, self.label_names, lambda _: None)
        n_train = self.summary.get("n_train")
        if found.label_names != self.label_names or n_train not in (None, len(found.train)):
            raise RunError(
                f"The evaluation rows of {self.folder} cannot be held out of {config.data.train} again: the "
                "file has changed since, or was sampled."
            )
        return found.evaluation

    def data_options(self) -> DataOptions:
        """How the run read its own data."""
        config = self.config
        return DataOptions() if config is None else data_options(config.data)


def score_view(score: Callable[[Batch], FloatArray], view: TokenView) -> FloatArray:
    """Score every row once, shortest first; return logits (n, C) in the order of the view."""
    logits = np.empty((0, 0), dtype=np.float32)
    for number, batch in enumerate(sequential_batches(view, BATCH_SIZE)):
        found = score(batch)
        if not number:
            logits = np.empty((len(view), found.shape[1]), dtype=np.float32)
        logits[view.positions[batch.rows]] = found
        if number % 64 == 0:
            view.release()
    return logits


def encoded_batches(encodings: Sequence[Any]) -> Iterator[Batch]:
    """Yield tokenized texts once, shortest first, in batches of nearly one length."""
    lengths = np.array([len(one.ids) for one in encodings])
    whole = Batch(
        rows=np.arange(len(encodings)),
        labels=np.zeros(len(encodings), dtype=np.int64),
        tokens=np.concatenate([one.ids for one in encodings]).astype(np.int32),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        first_lengths=np.array([one.type_ids.count(0) for one in encodings], dtype=np.int32),
        scored=np.zeros(len(encodings), dtype=np.bool_),
    )
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), BATCH_SIZE):
        yield whole.take(order[start : start + BATCH_SIZE])


def predict(run_dir: str | Path, texts: Texts, options: DataOptions | None = None) -> list[Prediction]:
    """Classify texts with a finished run; the command `edgetune predict` as one call.

    To classify several times, open the run once with `load_run`. Arguments are as of `Run.predict`.

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

    Arguments are as of `Run.evaluate`.

    Raises:
        EdgetuneError: what is wrong and what to do, in a sentence.
    """
    return load_run(run_dir).evaluate(data, options, cache_dir=cache_dir, max_bad_rows=max_bad_rows)


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
