"""All settings of a run: typed, with their defaults and limits; nothing here reads or writes files.

RunConfig: [data] [model] [selection] [train] [budget]
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from edgetune.config.choices import (
    Backend,
    ClassWeight,
    Device,
    Learner,
    LogTo,
    Method,
    Metric,
    Pooling,
    Precision,
    Preset,
)
from edgetune.utils.errors import did_you_mean


def frozen_depth(freeze: str) -> int:
    """Return how many of the lowest layers a `--freeze` freezes: 0 for `none`, `embeddings` and `auto`."""
    return int(freeze) if freeze.isdigit() else 0


def freeze_of(depth: int) -> str:
    """Return the `--freeze` that freezes so many layers, and the embeddings below them."""
    return str(depth) if depth else "embeddings"


MAX_HOLDOUT_ROWS = 10_000
MAX_SEED = 2**32 - 1  # of numpy's and torch's generators

METHODS: tuple[Method, ...] = get_args(Method)
FILTERS: tuple[Method, ...] = (
    "fixed-threshold",
    "auto-threshold",
    "three-stage",
    "selective-backprop",
    "selective-backprop-stale",
    "rho-loss",
)
"""Methods that score rows before they train them."""


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SelectionSettings(Settings):
    """How examples are chosen. Defaults are the preset `default`; docs/methods.md has the table.

    Attributes:
        method: which selector.
        preset: which column of the table filled the other values.
        keep_rate: `random` keeps an example with this probability.
        threshold: `fixed-threshold` trains examples whose loss (nats) is above it.
        warmup_fraction: stage 0 lasts this share of one epoch.
        warmup_gain: and goes on until the last losses are this share below what guessing costs (nats, by the
            shares of the labels); 0: it does not wait for that.
        threshold_window: L_low is the mean of this many last example losses.
        moving_threshold: whether L_low follows the window after stage 0.
        features: what the meta predictor sees: `tokens`, or hashed tokens with length and label.
        calibrated: whether the predictor's log odds are scaled to be probabilities.
        recall: stage 2 calls so many examples hard that this share of the hard ones is among them; 0, or with
            nothing explored: those that are likelier hard than not.
        alt: stage 1 ends when the predictor's mean log loss (nats) is at most this.
        alt_window: over how many scored batches that mean is taken (W).
        alt_after_fit: compare the loss on a batch after fitting it (else before: test, then train).
        explore_rate: share of predicted-easy examples that are scored anyway.
        base_rate: `auto-assist` accepts at least this share of the examples that its assistant calls easy.
        beta: `selective-backprop` trains with probability (percentile of the loss) ** beta.
        loss_window: over how many last losses that percentile is taken.
        stale_epochs: `selective-backprop-stale` uses an example's loss for so many passes.
        prune_rate: `info-batch` leaves out this share of the examples whose loss is below the mean.
        full_rate: `info-batch` trains on everything for this last share of the run.
        pool_rows: `rho-loss` chooses among so many scored examples at a time.
        top_rate: share of those that `rho-loss` trains, and share of all that `swift-learn` trains.
        proxy_holdout: share of the train rows that `rho-loss` gives to its small model.
        subset_rate: share that `svp`, the cartographies and `ftft` train on.
        rank_by: how `svp` ranks: `confidence` (least), `entropy`, `forgetting` or `k-center`.
        reference_rate: share of the run in which the cartographies and `ftft` measure; None: a half, and a
            quarter for `ftft`.
        refresh_epochs: `swift-learn` measures everything again after so many passes.
        watched: whether a filter that costs more than it saves under a deadline is switched off.
    """

    method: Method = "train-all"
    preset: Preset = "default"
    keep_rate: float = Field(0.5, gt=0, le=1)
    threshold: float = Field(0.3, ge=0)
    warmup_fraction: float = Field(0.1, gt=0, le=1)
    warmup_gain: float = Field(0.5, ge=0, lt=1)
    threshold_window: int = Field(128, ge=1)
    moving_threshold: bool = False
    features: Literal["tokens", "hashed"] = "hashed"
    calibrated: bool = True
    recall: float = Field(0.8, ge=0, le=1)
    alt: float = Field(0.69, gt=0)
    alt_window: int = Field(16, ge=1)
    alt_after_fit: bool = False
    explore_rate: float = Field(0.05, ge=0, le=1)
    base_rate: float = Field(0.3, gt=0, le=1)
    beta: float = Field(3.0, ge=0)
    loss_window: int = Field(1024, ge=1)
    stale_epochs: int = Field(3, ge=1)
    prune_rate: float = Field(0.5, ge=0, lt=1)
    full_rate: float = Field(0.125, ge=0, le=1)
    pool_rows: int = Field(320, ge=1)
    top_rate: float = Field(0.1, gt=0, le=1)
    proxy_holdout: float = Field(0.1, gt=0, lt=1)
    subset_rate: float = Field(0.33, gt=0, le=1)
    rank_by: Literal["confidence", "entropy", "forgetting", "k-center"] = "entropy"
    reference_rate: float | None = Field(None, gt=0, lt=1)
    refresh_epochs: int = Field(3, ge=1)
    watched: bool = True


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "preset": "paper",
        "warmup_gain": 0.0,
        "features": "tokens",
        "calibrated": False,
        "recall": 0.0,
        "alt": 0.5,
        "alt_window": 8,
        "alt_after_fit": True,
        "explore_rate": 0.0,
    },
}


class LabelledText(Settings):
    """Which text, and how to read it.

    Attributes:
        train: file, folder or `hub:NAME[@REVISION][:[CONFIGURATION:]SPLIT]`.
        eval: the same; None holds rows of `train` out.
        text: columns, joined by a space (or a pair, with `pair`); empty: found by their usual names.
        label: column, or columns with commas that each hold 1 for one label; None: found by its usual names.
        header: whether the first row holds names; None: decided from the file.
        encoding: of text files; `auto`: decided from the file.
        delimiter: of delimited files; None: decided from the file.
        escape: whether backslashes escape quotes in delimited files; None: decided from the file.
        pair: two text columns are a sentence pair.
        merge_labels: labels that differ only in letter case, a full stop, or `_`, `-` and blank are one.
    """

    train: str
    eval: str | None = None
    text: tuple[str, ...] = ()
    label: str | None = None
    header: bool | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    escape: bool | None = None
    pair: bool = False
    merge_labels: bool = False


class DataSettings(LabelledText):
    """The text of a run, and what is made of it.

    Attributes:
        holdout: share of rows held out when there is no `eval`.
        max_holdout_rows: held out at most, since every one of them costs a forward pass.
        max_bad_rows: share of unusable rows above which nothing is trained.
        max_length: tokens per row at most; longer texts are cut.
    """

    holdout: float = Field(0.1, gt=0, lt=1)
    max_holdout_rows: int = Field(MAX_HOLDOUT_ROWS, ge=1)
    max_bad_rows: float = Field(0.01, ge=0, le=1)
    max_length: int = Field(128, ge=4)


class ModelSettings(Settings):
    """What is trained, and by what.

    Attributes:
        model: None for the built-in one, a folder, or a hub name (`models.resolve_model`).
        artifacts: folder of carried training artifacts (then `model` and `freeze` are theirs).
        pooling: what a new head reads: the `mean` of all tokens, the first one (`cls`), or `auto`: the mean
            where the encoder was trained with it (`models.mean_pooling`).
        freeze: `none`, `embeddings`, how many of the lowest layers to freeze with them, or `auto`: the
            planner decides (without a deadline: `embeddings`).
        cache_mb: for the frozen layers' hidden states, at most; None: the planner decides.
        backend: `auto` is what the device profile says is quickest here (`ort` where there is none). `onnx`
            trains nothing: it fits a linear probe within a deadline.
        device: `cpu` or `cuda`.
        precision: of the torch backend; `auto` is bf16 on CUDA, on a CPU what a plan says, else fp32.
        threads: of one operation; None leaves it to the runtime.
        onnx: whether the torch backend also exports `onnx/model.onnx`.
    """

    model: str | None = None
    artifacts: str | None = None
    pooling: Pooling = "auto"
    freeze: str = "auto"
    cache_mb: float | None = Field(None, ge=0)
    backend: Backend = "auto"
    device: Device = "cpu"
    precision: Precision = "auto"
    threads: int | None = Field(None, ge=1)
    onnx: bool = True

    @field_validator("freeze", mode="before")
    @classmethod
    def _normalize_freeze(cls, freeze: object) -> str:
        """No layers frozen is `embeddings`, and a depth has no leading zeros."""
        word = str(freeze)
        if word.isdecimal():
            return freeze_of(int(word))
        if word not in ("auto", "none", "embeddings"):
            raise ValueError("give auto, none, embeddings, or the number of lowest layers to freeze")
        return word


LEARNERS: tuple[Learner, ...] = get_args(Learner)


class TrainSettings(Settings):
    """How the loop runs.

    Attributes:
        epochs: passes over the training rows. Not set: as many as make `FEWEST_STEPS` steps, 10 at most, and
            training ends early where two in a row bring nothing better; with a deadline, what fits.
        batch_size: examples per optimizer step.
        lr: peak learning rate; None: chosen from the model's width and the number of steps.
        decay: the rate falls linearly to 0 over `examples` seen, or over the `steps` of an unfiltered run.
        max_steps: stop after this many optimizer steps; None: when the data ends.
        learners: that take part: the `ngrams` classifier, the linear `probe` on the untouched encoder, and
            the trained `encoder`. What several of them answer is combined, by weights that are fitted on
            training rows set aside for that. Without a deadline there is no probe.
        ngrams: False takes the n-grams out of `learners`.
        single: whether predictions come from the best learner alone.
        metric: what learners, passes and class weights are compared by on the rows set aside.
        class_weight: `balanced` predicts as if all classes were equally frequent: the logarithm of a class's
            share of the training rows is subtracted from its log-probability (Menon et al., ICLR 2021).
            `auto`: the strength of this correction that is best by `metric` on the rows set aside; no
            correction for accuracy.
        keep: the pass that was `best` on the evaluation rows, or the `last` one, evaluated once.
        checkpoint_s: seconds between two checkpoints; 0: only when the run is stopped; None: 60, or what
            makes them 1 % of the time.
        log_to: programs whose files the figures of the run are also written to.
        seed: of everything random.
    """

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float | None = Field(None, gt=0)
    decay: Literal["examples", "steps"] = "examples"
    max_steps: int | None = Field(None, ge=1)
    learners: tuple[Learner, ...] = LEARNERS
    ngrams: bool = True
    single: bool = False
    metric: Metric = "accuracy"
    class_weight: ClassWeight = "auto"
    keep: Literal["best", "last"] = "best"
    checkpoint_s: float | None = Field(None, ge=0)
    log_to: tuple[LogTo, ...] = ()
    seed: int = Field(0, ge=0, le=MAX_SEED)

    @property
    def fits_ngrams(self) -> bool:
        """Whether n-grams take part."""
        return self.ngrams and "ngrams" in self.learners

    @field_validator("learners", mode="before")
    @classmethod
    def _split_learners(cls, learners: object) -> object:
        """Take names in one string, with commas between them."""
        if not isinstance(learners, str | list | tuple):
            return learners
        found = _names(learners, "learner", LEARNERS)
        if not found:
            raise ValueError(f"give one or more of {', '.join(LEARNERS)}")
        return found

    @field_validator("log_to", mode="before")
    @classmethod
    def _split_log_to(cls, log_to: object) -> object:
        """Take names in one string, with commas between them, or in several."""
        return _names(log_to, "logger", get_args(LogTo)) if isinstance(log_to, str | list | tuple) else log_to


def _names(given: str | list[Any] | tuple[Any, ...], what: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Split names at commas and return each once, as `known` spells it.

    Raises:
        ValueError: there is no such name.
    """
    joined = given if isinstance(given, str) else ",".join(map(str, given))
    spelling = {name.replace("-", ""): name for name in known}
    found: dict[str, None] = {}
    for word in filter(None, (part.strip().lower() for part in joined.split(","))):
        name = spelling.get(word.replace("-", ""))
        if name is None:
            hint = did_you_mean(word, known)
            raise ValueError(f'there is no {what} "{word}".{hint} Give one or more of {", ".join(known)}')
        found[name] = None
    return tuple(found)


class BudgetSettings(Settings):
    """What a run may use; None: no limit.

    Attributes:
        deadline_s: from the start of the process to its end.
        energy_j: joules, from the start of the process.
        battery_rate: share of the battery's capacity, in (0, 1].
        memory_mb: of the process at its peak (10^6 bytes).
        watts: what the machine draws while it trains, for a machine without a sensor.
        patience: stop when so many passes in a row brought no better evaluation; None: never.
        use_earlier_runs: whether a plan for a time reckons with what earlier runs here took.
    """

    deadline_s: float | None = Field(None, gt=0)
    energy_j: float | None = Field(None, gt=0)
    battery_rate: float | None = Field(None, gt=0, le=1)
    memory_mb: float | None = Field(None, gt=0)
    watts: float | None = Field(None, gt=0)
    patience: int | None = Field(None, ge=1)
    use_earlier_runs: bool = True

    @property
    def limits_time(self) -> bool:
        """Whether the run ends by a clock and not with its data."""
        return any(limit is not None for limit in (self.deadline_s, self.energy_j, self.battery_rate))


class RunConfig(Settings):
    """One run, whole."""

    schema_version: Literal[1] = 1
    data: DataSettings
    model: ModelSettings = ModelSettings()
    selection: SelectionSettings = SelectionSettings()
    train: TrainSettings = TrainSettings()
    budget: BudgetSettings = BudgetSettings()
