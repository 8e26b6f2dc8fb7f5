"""What the planner reads and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from edgetune.devices.cost_function import CostFunction
from edgetune.devices.device_profile import FixedCosts, Memory, Operation
from edgetune.utils.types import IntArray


@dataclass(frozen=True)
class BackendCosts:
    """One backend at one precision, on this machine.

    Attributes:
        key: such as `torch-bf16`; `backend` and `precision` are the settings it stands for.
        threads: threads of one operation; None leaves it to the runtime.
        available: why it cannot be used; "" if it can.
        scale: multiple of the profiled time, which `cost` includes.
        trains: whether it can train; otherwise it fits a linear probe.
        imports_early: whether a run imports its runtime while it starts.
        most_tokens: tokens, with padding, that a train step sends through the model at once; None: all.
    """

    key: str
    backend: str
    precision: str
    threads: int | None
    fixed: FixedCosts
    memory: Memory
    cost: CostFunction
    available: str = ""
    scale: float = 1.0
    trains: bool = True
    imports_early: bool = False
    most_tokens: int | None = None


@dataclass(frozen=True)
class DeviceCosts:
    """A machine as the planner sees it: a profile, fitted to a model.

    Attributes:
        note: how well the profile fits this machine and model, in a sentence; "" if it fits.
        foreign: whether it was measured on another kind of processor.
        uncertainty: relative half-width of the 95 % interval of predicted training time.
        depths: how many layers can be frozen.
        busy_w: watts while training, and `power_source` says where they come from.
        speeds_key: key of earlier runs on this machine (`planning.device_costs`).
        speeds_note: how they correct the profile, in a sentence; "" if they do not.
    """

    name: str
    note: str
    foreign: bool
    uncertainty: float
    n_layers: int
    hidden_size: int
    start_s: float
    report_s: float
    exit_s: float
    depths: tuple[int, ...]
    busy_w: float
    power_source: str
    backends: tuple[BackendCosts, ...]
    speeds_key: str = ""
    speeds_note: str = ""

    @property
    def pools_mean(self) -> bool:
        """Whether the head reads the mean of all tokens, which a backend that does not train requires."""
        return any(not costs.trains for costs in self.backends)


REFIT_LEFT_RATE = 0.4
"""Share of the time left that the second fit of the n-grams may take."""


@dataclass(frozen=True)
class FittedNgrams:
    """Seconds that the n-grams took on the training rows, and that a second fit on all rows will take."""

    took_s: float
    again_s: float

    def again_within_s(self, left_s: float) -> float:
        """Return the seconds to reserve for the second fit, of those left for it and the encoder.

        None are reserved if the encoder would lose too much, since a fit for which the time is too short is
        not begun.
        """
        return self.again_s if self.again_s < REFIT_LEFT_RATE * left_s else 0.0


MOST_UNKNOWN = 0.2
"""With a larger share of unknown tokens, neither more rows nor training help the encoder. Chinese texts have
39 % with the built-in model, and an encoder trained for minutes gets no weight beside n-grams."""


@dataclass(frozen=True)
class DataLengths:
    """What the planner has to know about the data.

    Attributes:
        lengths: (n,) tokens of every training row, up to the longest limit.
        eval_lengths: (m,) the same of evaluation rows.
        max_length: the limit they were cut to.
        can_cut: whether rows may be cut to fewer tokens without reading them again.
        n_held_out: rows set aside for the weights of an ensemble; 0: the encoder is the only learner.
        pair: whether rows are pairs of texts.
        ngrams: what the n-grams took, if they are fitted already; None before.
        unknown_rate: share of the tokens that the encoder's vocabulary has no entry for.
    """

    lengths: IntArray
    eval_lengths: IntArray
    max_length: int
    can_cut: bool = True
    n_held_out: int = 0
    n_classes: int = 2
    pair: bool = False
    ngrams: FittedNgrams | None = None
    unknown_rate: float = 0.0

    @property
    def is_foreign(self) -> bool:
        """Whether the texts are in a language that the encoder cannot read, and n-grams take part."""
        return self.n_held_out > 0 and self.unknown_rate > MOST_UNKNOWN

    @cached_property
    def in_order(self) -> tuple[IntArray, IntArray]:
        """(n,) and (m,) lengths, the shortest first."""
        return np.sort(self.lengths), np.sort(self.eval_lengths)


@dataclass(frozen=True)
class Limits:
    """The budget of a whole process (None: no limit), and what it had used before planning."""

    deadline_s: float | None
    energy_j: float | None = None
    memory_mb: float | None = None
    already_s: float = 0.0
    already_j: float = 0.0


@dataclass(frozen=True)
class Constraints:
    """What the user fixed; None: the planner decides.

    Attributes:
        depth: frozen layers.
        max_length: tokens per row at most.
        passes: largest number of passes over the rows; `max_steps`, of optimizer steps.
        usual_passes: the same if the user did not fix it; None: ten.
        cache_mb: largest cache for hidden states of the frozen layers.
        method: how examples are chosen.
        trains, probes: whether the encoder may be trained, and whether a linear probe may be fitted.
        exported: returns whether a backend at a depth needs no export, given (key, depth).
    """

    backend: str | None = None
    precision: str | None = None
    depth: int | None = None
    max_length: int | None = None
    batch_size: int | None = None
    passes: int | None = None
    usual_passes: int | None = None
    max_steps: int | None = None
    cache_mb: float | None = None
    method: str = "train-all"
    trains: bool = True
    probes: bool = True
    exported: Callable[[str, int], bool] = lambda key, depth: True

    @property
    def of_training(self) -> bool:
        """Whether the user fixed something that only a trained encoder has."""
        fixed = (self.depth, self.passes, self.max_steps, self.cache_mb)
        return any(choice is not None for choice in fixed) or self.method != "train-all"


LINEAR_PROBE, NGRAMS_ALONE = "linear-probe", "n-grams"
"""Methods of plans that do not train the encoder."""


@dataclass(frozen=True)
class Plan:
    """One way to spend a budget.

    Attributes:
        key, backend, precision, threads: what trains.
        depth: frozen layers below the cut.
        cache_mb: size of the cache for their hidden states; 0: none.
        max_length: tokens per row at most.
        batch_size: examples per optimizer step.
        method: how examples are chosen; `LINEAR_PROBE` or `NGRAMS_ALONE` if the encoder is not trained.
        n_rows: examples trained, over all passes, with the 95 % interval `rows_interval`.
        n_probe_rows: rows whose features fit the first head, at `probe_row_s` seconds each, and at
            `read_again_row_s` if that is repeated after training.
        grows: whether the linear probe may read more rows than that while it gains.
        n_eval: rows evaluated.
        n_weighed: held-out rows that the encoder is scored on for its weight.
        lines: planned seconds by what they are spent on, in order; `total_s` is their sum.
        refit_s: seconds of the line `ensemble` for a second fit of the n-grams; 0: there is none.
        memory_mb: predicted peak.
        expected_points: expected accuracy lost against unlimited training, in points (negative; 0 is best).
        scale: multiple of the profiled time by which `lines` are priced (`BackendCosts.scale`).
    """

    key: str
    backend: str = ""
    precision: str = "fp32"
    threads: int | None = None
    depth: int = 0
    cache_mb: float = 0.0
    max_length: int = 0
    batch_size: int = 0
    method: str = "train-all"
    n_rows: int = 0
    rows_interval: tuple[int, int] = (0, 0)
    passes: float = 0.0
    n_steps: int = 0
    n_probe_rows: int = 0
    n_eval: int = 0
    lines: dict[str, float] = field(default_factory=dict)
    total_s: float = 0.0
    memory_mb: float = 0.0
    energy_j: float = 0.0
    expected_points: float = 0.0
    scale: float = 1.0
    n_weighed: int = 0
    probe_row_s: float = 0.0
    read_again_row_s: float = 0.0
    refit_s: float = 0.0
    grows: bool = True

    @property
    def trains(self) -> bool:
        """Whether the encoder is trained."""
        return self.method not in (LINEAR_PROBE, NGRAMS_ALONE)

    def reads_all(self, n_train: int) -> bool:
        """Return whether the first head is fitted on all of so many training rows."""
        return self.n_probe_rows >= n_train

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Plan:
        """Return the plan of which `to_dict` was made, also after a round trip through JSON."""
        return cls(**(found | {"rows_interval": tuple(found["rows_interval"])}))


@dataclass(frozen=True)
class Plans:
    """Plans, best first, and why.

    Attributes:
        ranked: at least one.
        device: that they were made for.
        deadline_s: seconds that the plans fill; from the deadline or the energy.
        refused: (what, why) of candidates that are not possible.
        reasons: why the first plan was chosen, one sentence each.
    """

    ranked: tuple[Plan, ...]
    device: DeviceCosts = field(compare=False)
    deadline_s: float
    refused: tuple[tuple[str, str], ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def best(self) -> Plan:
        """The plan that is followed."""
        return self.ranked[0]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "plans": [plan.to_dict() for plan in self.ranked],
            "reasons": list(self.reasons),
            "refused": [list(item) for item in self.refused],
            "deadline_s": self.deadline_s if self.deadline_s != float("inf") else None,
            "profile": self.device.name,
        }

    def costs(self, plan: Plan) -> BackendCosts:
        """Return what a plan's backend costs."""
        return next(item for item in self.device.backends if item.key == plan.key)

    def step_cost(self, plan: Plan, n_train: int) -> Callable[[str, int, int], float]:
        """Return predicted seconds of (`score` or `train`, rows, padded tokens of each).

        The frozen layers are included, unless a probe reads all `n_train` rows before training: their output
        is in the cache then.
        """
        price, depth = self.costs(plan).cost.seconds, plan.depth
        is_cached = plan.cache_mb > 0 and plan.reads_all(n_train)

        def cost(operation: str, n_rows: int, width: int) -> float:
            op: Operation = "score" if operation == "score" else "train"
            runs_prefix = depth and not (is_cached and op == "train")
            prefix_s = price("prefix", n_rows, width, depth) if runs_prefix else 0.0
            return prefix_s + price(op, n_rows, width, depth)

        return cost

    def own_score_rate(self, plan: Plan) -> float:
        """Return the share of the cost of scoring a new row that is spent above the frozen layers."""
        price, depth = self.costs(plan).cost.seconds, plan.depth
        own_s = price("score", plan.batch_size, 32, depth)  # at a usual width
        return own_s / (own_s + price("prefix", plan.batch_size, 32, depth)) if depth else 1.0
