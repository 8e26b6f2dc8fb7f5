"""The expected accuracy of a plan: points of accuracy lost against unlimited training.

A rule of thumb whose constants each come from a measurement (docs/deadlines.md, docs/log.md). It ranks
plans; it does not promise an accuracy.

    trained    = (1 - LESS * frozen) * (STEPS / sqrt(steps) + ROWS / sqrt(distinct rows / 32))
                 + DEPTH * frozen² + CUT * cut
    probe alone = PROBE - PROBE_DOUBLING * log2(rows / 64) + CUT * cut
    from a probe of all rows = probe alone - TUNED * sqrt(steps / TUNED_STEPS) * (1 - UNEVEN * (frozen - ½)²)
"""

from __future__ import annotations

import math
from typing import Literal

ProbeKind = Literal["first token", "mean", "apart"]

STEPS_POINTS, ROWS_POINTS = 19.0, 71.0
"""SST-2, batch 32, rate to zero, held-out rows: 103, 406 and 1,125 steps over new rows gave 85.7, 89.8 and
92.3, 453 steps over 4,000 rows 87.4. So what is missing is mostly rows, not steps."""
DEPTH_POINTS, DEPTH_LESS = 11.0, 0.5
"""SST-2, mean of held-out and dev rows, at 60 and 200 steps: depth 2 of 6 lost -0.4 and 0.6 points against
depth 0, depth 4 lost 0.6 and 2.3, depth 5 lost 5.1 and 4.7. A frozen part learns sooner and less."""
CUT_POINTS = 10.0
"""AG News: cutting about a third of all tokens (32 instead of 128) cost 0.8 points. SST-2, whose evaluation
rows are longer than its training rows: limit 32 cuts 7 % of their tokens, and a run of 70 steps had 79.2 %
where one with limit 128 had 82.2. The runs differed in more than that (docs/log.md)."""
PROBE_POINTS, PROBE_DOUBLING, PROBE_POINTS_ROWS = 39.0, 3.1, 64
"""SST-2: the probe on the first token of 64, 256, 512 and 2,048 rows gave 55, 63, 64 and 71 %."""
PAIRS_POINTS = 3.0
"""More is lost if an encoder of single texts has to read pairs: QQP had 82.5 and 85.0 after 281 and 951
steps, QNLI 82.6 after 293 (docs/results, 120 and 300 s)."""
MEAN_POINTS, MEAN_DOUBLING, MEAN_MOST = 24.0, 2.4, 2048
"""The probe on the mean of the tokens. SST-2, 100, 300 and 3,000 rows: 69, 76 and 80 %. In a minute,
where about 1,500 rows are trained, it beats the trained encoder on five sets of six. More rows than the third
number add little: 79.2 % with 1,859 rows and 80.2 with 14,428 (docs/results). With n-grams and 5,000 rows,
such a probe has 82.0 %, and 130 steps of training 85.3 (docs/log.md, twenty-seventh session)."""
APART_POINTS, APART_DOUBLING = 20.0, 1.6
"""The probe on the two texts of a pair, read apart. QQP, 300, 1,000 and 8,000 rows: 79.5, 82.0 and 82.6 %."""
TUNED_POINTS, TUNED_STEPS, LEAST_TUNED_STEPS, TUNED_UNEVEN = 2.5, 40, 16, 2.4
"""What training adds to a probe on the mean that has read all rows. With 75 to 750 rows of SST-2, AG News, R8
and CLINC150, 20 and 40 steps with three of six layers frozen added 2 points in the mean (-0.5 to 7), steps of
the whole encoder less (a PyTorch prototype, 400 test rows each; docs/log.md, twenty-third session)."""
BATCH = 32


def points_lost(
    n_rows: float, n_distinct: int, frozen_share: float, cut_share: float, pair: bool = False
) -> float:
    """Return the expected loss in accuracy points of a trained encoder.

    `n_rows` are trained over all passes; shares are of frozen layers, and of tokens that are cut off.
    """
    n_rows = max(n_rows, 1.0)
    steps, distinct = n_rows / BATCH, min(n_rows, n_distinct) / BATCH
    trained = STEPS_POINTS / math.sqrt(steps) + ROWS_POINTS / math.sqrt(distinct)
    sooner = 1 - DEPTH_LESS * frozen_share
    lost = sooner * trained + DEPTH_POINTS * frozen_share**2 + CUT_POINTS * cut_share
    return lost + (PAIRS_POINTS if pair else 0.0)


def tuned_points_lost(n_trained: float, n_distinct: int, frozen_share: float, cut_share: float) -> float:
    """Return the expected loss of an encoder that is trained after a probe on the mean has read all rows.

    Arguments are as of `points_lost`. Fewer than `LEAST_TUNED_STEPS` steps add nothing to the probe.
    """
    steps = n_trained / BATCH
    gain = TUNED_POINTS * math.sqrt(min(1.0, steps / TUNED_STEPS)) if steps >= LEAST_TUNED_STEPS else 0.0
    even = 1 - TUNED_UNEVEN * (frozen_share - 0.5) ** 2
    return probe_points_lost(n_distinct, cut_share, "mean") - gain * even


def probe_points_lost(n_rows: int, cut_share: float = 0.0, kind: ProbeKind = "first token") -> float:
    """Return the expected loss in accuracy points of a linear probe on `n_rows` rows' features of a kind."""
    at_64, doubling, most = {
        "first token": (PROBE_POINTS, PROBE_DOUBLING, math.inf),
        "mean": (MEAN_POINTS, MEAN_DOUBLING, MEAN_MOST),
        "apart": (APART_POINTS, APART_DOUBLING, math.inf),
    }[kind]
    doublings = math.log2(min(max(n_rows, 1), most) / PROBE_POINTS_ROWS)
    return at_64 - doubling * doublings + CUT_POINTS * cut_share
