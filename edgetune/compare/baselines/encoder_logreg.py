"""Logistic regression on the sentence embeddings of the untouched encoder; nothing is finetuned.

What: the embedding of a text is the mean of the encoder's token states, scaled to length 1, as in
    sentence-transformers; LogisticRegression is fitted on the embeddings. The texts of a pair are embedded
    separately, as u and v, and the classifier sees u, v and |u - v|. Under a deadline it embeds as many
    random training rows as fit, given the measured speed of embedding and of the fit.
Use when: there are few rows or little time: it takes one forward pass per row and does not train the
    encoder. The built-in encoder was made for such embeddings; a plain masked language model was not.
Costs: one forward pass per training row, in batches of similar length; the fit takes seconds. Every
    prediction costs a forward pass, as with a finetuned encoder.
Loses when: the encoder's pretraining did not teach it to distinguish the labels (sentiment, grammar,
    jargon), or there is time to finetune: the encoder never learns anything about the task.
Source: Reimers and Gurevych, Sentence-BERT, EMNLP 2019 (also u, v, |u - v|).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetune.compare.baselines import Baseline
from edgetune.compare.baselines.task import SAFE, BaselineClock, BaselineTask, Fitted, Texts, TrainRows
from edgetune.models.source import resolve_model
from edgetune.utils.types import FloatArray, IntArray

BATCH_SIZE = 32  # as sentence-transformers has it
FIRST_CHUNK, SMALLEST_CHUNK, LARGEST_CHUNK = 256, 64, 4_096  # rows embedded between two looks at the clock
CHUNK_RATE = 1 / 3  # of the rows that fit, so that the last chunks are short where the speed changes
REMEASURE = 8  # the fit is timed again when there are so many times the rows
CAUTION = 2.0  # a fit on more rows may take more time per row
SAVE_S = 0.5


class Encoder:
    """A frozen encoder that turns texts into features; `name` is what the task asked for."""

    def __init__(self, task: BaselineTask) -> None:
        from transformers import AutoModel, AutoTokenizer

        source = resolve_model(task.model)
        self.name = source.name
        self.batch_size = task.batch_size or BATCH_SIZE
        self.max_length = min(task.max_length, source.max_positions)
        self._tokenizer = AutoTokenizer.from_pretrained(source.folder, **SAFE)
        model = AutoModel.from_pretrained(source.folder, use_safetensors=True, **SAFE)
        self._model = model.eval().to(task.device)

    def features(self, texts: Texts) -> FloatArray:
        """Return what the classifier sees: embeddings (n, d), of a pair u, v and |u - v| (n, 3 d)."""
        first = self._embeddings(texts.first)
        if texts.second is None:
            return first
        second = self._embeddings(texts.second)
        return np.concatenate([first, second, np.abs(first - second)], axis=1)

    def _embeddings(self, texts: list[str]) -> FloatArray:
        """Return mean-pooled token states of length 1, float32 (n, d)."""
        from torch.nn.functional import normalize

        def mean(output: Any, inputs: dict[str, Any]) -> Any:
            states = output.last_hidden_state
            real = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
            return normalize((states * real).sum(1) / real.sum(1).clamp(min=1e-9), dim=1)

        return in_batches(self._tokenizer, self._model, Texts(texts), self.max_length, self.batch_size, mean)


def in_batches(
    tokenizer: Any, model: Any, texts: Texts, max_length: int, batch_size: int, read: Callable[..., Any]
) -> npt.NDArray[Any]:
    """Run a model on texts, in batches of like length that are padded to their longest.

    Returns:
        (n, …) what `read` makes of the output and the inputs of each batch, in the order of the texts.
    """
    import torch

    taken = set(inspect.signature(model.forward).parameters)
    encoded = tokenizer(texts.first, texts.second, truncation=True, max_length=max_length)
    columns = {name: values for name, values in encoded.items() if name in taken}
    lengths = np.fromiter(map(len, columns["input_ids"]), dtype=np.int64, count=len(texts))
    order, parts = np.argsort(lengths, kind="stable"), []
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            picked = {name: [values[i] for i in rows] for name, values in columns.items()}
            inputs = dict(tokenizer.pad(picked, return_tensors="pt").to(model.device))
            parts.append(read(model(**inputs), inputs).cpu().numpy())
    return np.concatenate(parts)[np.argsort(order)]


def fit(task: BaselineTask, rows: TrainRows, watch: BaselineClock) -> Fitted:
    """Embed, train and save `head.joblib`; the encoder itself stays where it is."""
    with watch.meter.phase("open"):
        import joblib
        import sklearn.linear_model  # noqa: F401  # imported here, so that no fit is charged for it

        encoder = Encoder(task)
    if watch.left_s(SAVE_S) <= 0:
        raise watch.out_of_time_error()
    with watch.meter.phase("score"):
        features = _embedded(encoder, task, rows, watch) if watch.limited else encoder.features(rows.texts)
    n_used = len(features)
    with watch.meter.phase("train"):
        head = _head(features, rows.labels[:n_used], task.seed)
    with watch.meter.phase("save"):
        joblib.dump(head, task.out / "head.joblib")

    def predict(texts: Texts) -> IntArray:
        return np.asarray(head.predict(encoder.features(texts)), dtype=np.int64)

    return Fitted(predict, n_used, n_used, _notes(encoder, rows, n_used, watch))


def _head(features: FloatArray, labels: IntArray, seed: int) -> Any:
    """Fit scikit-learn's logistic regression with its defaults, but for more iterations."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1_000, random_state=seed).fit(features, labels)


def _embedded(encoder: Encoder, task: BaselineTask, rows: TrainRows, watch: BaselineClock) -> FloatArray:
    """Embed the first rows, as many as leave time for the fit."""
    parts: list[FloatArray] = []
    n_have = n_fitted = 0
    head_row_s = 0.0
    n_next = min(len(rows), max(FIRST_CHUNK, 2 * len(rows.label_names)))
    while n_next:
        started_s = watch.meter.elapsed_s()
        parts.append(encoder.features(rows.texts.take(np.arange(n_have, n_have + n_next))))
        row_s = (watch.meter.elapsed_s() - started_s) / n_next
        n_have += n_next
        if n_have == len(rows):
            break
        if n_have >= REMEASURE * n_fitted:
            started_s = watch.meter.elapsed_s()
            with watch.meter.phase("train"):
                _head(np.concatenate(parts), rows.labels[:n_have], task.seed)
            n_fitted, head_row_s = n_have, (watch.meter.elapsed_s() - started_s) / n_have
        n_fit = rows_in_time(watch.left_s(SAVE_S), row_s, head_row_s, n_have)
        n_next = next_chunk(n_fit, len(rows) - n_have)
    return np.concatenate(parts)


def rows_in_time(left_s: float, row_s: float, head_row_s: float, n_have: int) -> int:
    """Return how many more rows can be embedded so that the fit on all of them still ends in time.

    Embedding a row takes `row_s` and the fit `head_row_s` for each row, also of those that are embedded.
    """
    head_row_s *= CAUTION
    return max(0, int((left_s - head_row_s * n_have) / max(row_s + head_row_s, 1e-9)))


def next_chunk(n_fit: int, n_left: int) -> int:
    """Return how many of `n_left` rows to embed before the clock is looked at, of which `n_fit` fit."""
    n_next = min(n_left, max(SMALLEST_CHUNK, int(CHUNK_RATE * n_fit)), LARGEST_CHUNK)
    return n_next if n_next <= n_fit else 0


def _notes(encoder: Encoder, rows: TrainRows, n_used: int, watch: BaselineClock) -> tuple[str, ...]:
    kind = "u, v and |u - v| of each pair" if rows.texts.second is not None else "one embedding per text"
    notes = [
        f"Embeddings of the untouched {encoder.name}, mean-pooled and scaled to length 1 ({kind}, at most "
        f"{encoder.max_length} tokens, batches of {encoder.batch_size} texts of similar length), then "
        "logistic regression with C=1. The encoder is not trained, so every row counts once."
    ]
    if watch.limited:
        rest = "all rows" if n_used == len(rows) else f"{n_used:,} of {len(rows):,} rows, a random sample"
        notes.append(
            f"edgetune enforces the deadline: at the measured speed, {rest} could be embedded in time."
        )
    return tuple(notes)


BASELINE = Baseline(
    "encoder-logreg",
    "sentence embeddings of the untouched encoder, and logistic regression (torch, scikit-learn)",
    ("torch", "transformers", "scikit-learn"),
    fit,
)
