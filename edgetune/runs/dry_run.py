"""`edgetune plan` and `edgetune check`: what a run would do, and with which data."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path
from typing import Any

from edgetune.backends.model_loader import find_model_loader
from edgetune.checking.data_check import DataCheck, check_data
from edgetune.config.budget import read_budget
from edgetune.config.settings import RunConfig
from edgetune.config.toml_config import column_names, group_by_section, make_config
from edgetune.data.examples import DataOptions
from edgetune.data.in_memory import Data, as_path, naming_copies
from edgetune.energy.battery import energy_limit_j
from edgetune.planning.plan import Plans
from edgetune.runs.open_choices import OpenChoices, Usage, read_rows
from edgetune.utils.errors import UsageError
from edgetune.utils.machine import cache_folder
from edgetune.utils.meter import Meter
from edgetune.utils.types import Say

START_S = 0.5  # of a process, before it reads


def plan(train: Data, *, cache_dir: str | Path | None = None, **settings: Any) -> Plans:
    """Return what `finetune` would do with a budget; the command `edgetune plan` as one call.

    Args:
        train: as for `finetune`.
        cache_dir: where tokens and artifacts are kept.
        **settings: as for `finetune`; at least one of `deadline`, `energy`, `battery` and `memory`.

    Raises:
        EdgetuneError: what is wrong and what to do, in a sentence.
    """
    cache = cache_folder() if cache_dir is None else Path(cache_dir)
    return dry_run(settings_of_call(train, settings, cache), cache)


def check(train: Data, *, cache_dir: str | Path | None = None, **settings: Any) -> DataCheck:
    """Check labelled text before training; the command `edgetune check` as one call.

    Args:
        train: as for `finetune`.
        cache_dir: where a copy of rows in memory is kept.
        **settings: as for `finetune`.

    Raises:
        EdgetuneError: what is wrong and what to do, in a sentence.
    """
    cache = cache_folder() if cache_dir is None else Path(cache_dir)
    return run_check(settings_of_call(train, settings, cache), cache)


def run_check(
    settings: dict[str, Any], cache_dir: Path | None = None, say: Say = lambda text: None
) -> DataCheck:
    """Check the data in `settings`, which are flat as for `finetune`; `say` gets progress messages."""
    config = config_of(settings)
    with contextlib.ExitStack() as stack:
        cache = cache_folder() if cache_dir is None else cache_dir
        model_loader = find_model_loader(config, cache, stack, warm_up=False)
        with naming_copies(config.data.train, config.data.eval):
            return check_data(config, model_loader, say)


def settings_of_call(train: Data, settings: dict[str, Any], cache_dir: Path) -> dict[str, Any]:
    """Return the settings of a call from Python as the command line has them; rows in memory become files."""
    settings = dict(settings)
    if isinstance(settings.get("text"), str):
        settings["text"] = column_names(settings["text"])
    text, label = settings.get("text"), settings.get("label")
    options = DataOptions(
        text=tuple(text) if isinstance(text, list | tuple) else (),
        label=label if isinstance(label, str) else None,
        pair=settings.get("pair") is True,
    )
    settings["train"] = as_path(train, cache_dir, options)
    if settings.get("eval") is not None:
        settings["eval"] = as_path(settings["eval"], cache_dir, options)
    return settings


def config_of(settings: dict[str, Any], elapsed_s: float = 0.0) -> RunConfig:
    """Return flat settings as sections, with the budget counted from `elapsed_s` seconds ago."""
    return make_config(group_by_section(read_budget(settings, datetime.now(), elapsed_s)))


def dry_run(settings: dict[str, Any], cache_dir: Path | None = None, say: Say = lambda text: None) -> Plans:
    """Plan a run: read and tokenize its data (which the run then finds cached), and rank the options.

    Args:
        settings: flat settings as for `finetune`, with the budget as users write it.
        cache_dir: where tokens and artifacts are kept.
        say: gets progress messages.

    Raises:
        BudgetError: nothing fits.
        UsageError: there is no budget to plan for.
    """
    config = config_of(settings)
    budget = config.budget
    if not budget.limits_time and budget.memory_mb is None:
        raise UsageError(
            "Specify a budget to plan for: --deadline 10m, --energy 20kJ, --battery 5% or --memory 2GB."
        )

    cache = cache_folder() if cache_dir is None else cache_dir
    with contextlib.ExitStack() as stack:
        model_loader = find_model_loader(config, cache, stack, warm_up=False)
        config = model_loader.fixed(config)
        rows, config = read_rows(config, model_loader, cache, Meter(), say)
        again = Meter()
        read_rows(config, model_loader, cache, again, lambda text: None)  # as a run will find them: cached
        read_s = START_S + again.elapsed_s()
        used = Usage(lambda: read_s, lambda: 0.0, energy_limit_j(budget))
        plans = OpenChoices(model_loader, rows, used, cache, say).within_budget(config).plans
    assert plans is not None
    return plans
