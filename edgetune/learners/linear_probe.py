"""The first usable model: a linear head fitted on the features of a few hundred rows, in closed loop.

Linear probing as in Kumar et al., "Fine-Tuning can Distort Pretrained Features" (ICLR 2022): multinomial
logistic regression on what the head's last linear layer sees, with an L2 penalty. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgetune.utils.metrics import softmax
from edgetune.utils.types import FloatArray, IntArray

L2 = 0.1
ITERATIONS = 300
TOLERANCE = 1e-4


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier.

    Attributes:
        weight: (C, F) float32.
        bias: (C,) float32.
    """

    weight: FloatArray
    bias: FloatArray


def fit_linear_probe(
    features: FloatArray,
    labels: IntArray,
    n_classes: int,
    l2: float = L2,
    stop: Callable[[], bool] = lambda: False,
) -> LinearProbe:
    """Fit a softmax classifier by accelerated gradient descent on standardised features.

    Args:
        features: (n, F).
        labels: (n,) class ids.
        n_classes: C; a class without a row gets a low bias.
        l2: penalty on the weights of standardised features.
        stop: asked before every iteration; what was reached by then is returned.
    """
    wide = features.astype(np.float64)
    mean, std = wide.mean(axis=0), wide.std(axis=0)
    std[std < 1e-6] = 1.0
    inputs = np.hstack([(wide - mean) / std, np.ones((len(wide), 1))])
    wanted = np.eye(n_classes)[labels]
    penalty = np.full(inputs.shape[1], l2)
    penalty[-1] = 1e-4
    largest = float(np.linalg.eigvalsh(inputs.T @ inputs)[-1]) / len(inputs)
    step = 1.0 / (0.5 * largest + l2)
    weights = np.zeros((inputs.shape[1], n_classes))
    ahead, momentum = weights, 1.0
    for _ in range(ITERATIONS):
        error = softmax(inputs @ ahead) - wanted
        gradient = inputs.T @ error / len(inputs) + penalty[:, None] * ahead
        new = ahead - step * gradient
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - weights)
        weights, momentum = new, following
        if np.abs(gradient).max() < TOLERANCE or stop():
            break
    slope = weights[:-1] / std[:, None]
    bias = weights[-1] - mean @ slope
    return LinearProbe(slope.T.astype(np.float32), bias.astype(np.float32))
