"""All settings of a run: typed, with their defaults and limits; nothing here reads or writes files.

RunConfig: [data] [model] [selection] [train] [budget]
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator

from edgetune.config import choices
from edgetune.utils.errors import did_you_mean


def frozen_depth(freeze: str) -> int:
    """Return how many of the lowest layers a `--freeze` freezes: 0 for `none`, `embeddings` and `auto`."""
    return int(freeze) if freeze.isdigit() else 0


def freeze_of(depth: int) -> str:
    """Return the `--freeze` that freezes so many layers, and the embeddings below them."""
    return str(depth) if depth else "embeddings"


MAX_HOLDOUT_ROWS = 10_000
MAX_SEED = 2**32 - 1  # of numpy's and torch's generators


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SelectionSettings(Settings):
    """How examples are chosen; `edgetune.selection.SelectionSettings` adds the settings of all methods.

    Attributes:
        method: which selector.
        preset: `paper` sets what differs in Ouyang et al. 2023; docs/methods.md has the table.
    """

    method: str = "train-all"
    preset: choices.Preset = "default"
    watched: bool = Field(
        True, description="whether a filter that costs more than it saves under a deadline is switched off."
    )


def registered_methods() -> tuple[type[SelectionSettings], Mapping[str, Mapping[str, Any]]]:
    """Return the settings of all methods, and the values of each preset by its name."""
    # Plug-ins, of which this folder knows the name of the package alone.
    package = importlib.import_module("edgetune.selection")
    return package.SelectionSettings, package.PRESETS


class MethodSettings(Settings):
    """Settings of one method; they stand beside it, with a default, limits and a description.

    Methods may share a setting: then its default is the same. docs/methods.md has the table of the presets.

    Attributes:
        paper: values that the preset `paper` sets.
    """

    paper: ClassVar[Mapping[str, Any]] = {}


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
        multi_label: whether a row may have several labels, or none; None: decided from the file.
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
    multi_label: bool | None = None


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
    pooling: choices.Pooling = "auto"
    freeze: str = "auto"
    cache_mb: float | None = Field(None, ge=0)
    backend: choices.Backend = "auto"
    device: choices.Device = "cpu"
    precision: choices.Precision = "auto"
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
            the trained `encoder`; and by name, beside the n-grams, learners of `learners.texts`. What several
            of them answer is combined, by weights that are fitted on training rows set aside for that.
            Without a deadline there is a probe only on few rows.
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
    learners: tuple[choices.Learner, ...] = choices.USUAL_LEARNERS
    ngrams: bool = True
    single: bool = False
    metric: choices.Metric = "accuracy"
    class_weight: choices.ClassWeight = "auto"
    keep: Literal["best", "last"] = "best"
    checkpoint_s: float | None = Field(None, ge=0)
    log_to: tuple[choices.LogTo, ...] = ()
    seed: int = Field(0, ge=0, le=MAX_SEED)

    @property
    def fits_ngrams(self) -> bool:
        """Whether n-grams take part."""
        return self.ngrams and "ngrams" in self.learners

    @property
    def text_learners(self) -> tuple[str, ...]:
        """Names of the learners that are fitted on texts beside the n-grams."""
        return tuple(name for name in self.learners if name in choices.TEXT_LEARNERS)

    @field_validator("learners", "log_to", mode="before")
    @classmethod
    def _split_names(cls, given: object, info: ValidationInfo) -> object:
        """Take names in one string, with commas between them, or in several; keep each one once."""
        if not isinstance(given, str | list | tuple):
            return given
        is_learner = info.field_name == "learners"
        what, known = ("learner", choices.LEARNERS) if is_learner else ("logger", get_args(choices.LogTo))
        joined = given if isinstance(given, str) else ",".join(map(str, given))
        spelling = {name.replace("-", ""): name for name in known}
        found: dict[str, None] = {}
        for word in filter(None, (part.strip().lower() for part in joined.split(","))):
            name = spelling.get(word.replace("-", ""))
            if name is None:
                hint = did_you_mean(word, known)
                raise ValueError(f'there is no {what} "{word}".{hint} Give one or more of {", ".join(known)}')
            found[name] = None
        if is_learner and not found:
            raise ValueError(f"give one or more of {', '.join(known)}")
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

    @property
    def limit_s(self) -> float:
        """The deadline; infinite where there is none, though there may be a limit of energy."""
        return math.inf if self.deadline_s is None else self.deadline_s


class RunConfig(Settings):
    """One run, whole."""

    schema_version: Literal[1] = 1
    data: DataSettings
    model: ModelSettings = ModelSettings()
    selection: SerializeAsAny[SelectionSettings] = SelectionSettings()
    train: TrainSettings = TrainSettings()
    budget: BudgetSettings = BudgetSettings()

    def changed(self, **sections: Mapping[str, Any]) -> RunConfig:
        """Return the settings with other values in some sections, such as `changed(model={"threads": 2})`."""
        update = {name: getattr(self, name).model_copy(update=values) for name, values in sections.items()}
        return self.model_copy(update=update)
