"""From settings to what the loop needs: rows with labels, a plan, a backend, and what the user should know.

On the `ort` backend, a child process imports torch and exports while this one reads and tokenizes; with
artifacts that are cached or given by the user, there is no child process, and torch is not imported.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from edgetune.backends.backend_contract import Backend
from edgetune.backends.hidden_cache import HiddenCache
from edgetune.backends.model_loader import ModelLoader, choose_backend, find_model_loader
from edgetune.backends.openers import traits_of
from edgetune.config.choices import USUAL_LEARNERS
from edgetune.config.settings import DataSettings, RunConfig, frozen_depth
from edgetune.data.in_memory import naming_copies
from edgetune.data.splits import Splits, open_splits
from edgetune.data.token_format import TokenizerSpec
from edgetune.models.checks import open_tokenizer
from edgetune.planning.decision import Decision, Exported, decide
from edgetune.planning.device_costs import find_device, load_observed_runs
from edgetune.planning.plan import DataLengths, DeviceCosts, FittedNgrams, Plan, Plans
from edgetune.planning.planner import (
    DEFAULT_CACHE_MB,
    FEWEST_STEPS,
    MOST_PASSES,
    MOST_PROBE_ROWS,
    most_read,
)
from edgetune.profiling.speed_probe import BACKENDS_S, LAYERS_S, PROBE_RATE, probe_speeds
from edgetune.runs.resume import Interruption
from edgetune.selection import FILTERS
from edgetune.utils.cache import private_folder
from edgetune.utils.errors import BudgetError, ProfileError, UsageError
from edgetune.utils.hub import HUB_PREFIX
from edgetune.utils.machine import free_memory_mb
from edgetune.utils.meter import Meter
from edgetune.utils.types import Say

CACHE_MEMORY_RATE = 0.25
SPEED_TEST_ROWS = 20_000
NO_CLASS_WEIGHT = "--class-weight balanced has no effect: there are too few rows to combine several learners."
PATIENCE = 2
"""Passes without a better model after which training ends, if the number of passes is not given."""


Marks = tuple[tuple[str, float], ...]


def _never(ngrams: FittedNgrams, marks: Marks) -> None:
    return None


@dataclass(frozen=True)
class PreparedRows:
    """Rows and plan of a run; all that is needed if no encoder fits the deadline.

    Attributes:
        config: settings; open choices about the encoder are filled in if there is one.
        data: rows and labels.
        tokenizer_file: the `tokenizer.json` that the rows were read with.
        plans: what was planned, and why; None if nothing was.
        marks: (line of the plan, elapsed seconds at its end) so far.
        open_later: opens an encoder after all, given what the n-grams took and the marks so far;
            returns None if there is still no time for one.
    """

    config: RunConfig
    data: Splits
    tokenizer_file: Path
    plans: Plans | None
    marks: Marks
    open_later: Callable[[FittedNgrams, Marks], Prepared | None] = field(default=_never, kw_only=True)

    @property
    def plan(self) -> Plan | None:
        """The plan that is followed; None if nothing was planned."""
        return None if self.plans is None else self.plans.best

    @property
    def max_length(self) -> int:
        """Tokens per row at most."""
        return self.config.data.max_length


@dataclass(frozen=True)
class Prepared(PreparedRows):
    """Everything a run trains an encoder with.

    Attributes:
        backend: ready to train.
        model_name: name of the model that is finetuned.
        hidden_size: hidden size of the encoder.
        vocab_size: token ids are below this.
        pools_mean: whether the head reads the mean of all tokens.
        reopen: opens the backend again, with its initial weights and without a cache.
    """

    backend: Backend
    model_name: str
    hidden_size: int
    vocab_size: int
    pools_mean: bool
    reopen: Callable[[], Backend]

    @property
    def texts_apart(self) -> bool:
        """Whether the encoder reads the two texts of a pair separately."""
        return self.config.data.pair and only_probes(self.config)


@dataclass(frozen=True)
class Usage:
    """What a run has used so far, and what it may use.

    Attributes:
        elapsed_s: returns seconds since the process started.
        joules: returns joules since then.
        most_j: joules it may use; None: no limit.
    """

    elapsed_s: Callable[[], float]
    joules: Callable[[], float]
    most_j: float | None = None


def prepare(
    config: RunConfig,
    cache_dir: Path,
    meter: Meter,
    say: Say,
    used: Usage,
    interruption: Interruption | None = None,
) -> Prepared | PreparedRows:
    """Read the data, fill in open choices, get the artifacts or the model, and open the backend.

    Args:
        config: settings; all are decided if a run is resumed.
        cache_dir: where tokens and artifacts are kept.
        meter: records the time.
        say: gets progress messages.
        used: time and energy so far.
        interruption: where the run was interrupted, if it is resumed.

    Returns:
        Only rows and plan if the plan has no time for an encoder.

    Raises:
        EdgetuneError: whatever is wrong, before anything is trained or written into the run folder.
    """
    if config.train.class_weight == "balanced" and not config.train.fits_ngrams:
        raise UsageError(
            "--class-weight balanced corrects the combined answer and cannot be used without n-grams; remove "
            "it, or remove --no-ngrams and add ngrams to --learners."
        )
    if config.train.text_learners and not config.train.fits_ngrams:
        raise UsageError(
            f"The learner {config.train.text_learners[0]} is weighed beside the n-grams; add ngrams to "
            "--learners, and remove --no-ngrams."
        )
    if "encoder" not in config.train.learners and not config.budget.limits_time:
        raise UsageError(
            "Without a deadline the encoder is trained; add the encoder to --learners, or give a --deadline."
        )
    if only_probes(config) and not {"probe", "ngrams"} & {*config.train.learners}:
        raise UsageError(
            f"--backend {config.model.backend} fits a linear probe and trains nothing; add the probe to "
            "--learners, or use another backend."
        )
    with contextlib.ExitStack() as stack:
        model_loader = find_model_loader(config, cache_dir, stack)
        config = model_loader.fixed(config)
        if interruption is None:
            check = partial(_still_time, config, used)
            data, config = read_rows(config, model_loader, cache_dir, meter, say, check, used.elapsed_s)
            decision = _decide_for_few_rows(config, model_loader, data, used, cache_dir, say)
            if decision is None:
                config = with_passes(config, len(data.train))
                decision = decide_unset_settings(config, model_loader, data, used, cache_dir, say)
        else:
            data, decision = _as_before(config, interruption, model_loader, cache_dir, meter, say)
        if data.multi_label:
            _refuse_for_several(config)
        if config.train.class_weight == "balanced" and data.held_out is None:
            data = replace(data, warnings=(*data.warnings, NO_CLASS_WEIGHT))
        started: Marks = (("start", used.elapsed_s()),)
        open_encoder = partial(_open_encoder, model_loader, data, cache_dir, meter, say)
        if not decision.is_ngrams_alone:
            return open_encoder(decision, started)

    def open_later(ngrams: FittedNgrams, marks: Marks) -> Prepared | None:
        again = _decide_later(decision, model_loader, data, used, ngrams)
        return None if again is None else open_encoder(again, marks)

    return PreparedRows(
        decision.config, data, model_loader.tokenizer_file, decision.plans, started, open_later=open_later
    )


def _open_encoder(
    model_loader: ModelLoader,
    data: Splits,
    cache_dir: Path,
    meter: Meter,
    say: Say,
    decision: Decision,
    marks: Marks,
) -> Prepared:
    """Open the encoder of a decision, after the lines of the plan that ended at `marks`."""
    config, before_s = decision.config, meter.split_s()["export"]
    if config.data.max_length < data.train.longest:
        data = data.cut(config.data.max_length)
    labels: dict[str, Any] = {"n_labels": len(data.label_names), "multi_label": data.multi_label}
    reopen = partial(model_loader.open, config, **labels, meter=meter, say=say)
    began_s = meter.elapsed_s()
    with meter.phase("open"):
        backend = reopen(cache=_cache_of(config, cache_dir))
    export_s = meter.split_s()["export"] - before_s
    return Prepared(
        config=config,
        data=data,
        tokenizer_file=model_loader.tokenizer_file,
        backend=backend,
        model_name=model_loader.source.name,
        hidden_size=model_loader.source.hidden_size,
        vocab_size=_vocab_size(model_loader.tokenizer_file),
        pools_mean=model_loader.source.pools_mean,
        plans=decision.plans,
        reopen=partial(reopen, cache=None),
        marks=(*marks, ("export", began_s + export_s), ("open", meter.elapsed_s())),
    )


def _decide_later(
    decision: Decision, model_loader: ModelLoader, data: Splits, used: Usage, ngrams: FittedNgrams
) -> Decision | None:
    """Plan again once n-grams that were to be used alone are fitted, which can take less time than planned.

    Returns:
        None if there is still no time for an encoder.
    """
    config, device = decision.config, None if decision.plans is None else decision.plans.device
    if device is None:
        return None
    again_s = ngrams.again_within_s(config.budget.limit_s - used.elapsed_s())
    shape = replace(_lengths(config, data, model_loader), ngrams=replace(ngrams, again_s=again_s))
    exported = _exported(config, data, model_loader)
    try:
        again = decide(config, device, shape, exported, used.elapsed_s(), used.joules(), used.most_j)
    except BudgetError:
        return None
    return None if again.is_ngrams_alone else again


def only_probes(config: RunConfig) -> bool:
    """Return whether the backend cannot train."""
    return config.model.backend != "auto" and not traits_of(config.model.backend).trains


def _refuse_for_several(config: RunConfig) -> None:
    """Refuse settings that have no meaning if rows may have several labels.

    Raises:
        UsageError: there is such a setting.
    """
    if config.train.class_weight == "balanced":
        option = "--class-weight balanced"
    elif config.train.metric == "macro-f1":
        option = "--metric macro-f1"
    else:
        return
    raise UsageError(
        f"{option} is for one label a row; where there may be several, learners are compared by log loss, "
        "and each label has its own threshold, with the best F1. Remove it."
    )


def _decide_for_few_rows(
    config: RunConfig, model_loader: ModelLoader, data: Splits, used: Usage, cache_dir: Path, say: Say
) -> Decision | None:
    """Plan a run without a deadline on few rows, as if there was an ample one.

    On single texts, a linear probe is fitted on all training rows, then the encoder is trained, then its head
    is fitted again; on pairs, a linear probe compares the two texts. With 300 to 3,000 rows that is worth one
    to six points over training alone (docs/log.md, twenty-fifth session).

    Returns:
        None if rows are not few, if the settings ask for something else, or if no such plan is the best one.
    """
    train, budget, model = config.train, config.budget, config.model
    usual = {*USUAL_LEARNERS} <= {*train.learners} and train.fits_ngrams
    limited = budget.limits_time or budget.memory_mb is not None or train.max_steps is not None
    keeps = "keep" in train.model_fields_set or budget.patience is not None
    if not usual or limited or keeps or config.selection.method != "train-all" or model.device != "cpu":
        return None
    most = MOST_PROBE_ROWS if config.data.pair else most_read(len(data.label_names))
    if data.held_out is None or data.multi_label or len(data.train) > most:
        return None
    if model_loader.carried is not None or not model_loader.source.pools_mean:
        return None
    passes = with_passes(config, len(data.train), has_patience=False).train.epochs
    probe = partial(probe_speeds, limit_s=LAYERS_S, every_backend=False, cache_dir=cache_dir, say=say)
    shape, exported = _lengths(config, data, model_loader), _exported(config, data, model_loader)
    try:
        device = find_device(model_loader.source, budget.watts, probe)
        device = _with_pairs(device, config, model_loader)
        found = decide(config, device, shape, exported, used.elapsed_s(), usual_passes=passes)
    except (BudgetError, ProfileError):  # the costs of what the user asks for are not known
        return None
    plan, wants_training = found.plan, not config.data.pair
    if plan is None or plan.trains != wants_training or not plan.reads_all(len(data.train)):
        return None
    return replace(found, config=with_passes(found.config, len(data.train), has_patience=False))


def with_passes(config: RunConfig, n_rows: int, has_patience: bool = True) -> RunConfig:
    """Set the number of passes and the patience, unless they were given or time is limited.

    Args:
        config: settings.
        n_rows: training rows.
        has_patience: whether training ends when further passes do not help.
    """
    train, budget = config.train, config.budget
    if "epochs" in train.model_fields_set or train.max_steps is not None or budget.limits_time:
        return config
    passes = min(MOST_PASSES, max(1, math.ceil(FEWEST_STEPS * train.batch_size / max(1, n_rows))))
    update: dict[str, Any] = {"train": train.model_copy(update={"epochs": passes})}
    if has_patience and passes > 1 and budget.patience is None and train.keep == "best":
        update["budget"] = budget.model_copy(update={"patience": PATIENCE})
    return config.model_copy(update=update)


def _as_before(
    config: RunConfig,
    interruption: Interruption,
    model_loader: ModelLoader,
    cache_dir: Path,
    meter: Meter,
    say: Say,
) -> tuple[Splits, Decision]:
    """Read the rows as they were read when the run began, and follow the plan that it followed."""
    data = config.data.model_copy(update={"max_length": interruption.read_length})
    rows, _ = read_rows(config.model_copy(update={"data": data}), model_loader, cache_dir, meter, say)
    if interruption.plan is None:
        return rows, Decision(config, None)
    as_planned = {interruption.plan.key: interruption.plan.scale}
    device = find_device(model_loader.source, config.budget.watts, scales=as_planned)
    plans = Plans((interruption.plan,), deadline_s=config.budget.limit_s, device=device)
    return rows, Decision(config, plans)


def _still_time(config: RunConfig, used: Usage) -> None:
    """Stop reading when the deadline has passed.

    Raises:
        BudgetError: the deadline has passed.
    """
    limit_s = config.budget.limit_s
    if used.elapsed_s() > limit_s:
        raise BudgetError(
            f"The deadline of {limit_s:.0f} s passed before {config.data.train} was read and tokenized. "
            "Allow more time, or run `edgetune plan` first, which caches the tokenized data."
        )


def read_rows(
    config: RunConfig,
    model_loader: ModelLoader,
    cache_dir: Path,
    meter: Meter,
    say: Say,
    check: Callable[[], None] = lambda: None,
    elapsed_s: Callable[[], float] = lambda: 0.0,
) -> tuple[Splits, RunConfig]:
    """Open the rows, cut to what the model can take; `check` is called now and then and may raise.

    With a deadline, a file that is too large for it is sampled; `elapsed_s` returns the seconds since the run
    began. In the returned settings, hub names have their commit.
    """
    max_length = min(config.data.max_length, model_loader.max_positions)
    spec = TokenizerSpec(model_loader.tokenizer_file, max_length, model_loader.source.pad_id)
    with meter.phase("tokenize"):
        changes = _pins(config.data)
        if max_length != config.data.max_length:
            changes["max_length"] = max_length
        if changes:  # an updated setting counts as set by the user, and the planner does not change it
            config = config.model_copy(update={"data": config.data.model_copy(update=changes)})
        with naming_copies(config.data.train, config.data.eval):
            rows = open_splits(config, spec, cache_dir, model_loader.labels, say, check, elapsed_s)
    if rows.guessed_columns:  # texts to predict are then read from the same columns
        label, *text = rows.guessed_columns
        data = config.data.model_copy(update={"text": tuple(text), "label": label})
        config = config.model_copy(update={"data": data})
    if rows.multi_label:  # and rows to evaluate on are then read so
        config = config.model_copy(update={"data": config.data.model_copy(update={"multi_label": True})})
    return rows, config


def _pins(data: DataSettings) -> dict[str, Any]:
    """Return the hub's names among the files, each with its commit."""
    files = {"train": data.train, "eval": data.eval}
    named = {key: path for key, path in files.items() if path is not None and path.startswith(HUB_PREFIX)}
    if named:
        from edgetune.data.data_hub import pinned_dataset

        named = {key: pinned_dataset(path) for key, path in named.items()}
    return {key: path for key, path in named.items() if path != files[key]}


def decide_unset_settings(
    config: RunConfig, model_loader: ModelLoader, data: Splits, used: Usage, cache_dir: Path, say: Say
) -> Decision:
    """Let the planner fill in what the user left open, if this machine's costs are known.

    Without a profile of this very machine and model, a run with a deadline first measures their speed.

    Raises:
        BudgetError: nothing fits the budget.
        UsageError: the budget or the backend is not possible with the device or the model.
    """
    model, budget = config.model, config.budget
    limited = budget.limits_time or budget.memory_mb is not None
    if not limited and (model.backend != "auto" or model.device != "cpu" or model_loader.carried):
        return Decision(_closed(config), None)
    if limited and model.device != "cpu":
        raise UsageError(
            "Budgets are supported with --device cpu only; remove --deadline and the other budget options."
        )
    probe = partial(
        probe_speeds,
        limit_s=_probe_limit_s(config, data, used.elapsed_s()),
        every_backend=model.backend == "auto" and model_loader.carried is None,
        cache_dir=cache_dir,
        say=say,
    )
    try:
        recalls = budget.limits_time and budget.use_earlier_runs
        earlier = partial(load_observed_runs, cache_dir) if recalls else None
        device = find_device(model_loader.source, budget.watts, probe, earlier)
    except ProfileError:
        if limited:
            raise
        return Decision(_closed(config), None)
    if device.foreign and not limited:
        return Decision(_closed(config), None)
    device = _with_pairs(device, config, model_loader)
    if only_probes(config) and all(costs.trains for costs in device.backends):
        raise UsageError(
            f"--backend {model.backend} is not possible with {model_loader.source.name}: it is for BERT "
            "encoders with mean pooling, and for pairs the tokenizer has to give the second text a token "
            "type of its own; use --backend auto."
        )
    shape, exported = _lengths(config, data, model_loader), _exported(config, data, model_loader)
    return decide(config, device, shape, exported, used.elapsed_s(), used.joules(), used.most_j)


def _with_pairs(device: DeviceCosts, config: RunConfig, model_loader: ModelLoader) -> DeviceCosts:
    """Leave out backends that cannot read the pairs of a run, if its tokenizer does not mark second texts."""
    if not config.data.pair or _marks_second(model_loader.tokenizer_file):
        return device
    return replace(device, backends=tuple(costs for costs in device.backends if costs.trains))


def _lengths(config: RunConfig, data: Splits, model_loader: ModelLoader) -> DataLengths:
    return DataLengths(
        lengths=data.train.lengths,
        eval_lengths=data.evaluation.lengths,
        max_length=config.data.max_length,
        can_cut=not config.data.pair and _ends_plainly(model_loader.tokenizer_file),
        n_held_out=0 if data.held_out is None else len(data.held_out),
        n_classes=len(data.label_names),
        pair=config.data.pair,
    )


def _exported(config: RunConfig, data: Splits, model_loader: ModelLoader) -> Exported:
    n_labels, freeze = len(data.label_names), config.model.freeze
    return partial(model_loader.exported, n_labels, freeze, multi_label=data.multi_label)


def _probe_limit_s(config: RunConfig, data: Splits, elapsed_s: float) -> float:
    """Return how long a run may measure the machine's speed: a share of its time, 0 if it is short."""
    budget, train = config.budget, config.train
    if budget.deadline_s is not None:
        return PROBE_RATE * (budget.deadline_s - elapsed_s)
    if budget.limits_time:  # by energy
        return LAYERS_S
    n_rows = min(train.epochs * len(data.train), (train.max_steps or len(data.train)) * train.batch_size)
    return BACKENDS_S if n_rows >= SPEED_TEST_ROWS else 0.0


def _closed(config: RunConfig) -> RunConfig:
    """Fill in open choices without the planner."""
    model = config.model
    update: dict[str, str] = {}
    if model.backend == "auto":
        update["backend"] = choose_backend(config)
    if model.freeze == "auto":
        update["freeze"] = "embeddings"
    return config.model_copy(update={"model": model.model_copy(update=update)})


def _cache_of(config: RunConfig, cache_dir: Path) -> HiddenCache | None:
    """Return a cache for the output of the frozen layers, if rows are used more than once."""
    depth = frozen_depth(config.model.freeze)
    again = config.train.epochs > 1 or config.selection.method in FILTERS
    room_mb = DEFAULT_CACHE_MB if config.model.cache_mb is None else config.model.cache_mb
    if not depth or not again or not room_mb:
        return None
    memory_mb = min(room_mb, CACHE_MEMORY_RATE * free_memory_mb())
    private_folder(cache_dir)
    return HiddenCache(memory_mb, room_mb - memory_mb, cache_dir)


@lru_cache(maxsize=1)
def _tokenizer(path: Path) -> Any:
    """Open a tokenizer that neither pads nor truncates, whatever its file says."""
    tokenizer = open_tokenizer(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _ends_plainly(tokenizer_file: Path) -> bool:
    """Return whether a single text gets one special token before it and one after it."""
    masks = _tokenizer(tokenizer_file).encode("a b c").special_tokens_mask
    return bool(sum(masks) == 2 and masks[0] == masks[-1] == 1)


def _marks_second(tokenizer_file: Path) -> bool:
    """Return whether the second text of a pair has token type 1, without special tokens before it."""
    found = _tokenizer(tokenizer_file).encode("a", "b")
    second = [
        not special for special, kind in zip(found.special_tokens_mask, found.type_ids, strict=True) if kind
    ]
    return found.special_tokens_mask[:1] == [1] and second[:1] == [True]


def _vocab_size(tokenizer_file: Path) -> int:
    return int(_tokenizer(tokenizer_file).get_vocab_size(with_added_tokens=True))
