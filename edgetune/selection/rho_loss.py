"""RhoLoss: train the rows of a large batch that are learnable and not yet learnt.

What: the reducible loss of an example is its loss now less its irreducible loss, that of a small model which
    was trained on other rows: what is hard for both is noise, what is easy for both is known. Before
    the first batch `proxy_holdout` of the rows are drawn by lot and a linear model over hashed words is
    trained on them, in 3 passes; then the irreducible loss of every other row is recorded, once. Of every
    `pool_rows` scored examples the `top_rate` with the highest reducible loss are trained. The held-out
    rows are never trained.
Use when: the data is large beside the time and labels are noisy: a wrong label is hard for both.
Costs: a forward pass per example seen, so ten of them per trained example at a top rate of 10 %; before that,
    3 passes of the small model over its rows and one reading of the others (0.2 s of one core for SST-2's
    67,000 rows, 1.7 s for QQP's 364,000). 5 to 10 bytes per row of memory.
Loses when: a forward pass is not cheap beside a train step (at a third of it, ten scores cost three steps),
    the data is small (the holdout is lost to training), or the words are a poor proxy: the encoder can
    learn rows that the word model cannot, and those count as noise. On sentence pairs that have to be
    compared (QNLI) its loss is above that of guessing: look at `proxy_accuracy`.
Source: Mindermann et al., Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet
    Learnt, ICML 2022. A word model, in place of a small network stopped by its validation loss, is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch, TokenSource
from edgetune.selection.features import WordFeatures
from edgetune.selection.linear_model import LinearModel, PreparationStopped, fit_proxy, read_in_batches
from edgetune.selection.memory import RowTable, count_of, top
from edgetune.selection.selector_contract import DataShape, Selector
from edgetune.utils.metrics import cross_entropy, is_right
from edgetune.utils.types import BoolArray, FloatArray

N_PASSES = 3


def most_reducible(losses: FloatArray, irreducible: FloatArray, top_rate: float) -> BoolArray:
    """(B,) which examples have the highest loss less irreducible loss; at least one, the first of equals."""
    reducible = np.asarray(losses, dtype=np.float64) - irreducible
    chosen = np.zeros(len(losses), dtype=np.bool_)
    chosen[top(reducible, top_rate)] = True
    return chosen


class RhoLossSettings(MethodSettings):
    """Settings of `rho-loss`."""

    pool_rows: int = Field(320, ge=1, description="so many scored examples are chosen among at a time.")
    top_rate: float = Field(0.1, gt=0, le=1, description="share of those that is trained.")
    proxy_holdout: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of the training rows that the small model is given.",
    )


class RhoLoss(Selector):
    """Score many, train those whose loss a small model says can still be reduced."""

    name = "rho-loss"
    Settings: ClassVar[type[MethodSettings]] = RhoLossSettings
    _settings: RhoLossSettings
    is_filter = True
    saved = (
        *Selector.saved,
        "_irreducible",
        "_held_out",
        "_n_held_out",
        "_proxy_accuracy",
        "_mean_irreducible",
        "_why",
        "_rng",
    )

    @classmethod
    def share_trained(cls, settings: RhoLossSettings) -> float:
        return settings.top_rate

    def __init__(self, settings: RhoLossSettings, shape: DataShape, rng: np.random.Generator) -> None:
        super().__init__(settings, shape, rng)
        self._irreducible = RowTable(0.0, np.float32)  # nats, by row number
        self._held_out = RowTable(False, np.bool_)  # by row number
        self._n_held_out = 0
        self._proxy_accuracy: float | None = None
        self._mean_irreducible: float | None = None
        self._why = "no small model was trained, so rows are chosen by their loss alone"

    @property
    def decision_size(self) -> int:
        return self._settings.pool_rows

    def prepare(self, source: TokenSource, should_stop: Callable[[], bool]) -> None:
        n = len(source.labels)
        n_held_out = min(count_of(self._settings.proxy_holdout, n), n - 1)  # one row is left to train on
        if n_held_out < 1:
            return
        drawn = self._rng.permutation(n)
        proxy = LinearModel(WordFeatures(), self._shape.n_classes)
        others = np.sort(drawn[n_held_out:])
        rows, losses = np.zeros(len(others), dtype=np.int64), np.zeros(len(others), dtype=np.float32)
        n_right = 0
        try:
            held_out, _ = fit_proxy(proxy, source, drawn[:n_held_out], N_PASSES, self._rng, should_stop)
            for at, batch in read_in_batches(source, others, should_stop):
                logits = proxy.logits(batch)
                rows[at], losses[at] = batch.rows, cross_entropy(logits, batch.labels)
                n_right += int(is_right(logits, batch.labels).sum())
        except PreparationStopped:
            self._why = "the preparation was stopped, so rows are chosen by their loss alone"
            return
        self._irreducible.put(rows, losses)
        self._held_out.put(held_out, True)
        self._n_held_out = n_held_out
        self._proxy_accuracy = n_right / len(others)
        self._mean_irreducible = float(losses.mean(dtype=np.float64))

    def choose_score(self, batch: Batch) -> BoolArray:
        return super().choose_score(batch) & ~self._held_out.get(batch.rows)

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        return most_reducible(losses, self._irreducible.get(batch.rows), self._settings.top_rate)

    def report(self) -> dict[str, Any]:
        return {
            **super().report(),
            "n_proxy_holdout": self._n_held_out,
            "proxy_accuracy": self._proxy_accuracy,
            "mean_irreducible_loss": self._mean_irreducible,
        }

    def _why_not(self) -> str | None:
        return None if self._n_held_out else self._why
