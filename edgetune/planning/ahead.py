"""`edgetune plan`: what a run would do, without doing it."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path
from typing import Any

from edgetune.budget import energy_limit_j, read_budget
from edgetune.config import by_section, make_config
from edgetune.errors import UsageError
from edgetune.machine import cache_folder
from edgetune.meter import Meter
from edgetune.origin import find_origin
from edgetune.planning.types import Plans
from edgetune.prepare import Used, decide_open, read_rows


def plan_ahead(settings: dict[str, Any], cache_dir: Path | None = None) -> Plans:
    """Plan a run: read and tokenize its data (which the run then finds cached), rank what could be done.

    Args:
        settings: flat settings as of `finetune`, the budget in a user's words.
        cache_dir: where tokens and artifacts are kept.

    Raises:
        BudgetError: nothing fits.
        UsageError: there is no budget to plan for.
    """
    flat = read_budget(settings, datetime.now(), 0.0)
    config = make_config(by_section(flat))
    budget = config.budget
    if not budget.limits_time and budget.memory_mb is None:
        raise UsageError(
            "Give what to plan for: --deadline 10m, --energy 20kJ, --battery 5% or --memory 2GB."
        )

    cache = cache_folder() if cache_dir is None else cache_dir
    with contextlib.ExitStack() as stack:
        origin = find_origin(config, cache, stack, warm_up=False)
        rows, config = read_rows(config, origin, cache, Meter(), lambda text: None)
        used = Used(lambda: 0.0, lambda: 0.0, energy_limit_j(budget))
        plans = decide_open(config, origin, rows, used, cache, lambda text: None).plans
    assert plans is not None
    return plans
