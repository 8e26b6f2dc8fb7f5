"""How good a plan may be expected to be: points of accuracy lost against unlimited training.

A rule of thumb whose constants each come from a measurement (docs/deadlines.md, docs/log.md). It ranks
plans; it promises no accuracy.

    trained    = (1 - LESS * frozen) * (STEPS / sqrt(steps) + ROWS / sqrt(distinct rows / 32))
                 + DEPTH * frozen² + CUT * cut
    probe alone = PROBE - PROBE_DOUBLING * log2(rows / 64)
"""

from __future__ import annotations

import math

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
"""SST-2: the probe on features of 64, 256, 512 and 2,048 rows gave 55, 63, 64 and 71 %."""
BATCH = 32


def points_lost(n_rows: float, n_distinct: int, frozen_share: float, cut_share: float) -> float:
    """Return the expected loss in accuracy points of a trained encoder.

    Args:
        n_rows: examples trained, over all passes; at least 1.
        n_distinct: rows there are.
        frozen_share: frozen layers over all layers.
        cut_share: share of tokens that `max_length` cuts off.
    """
    n_rows = max(n_rows, 1.0)
    steps, distinct = n_rows / BATCH, min(n_rows, n_distinct) / BATCH
    trained = STEPS_POINTS / math.sqrt(steps) + ROWS_POINTS / math.sqrt(distinct)
    sooner = 1 - DEPTH_LESS * frozen_share
    return sooner * trained + DEPTH_POINTS * frozen_share**2 + CUT_POINTS * cut_share


def probe_points_lost(n_rows: int) -> float:
    """Return the same of a linear probe that is fitted on the features of so many rows."""
    return PROBE_POINTS - PROBE_DOUBLING * math.log2(max(n_rows, 1) / PROBE_POINTS_ROWS)
