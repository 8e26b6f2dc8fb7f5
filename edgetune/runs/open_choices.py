"""The rows of a run, and its open choices: what the planner decides, once the rows are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.model_loader import ModelLoader, choose_backend
from edgetune.backends.openers import traits_of
from edgetune.config.choices import USUAL_LEARNERS
from edgetune.config.settings import DataSettings, RunConfig
from edgetune.data.in_memory import naming_copies
from edgetune.data.splits import Splits, open_splits
from edgetune.data.token_format import TokenizerSpec
from edgetune.models.checks import open_tokenizer
from edgetune.models.vocabulary import unknown_token
from edgetune.planning.decision import Decision, decide
from edgetune.planning.device_costs import Runs, find_device, load_observed_runs
from edgetune.planning.explanation import unreadable
from edgetune.planning.plan import MOST_UNKNOWN, DataLengths, DeviceCosts, FittedNgrams
from edgetune.planning.planner import FEWEST_STEPS, MOST_PASSES, MOST_PROBE_ROWS, most_read
from edgetune.profiling.speed_probe import BACKENDS_S, LAYERS_S, PROBE_RATE, probe_speeds
from edgetune.utils.errors import BudgetError, ProfileError, UsageError
from edgetune.utils.hub import HUB_PREFIX
from edgetune.utils.meter import Meter
from edgetune.utils.types import Say

SPEED_TEST_ROWS = 20_000
LOOKED_AT_ROWS = 200
"""Rows whose tokens say whether the encoder's vocabulary knows the language."""
PATIENCE = 2
"""Passes without a better model after which training ends, if the number of passes is not given."""


@dataclass(frozen=True)
class Usage:
    """What a run has used so far, and what it may use.

    Attributes:
        elapsed_s: returns seconds since the process started.
        joules: returns joules since then.
        most_j: joules it may use; None: no limit.
    """

    elapsed_s: Callable[[], float] = lambda: 0.0
    joules: Callable[[], float] = lambda: 0.0
    most_j: float | None = None


UNUSED = Usage()


def read_rows(
    config: RunConfig,
    model_loader: ModelLoader,
    cache_dir: Path,
    meter: Meter,
    say: Say,
    used: Usage = UNUSED,
) -> tuple[Splits, RunConfig]:
    """Open the rows, cut to what the model can take.

    With a deadline, a file that is too large for the time left is sampled. In the returned settings, hub
    names have their commit.

    Raises:
        BudgetError: the deadline has passed.
    """
    max_length = min(config.data.max_length, model_loader.max_positions)
    spec = TokenizerSpec(model_loader.tokenizer_file, max_length, model_loader.source.pad_id)
    limit_s, train = config.budget.limit_s, config.data.train

    def check() -> None:
        if used.elapsed_s() > limit_s:
            raise BudgetError(
                f"The deadline of {limit_s:.0f} s passed before {train} was read and tokenized. "
                "Allow more time, or run `edgetune plan` first, which caches the tokenized data."
            )

    with meter.phase("tokenize"):
        changes = _pins(config.data)
        if max_length != config.data.max_length:  # else it would count as set by the user
            changes["max_length"] = max_length
        config = config.changed(data=changes)
        with naming_copies(config.data.train, config.data.eval):
            rows = open_splits(config, spec, cache_dir, model_loader.labels, say, check, used.elapsed_s)
    found: dict[str, Any] = {}  # texts to predict and rows to evaluate on are then read in the same way
    if rows.guessed_columns:
        label, *text = rows.guessed_columns
        found = {"text": tuple(text), "label": label}
    if rows.multi_label:
        found["multi_label"] = True
    return rows, config.changed(data=found)


def _pins(data: DataSettings) -> dict[str, Any]:
    """Return the hub's names among the files, each with its commit."""
    files = {"train": data.train, "eval": data.eval}
    named = {key: path for key, path in files.items() if path is not None and path.startswith(HUB_PREFIX)}
    if named:
        from edgetune.data.data_hub import pinned_dataset

        named = {key: pinned_dataset(path) for key, path in named.items()}
    return named


@dataclass(frozen=True)
class OpenChoices:
    """Fills in the settings that the user left open, given the rows.

    Attributes:
        model_loader: the model that is finetuned.
        data: rows and labels.
        used: time and energy so far.
        cache_dir: where measurements of speed and earlier runs are kept.
        say: gets progress messages.
    """

    model_loader: ModelLoader
    data: Splits
    used: Usage
    cache_dir: Path
    say: Say

    def decide(self, config: RunConfig) -> Decision:
        """Decide as if there was an ample deadline if that pays, else within the budget.

        Raises:
            BudgetError: nothing fits the budget.
            UsageError: the budget or the backend is not possible with the device or the model.
        """
        return self._without_deadline(config) or self.within_budget(with_passes(config, len(self.data.train)))

    def _without_deadline(self, config: RunConfig) -> Decision | None:
        """Plan a run without a deadline as if there was an ample one, on few rows or an unknown language.

        On few single texts, a linear probe is fitted on all training rows, then the encoder is trained, then
        its head is fitted again; on few pairs, a linear probe compares the two texts. With 300 to 3,000 rows
        that is worth one to six points over training alone (docs/log.md, twenty-fifth session). An encoder
        that cannot read the language is not trained.

        Returns:
            None otherwise, if the settings ask for something else, or if no such plan is the best.
        """
        train, budget, data, loader = config.train, config.budget, self.data, self.model_loader
        usual = {*USUAL_LEARNERS} <= {*train.learners} and train.fits_ngrams
        limited = budget.limits_time or budget.memory_mb is not None or train.max_steps is not None
        keeps = "keep" in train.model_fields_set or budget.patience is not None
        if not usual or limited or keeps or config.selection.method != "train-all":
            return None
        most = MOST_PROBE_ROWS if config.data.pair else most_read(len(data.label_names))
        foreign = self._unknown_rate > MOST_UNKNOWN
        if data.held_out is None or data.multi_label or (len(data.train) > most and not foreign):
            return None
        if config.model.device != "cpu" or loader.carried or not loader.source.pools_mean:
            return None
        passes = with_passes(config, len(data.train), has_patience=False).train.epochs
        try:
            device = self._device(config, LAYERS_S, every_backend=False)
            found = self._planned(config, device, usual_passes=passes)
        except (BudgetError, ProfileError):  # the costs of what the user asks for are not known
            return None
        plan, wants_training = found.plan, not config.data.pair and not foreign
        if plan is None or plan.trains != wants_training:
            return None
        if not plan.grows:
            self.say(unreadable(self._unknown_rate))
        elif not plan.reads_all(len(data.train)):
            return None
        return replace(found, config=with_passes(found.config, len(data.train), has_patience=False))

    def within_budget(self, config: RunConfig) -> Decision:
        """Let the planner decide, if this machine's costs are known; raises the errors of `decide`.

        Without a profile of this very machine and model, a run with a deadline first measures their speed.
        """
        model, budget, carried = config.model, config.budget, self.model_loader.carried
        limited = budget.limits_time or budget.memory_mb is not None
        if not limited and (model.backend != "auto" or model.device != "cpu" or carried):
            return Decision(_closed(config), None)
        if limited and model.device != "cpu":
            raise UsageError(
                "Budgets are supported with --device cpu only; remove --deadline and the other budget "
                "options."
            )
        recalls = budget.limits_time and budget.use_earlier_runs
        earlier = partial(load_observed_runs, self.cache_dir) if recalls else None
        every_backend = model.backend == "auto" and carried is None
        try:
            limit_s = self._probe_limit_s(config)
            device: DeviceCosts | None = self._device(config, limit_s, every_backend, earlier)
        except ProfileError:
            if limited:
                raise
            device = None
        if device is None or (device.foreign and not limited):
            return Decision(_closed(config), None)
        if only_probes(config) and all(costs.trains for costs in device.backends):
            raise UsageError(
                f"--backend {model.backend} is not possible with {self.model_loader.source.name}: it is for "
                "BERT encoders with mean pooling, and for pairs the tokenizer has to give the second text a "
                "token type of its own; use --backend auto."
            )
        return self._planned(config, device)

    def decide_later(self, before: Decision, ngrams: FittedNgrams) -> Decision | None:
        """Plan again once the n-grams are fitted; None if there is still no time for an encoder."""
        assert before.plans is not None
        config, left_s = before.config, before.config.budget.limit_s - self.used.elapsed_s()
        fitted = replace(ngrams, again_s=ngrams.again_within_s(left_s))
        try:
            again = self._planned(config, before.plans.device, fitted)
        except BudgetError:
            return None
        return None if again.is_ngrams_alone else again

    def _device(
        self,
        config: RunConfig,
        limit_s: float,
        every_backend: bool,
        recall: Callable[[str, float], Runs] | None = None,
    ) -> DeviceCosts:
        """Return the costs of this machine, of backends that can read the rows."""
        probe = partial(
            probe_speeds,
            limit_s=limit_s,
            every_backend=every_backend,
            cache_dir=self.cache_dir,
            say=self.say,
        )
        device = find_device(self.model_loader.source, config.budget.watts, probe, recall)
        if not config.data.pair or _marks_second(self.model_loader.tokenizer_file):
            return device
        return replace(device, backends=tuple(costs for costs in device.backends if costs.trains))

    def _planned(
        self,
        config: RunConfig,
        device: DeviceCosts,
        ngrams: FittedNgrams | None = None,
        usual_passes: int | None = None,
    ) -> Decision:
        data, used = self.data, self.used
        n_classes, freeze = len(data.label_names), config.model.freeze
        lengths = DataLengths(
            lengths=data.train.lengths,
            eval_lengths=data.evaluation.lengths,
            max_length=config.data.max_length,
            can_cut=not config.data.pair and _ends_plainly(self.model_loader.tokenizer_file),
            n_held_out=0 if data.held_out is None else len(data.held_out),
            n_classes=n_classes,
            pair=config.data.pair,
            ngrams=ngrams,
            unknown_rate=self._unknown_rate,
        )
        exported = partial(self.model_loader.exported, n_classes, freeze, multi_label=data.multi_label)
        already = used.elapsed_s(), used.joules()
        found = decide(config, device, lengths, exported, *already, used.most_j, usual_passes)
        if found.plan is not None and not found.plan.grows and usual_passes is None:
            self.say(unreadable(self._unknown_rate))
        return found

    @cached_property
    def _unknown_rate(self) -> float:
        """The share of unknown tokens in some rows."""
        unknown, train = unknown_token(_tokenizer(self.model_loader.tokenizer_file)), self.data.train
        if unknown is None:
            return 0.0
        tokens = train.batch(np.random.default_rng(0).integers(0, len(train), LOOKED_AT_ROWS)).tokens
        return float(np.mean(tokens == unknown))

    def _probe_limit_s(self, config: RunConfig) -> float:
        """Return how long a run may measure the machine's speed: a share of its time, 0 if it is short."""
        budget, train, n_train = config.budget, config.train, len(self.data.train)
        if budget.deadline_s is not None:
            return PROBE_RATE * (budget.deadline_s - self.used.elapsed_s())
        if budget.limits_time:  # by energy
            return LAYERS_S
        n_rows = min(train.epochs * n_train, (train.max_steps or n_train) * train.batch_size)
        return BACKENDS_S if n_rows >= SPEED_TEST_ROWS else 0.0


def with_passes(config: RunConfig, n_rows: int, has_patience: bool = True) -> RunConfig:
    """Set the number of passes over `n_rows` and the patience, unless they were given or time is limited."""
    train, budget = config.train, config.budget
    if "epochs" in train.model_fields_set or train.max_steps is not None or budget.limits_time:
        return config
    passes = min(MOST_PASSES, max(1, math.ceil(FEWEST_STEPS * train.batch_size / max(1, n_rows))))
    config = config.changed(train={"epochs": passes})
    if has_patience and passes > 1 and budget.patience is None and train.keep == "best":
        config = config.changed(budget={"patience": PATIENCE})
    return config


def only_probes(config: RunConfig) -> bool:
    """Return whether the backend cannot train."""
    return config.model.backend != "auto" and not traits_of(config.model.backend).trains


def _closed(config: RunConfig) -> RunConfig:
    """Fill in open choices without the planner."""
    update: dict[str, str] = {}
    if config.model.backend == "auto":
        update["backend"] = choose_backend(config)
    if config.model.freeze == "auto":
        update["freeze"] = "embeddings"
    return config.changed(model=update)


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


def vocab_size(tokenizer_file: Path) -> int:
    """Return the number of tokens; their ids are below it."""
    return int(_tokenizer(tokenizer_file).get_vocab_size(with_added_tokens=True))
