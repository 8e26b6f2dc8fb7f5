"""AutoAssist: a light assistant guesses from the words which examples are still worth a train step.

What: the assistant is a logistic regression on hashed words, (word, label) pairs, length and label. It learns
    from the losses of the train steps whether an example's loss is above their running mean. An example is
    accepted with probability base + (1 - base) * p(above), base 0.3; the rest skip forward and backward.
    The running mean is exponential, over about the last 1,024 losses, and holds the batch it is compared
    with: a mean over all losses would lie so far above a falling loss that soon nothing is hard.
Use when: no scoring pass is affordable, and which examples are hard shows in their words.
Costs: no forward pass of the encoder; the assistant sorts the batch's words twice, once to accept and once
    to learn: well under 1 ms for 32 rows of 20 tokens, and 1 MB of weights.
Loses when: hardness is not in the words (the log loss in the report stays near that of a coin with the hard
    rate), or the data is seen once: whatever is skipped is skipped for good. The assistant sees the losses
    of accepted examples alone, so the running mean is one of the harder part. What it accepts is not
    weighted back, so the model sees a shifted distribution.
Source: Zhang, Yu and Dhillon, AutoAssist, NeurIPS 2019. AdaGrad in place of plain SGD, the time constant of
    the mean, and the assistant in step with the model (theirs is asynchronous) are ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch
from edgetune.selection.features import HashedFeatures
from edgetune.selection.linear_model import LinearModel
from edgetune.selection.memory import LossCurve, Stateful
from edgetune.selection.selector_contract import DataShape, Selector
from edgetune.utils.metrics import cross_entropy, softmax
from edgetune.utils.types import BoolArray, FloatArray

_MEAN_OVER = 1024  # examples: the time constant of the running mean
_REPORT_OVER = 16  # batches: over these the reported log loss is a mean


def acceptance(base_rate: float, p_hard: FloatArray) -> FloatArray:
    """(B,) the probability that each example is trained, given that of being hard (B,)."""
    accepted: FloatArray = base_rate + (1.0 - base_rate) * p_hard
    return accepted


class RunningMean(Stateful):
    """Exponential mean of example losses (nats), unbiased from the first batch on.

    With d = 1 - 1/time constant, a batch of n losses replaces the share 1 - d^n of what was there.
    """

    saved = ("_total", "_weight")

    def __init__(self, time_constant: float) -> None:
        self._decay = 1.0 - 1.0 / time_constant
        self._total = 0.0
        self._weight = 0.0

    @property
    def value(self) -> float | None:
        """The mean, None before the first loss."""
        return self._total / self._weight if self._weight else None

    def add(self, losses: FloatArray) -> float:
        """Take in losses (B,), at least one; return the mean with them."""
        kept = self._decay ** len(losses)
        self._total = kept * self._total + (1.0 - kept) * float(np.mean(losses, dtype=np.float64))
        self._weight = kept * self._weight + (1.0 - kept)
        return self._total / self._weight


class AutoAssistSettings(MethodSettings):
    """Settings of `auto-assist`."""

    base_rate: float = Field(
        0.3,
        gt=0,
        le=1,
        description="at least this share of the examples that the assistant calls easy is accepted.",
    )


class AutoAssist(Selector):
    """Train what an assistant calls hard by its words, and a fixed share of the rest."""

    name = "auto-assist"
    Settings: ClassVar[type[MethodSettings]] = AutoAssistSettings
    _settings: AutoAssistSettings
    saved = (
        *Selector.saved,
        "_assistant",
        "_mean",
        "_curve",
        "_n_accepted",
        "_n_observed",
        "_n_hard",
        "_rng",
    )

    def __init__(self, settings: AutoAssistSettings, shape: DataShape, rng: np.random.Generator) -> None:
        super().__init__(settings, shape, rng)
        self._assistant = LinearModel(HashedFeatures(shape.n_classes), 2)
        self._mean = RunningMean(_MEAN_OVER)
        self._curve = LossCurve(_REPORT_OVER)
        self._n_accepted = 0
        self._n_observed = 0
        self._n_hard = 0

    def choose_score(self, batch: Batch) -> BoolArray:
        self.n_seen += len(batch)
        p_hard = softmax(self._assistant.logits(batch))[:, 1]
        accepted = self._rng.random(len(batch)) < acceptance(self._settings.base_rate, p_hard)
        self._n_accepted += int(accepted.sum())
        return accepted

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        if not len(losses):
            return
        hard = (losses > self._mean.add(losses)).astype(np.int64)
        before = self._assistant.step(batch, hard)
        self._curve.add(float(cross_entropy(before, hard).mean()))
        self._n_observed += len(losses)
        self._n_hard += int(hard.sum())

    def report(self) -> dict[str, Any]:
        return {
            **super().report(),
            "accepted_rate": self._n_accepted / self.n_seen if self.n_seen else None,
            "running_mean_loss": self._mean.value,
            "hard_rate": self._n_hard / self._n_observed if self._n_observed else None,
            "predictor_loss": self._curve.mean,
            "predictor_losses": list(self._curve.points),
        }
