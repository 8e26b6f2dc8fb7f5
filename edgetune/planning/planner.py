"""Measured costs + the data's shape + a budget → ranked plans.

Fixed costs and the end of the run are reserved first; the rest of the time is spent on rows. Costs are never
derived by multiplying factors: every candidate is priced from operations measured (or fitted) at its own
depth and width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgetune.planning.candidate import (
    Candidate,
    ProbeKind,
    points_lost,
    probe_points_lost,
    tuned_points_lost,
)
from edgetune.planning.clock import MARGIN_RATE, SAVE_CAUTION, margin_s
from edgetune.planning.explanation import explain
from edgetune.planning.plan import (
    LINEAR_PROBE,
    NGRAMS_ALONE,
    Constraints,
    DataLengths,
    DeviceCosts,
    Limits,
    Plan,
    Plans,
)
from edgetune.selection import FILTERS
from edgetune.utils.errors import BudgetError
from edgetune.utils.formatting import duration

LIMITS = (128, 96, 64, 48, 32)
BATCHES = (32, 16, 8)
EVALUATION_RATE = 0.08
FEWEST_EVALUATED, LEAST_EVALUATION_S = 200, 0.5
FLOOR_RATE = 0.05
PROBE_ROWS, MOST_PROBE_ROWS = (64, 512), 4096
READ_ALL_RATE, MOST_READ, MOST_READ_PER_CLASS = 0.25, 2000, 100
"""Before training, a probe on the mean of single texts reads all rows if that takes at most this share of a
deadline, and there are not more rows than this, in all or in the mean of the classes."""
FIT_PROBE_S = 0.3
FIRST_FIT_RATE = 0.02
"""Share of a deadline for the first fit of a linear probe and for a fit of the trained encoder's head."""
MOST_FIT_S = 10.0
"""Such a fit is never planned with more seconds than this."""
READ_AGAIN_CAUTION = 1.25
"""Factor on the time of reading all rows again, which is not begun if it might not end in time."""
NGRAMS_S, NGRAMS_TOKEN_S = 0.5, 4e-6
"""Seconds of fitting n-grams, and seconds per token of the training rows."""
NGRAMS_RATE, PAIRS_RATE = 0.25, 0.5
"""Largest share of a deadline for a fit of n-grams; pairs of texts have several times as many n-grams, and an
encoder learns little about pairs in the first minute."""
PROBE_NGRAMS_RATE = 0.35
"""The same if only a linear probe follows: on 150 intents in 20 s, n-grams that were cut to half of their
time lost six points, and the probe of 700 rows won three."""
CLASS_ROW_S, CLASS_TOKEN_S = 1.5e-6, 1.2e-7
"""With more than two classes: solver seconds per class and row, and per class and token, of all passes."""
REFIT_RATE = 0.04
"""N-grams are fitted again on all rows only if at least this share of them was held out."""
ENSEMBLE_RATE, FEWEST_WEIGHED = 0.05, 100
"""Share of a deadline for scoring held-out rows, and how many are scored at least."""
RISK_RATE = 0.4
END_STEPS = 20
"""Plans that end in the same twentieth of the deadline end at about the same time."""
MOST_PASSES, FEWEST_STEPS = 10, 300
DEFAULT_CACHE_MB = 1000.0
ROWS_PER_CLASS = 5
"""A linear probe is planned only if it sees this many rows per class on average."""
EXIT_RATE = 0.4
"""Share of the exit's time if PyTorch was not imported: 0.8 of 2.4 s were measured."""
PROBE_SAVE_CAUTION = 1.7
"""Like `SAVE_CAUTION`, for a save that only copies files."""
TRAINED_PER_CLASS = 30
"""Training on fewer rows of each class is ranked after a probe of the encoder's mean features, whatever its
expected loss, which does not depend on the number of classes (CLINC150 with 150 classes in 60 s: 81 % by
training on 2,200 rows, 94 % by a probe)."""
NO_NGRAMS = (
    "N-grams alone need a --deadline of a few seconds more than the start takes, no --memory limit, and rows "
    "enough to set some aside; change that, or add the probe or the encoder to --learners."
)
LEAST_NGRAMS_S, NGRAMS_FILES_S = 1.5, 0.2
"""N-grams alone: seconds of the first fit, with the import of scikit-learn, and of writing files, twice."""

Lines = dict[str, float]
"""Seconds by what they are spent on, in order."""


def make_plans(device: DeviceCosts, data: DataLengths, limits: Limits, constraints: Constraints) -> Plans:
    """Rank every way to spend the budget.

    Raises:
        BudgetError: none fits; the message has the fixed costs and the smallest deadline that would do.
    """
    deadline_s = _deadline_s(device, limits)
    if not constraints.trains and not constraints.probes:
        alone = ngrams_plan(device, data, limits, deadline_s)
        if alone is None:
            raise BudgetError(NO_NGRAMS)
        return Plans((alone,), device, deadline_s, reasons=("No other learner takes part (--learners).",))
    refused = [(costs.key, costs.available) for costs in device.backends if costs.available]
    plans: list[Plan] = []
    least: list[tuple[float, Plan]] = []
    for candidate in _candidates(device, data, constraints):
        if limits.memory_mb is not None and candidate.memory_mb > limits.memory_mb:
            refused.append((candidate.describe(), f"needs {candidate.memory_mb:,.0f} MB of memory"))
        elif found := plan_one(candidate, deadline_s, limits, constraints):
            least.append((_smallest_s(candidate, limits), found[0]))
            plans += [plan for plan in found if plan.n_rows > 0 and not _too_tight(plan, deadline_s)]
    forward_only = {costs.key for costs in device.backends if not costs.trains}
    many_classes = data.n_classes > 2 and any(plan.key in forward_only for plan in plans)
    fewest = TRAINED_PER_CLASS * data.n_classes if many_classes else 0
    # Of plans that promise the same, the usual batch size, then the one that ends first; of those that end at
    # about the same time, the one that trains on more rows.
    plans.sort(
        key=lambda plan: (
            plan.trains and plan.n_rows < fewest and not plan.reads_all(len(data.lengths)),
            -round(plan.expected_points, 2),
            -plan.batch_size,
            int(END_STEPS * plan.total_s / deadline_s),
            -plan.n_rows,
            plan.total_s,
        )
    )
    if constraints.of_training and any(plan.trains for plan in plans):
        trainers = {costs.key for costs in device.backends if costs.trains}
        plans = [plan for plan in plans if plan.key in trainers]
    ranked = Plans(tuple(plans), device, deadline_s, tuple(refused))
    n_needed = min(ROWS_PER_CLASS * data.n_classes, len(data.lengths))
    is_enough = bool(plans) and (plans[0].method != LINEAR_PROBE or plans[0].n_rows >= n_needed)
    alone = ngrams_plan(device, data, limits, deadline_s) if least and not is_enough else None
    if alone is None and plans:
        return replace(ranked, reasons=tuple(explain(ranked, data, constraints)))
    refusal = _impossible(device, data, deadline_s, limits, refused, least)
    if alone is None:
        raise refusal
    needed_s = math.ceil(min(needed_s for needed_s, _ in least))
    shortest = f"For an encoder, the shortest feasible deadline is about {duration(needed_s)}."
    if plans:
        too_few = f"A linear probe would see only {plans[0].n_rows:,} rows of {data.n_classes:,} classes."
        reasons = [f"{too_few} {shortest}"]
    else:  # which says it in joules where energy is the limit
        reasons = [str(refusal)] if limits.energy_j is not None else [shortest, str(refusal)]
    return replace(ranked, ranked=(alone, *plans), reasons=tuple(reasons))


def _deadline_s(device: DeviceCosts, limits: Limits) -> float:
    deadline_s = math.inf if limits.deadline_s is None else limits.deadline_s
    if limits.energy_j is not None:
        left_j = limits.energy_j - limits.already_j
        deadline_s = min(deadline_s, limits.already_s + max(0.0, left_j) / device.busy_w)
    return deadline_s


def _candidates(device: DeviceCosts, data: DataLengths, constraints: Constraints) -> Iterator[Candidate]:
    longest = int(data.lengths.max(initial=1))
    limits = [data.max_length] if constraints.max_length is None else [constraints.max_length]
    if constraints.max_length is None and data.can_cut:
        limits += [limit for limit in LIMITS if limit < min(longest, data.max_length)]
    depths = device.depths if constraints.depth is None else (constraints.depth,)
    batches = BATCHES if constraints.batch_size is None else (constraints.batch_size,)
    scores = constraints.method in FILTERS
    for costs in device.backends:
        if costs.available or constraints.backend not in (None, costs.backend):
            continue
        if constraints.precision not in (None, costs.precision):
            continue
        for depth in depths if costs.trains else (0,):
            exported = constraints.exported(costs.key, depth)
            for limit in limits:
                for batch in batches if costs.trains else batches[:1]:
                    yield Candidate(device, data, costs, depth, limit, batch, exported, scores)


def _too_tight(plan: Plan, deadline_s: float) -> bool:
    """Return whether a plan does not fit, or only if nothing takes longer than planned."""
    elastic_s = sum(plan.lines.get(name, 0.0) for name in ("train", "evaluate", "linear_probe"))
    spare_s = deadline_s - plan.total_s
    return spare_s < 0 or elastic_s + spare_s < _risk_s(plan.lines)


def _risk_s(lines: Lines) -> float:
    """Return how much fixed costs may exceed the plan; training and evaluation must be able to absorb it."""
    return RISK_RATE * sum(lines[name] for name in ("export", "open", "save", "report", "exit"))


def _before(candidate: Candidate, limits: Limits) -> Lines:
    """Return the costs before training."""
    device, fixed = candidate.device, candidate.costs.fixed
    open_s, ngrams = fixed.open_at(candidate.depth), candidate.data.ngrams
    if not candidate.costs.imports_early or not limits.already_s:
        open_s += fixed.import_s
    export_s = 0.0 if candidate.exported else fixed.export_s
    start_s = (limits.already_s or device.start_s) - (0.0 if ngrams is None else ngrams.took_s)
    return {"start": start_s, "export": export_s, "open": open_s}


def _after(candidate: Candidate, deadline_s: float, n_eval: int, tight: bool = False) -> Lines:
    """Return the time reserved for the end; if time is tight, n-grams are not fitted again."""
    device, costs = candidate.device, candidate.costs
    ensemble_s, n_rows = _refit_s(candidate, deadline_s, tight), _n_weighed(candidate, deadline_s)
    if n_rows:
        weighed_s = n_rows * candidate.evaluate_row_s
        if costs.trains:
            # The model is opened again if the linear probe turns out to be better than the trained encoder.
            ensemble_s += weighed_s + costs.fixed.open_at(candidate.depth)
        else:  # a probe was scored when it was fitted; it is fitted again on the held-out rows too
            ensemble_s += min(weighed_s, FIRST_FIT_RATE * deadline_s)
    return {
        "save": (SAVE_CAUTION if costs.trains else PROBE_SAVE_CAUTION) * costs.fixed.save_s,
        "ensemble": ensemble_s,
        "evaluate": max(LEAST_EVALUATION_S, n_eval * candidate.evaluate_row_s),
        "report": device.report_s if costs.trains else NGRAMS_FILES_S,  # without a picture of the training
        "exit": device.exit_s if costs.trains else EXIT_RATE * device.exit_s,
        "margin": margin_s(deadline_s) if math.isfinite(deadline_s) else 0.0,
    }


def _n_paid(n_all: int, row_s: float, seconds: float, fewest: int) -> int:
    """Return how many rows are scored: all, or as many as fit into a share of the deadline."""
    if not math.isfinite(seconds) or row_s <= 0:
        return n_all
    return min(n_all, max(int(seconds / row_s), fewest))


def _n_weighed(candidate: Candidate, deadline_s: float) -> int:
    """Return how many held-out rows the encoder is scored on for its weight."""
    paid_s, row_s = ENSEMBLE_RATE * deadline_s, candidate.evaluate_row_s
    return _n_paid(candidate.data.n_held_out, row_s, paid_s, FEWEST_WEIGHED)


def _linear_probe_s(candidate: Candidate, n_rows: int, deadline_s: float, saved: bool) -> float:
    """Return what the linear probe costs: features, also of held-out rows, the fit, and a save.

    It is saved at once, as the first usable model, if training follows.
    """
    if not n_rows:
        return 0.0
    weighed_s = _n_weighed(candidate, deadline_s) * candidate.evaluate_row_s
    save_s = candidate.costs.fixed.save_model_s if saved else 0.0
    return n_rows * candidate.probe_row_s + weighed_s + FIT_PROBE_S + save_s


def _ngrams_s(data: DataLengths, deadline_s: float, trains: bool) -> float:
    """Return the planned seconds of fitting n-grams; the fit itself watches the time."""
    if not data.n_held_out:
        return 0.0
    return min(_whole_ngrams_s(data), ngrams_rate(data.pair, trains) * deadline_s)


def _refit_s(candidate: Candidate, deadline_s: float, tight: bool) -> float:
    """Return the planned seconds of fitting the n-grams a second time, on the held-out rows too."""
    data = candidate.data
    if tight or not data.n_held_out or not refit_pays(len(data.lengths), data.n_held_out):
        return 0.0
    if data.ngrams is not None:
        return data.ngrams.again_s
    return _ngrams_s(data, deadline_s, candidate.costs.trains)


def ngrams_rate(pair: bool, trains: bool) -> float:
    """Return the share of a deadline that a fit of n-grams takes at most."""
    return PAIRS_RATE if pair else NGRAMS_RATE if trains else PROBE_NGRAMS_RATE


def _whole_ngrams_s(data: DataLengths) -> float:
    """Return the seconds of fitting n-grams on all rows."""
    n_tokens, n_scores = float(data.lengths.sum()), data.n_classes if data.n_classes > 2 else 1
    solver_s = n_scores * (CLASS_ROW_S * len(data.lengths) + CLASS_TOKEN_S * n_tokens)
    return NGRAMS_S + NGRAMS_TOKEN_S * n_tokens + solver_s


def refit_pays(n_train: int, n_held_out: int) -> bool:
    """Return whether the held-out rows are enough of all rows for n-grams to be fitted again on both."""
    return n_held_out >= REFIT_RATE * (n_train + n_held_out)


def ngrams_plan(device: DeviceCosts, data: DataLengths, limits: Limits, deadline_s: float) -> Plan | None:
    """Return the plan of a run that has no time for an encoder; None if there is none for n-grams either.

    The memory that n-grams take is not known, so there is no such plan with a limit on memory.
    """
    if not data.n_held_out or limits.memory_mb is not None or not math.isfinite(deadline_s):
        return None
    start_s, after = limits.already_s or device.start_s, _after_ngrams(device, deadline_s)
    left_s = deadline_s - start_s - sum(after.values())
    if left_s < LEAST_NGRAMS_S:
        return None
    refits = refit_pays(len(data.lengths), data.n_held_out)
    whole_s = LEAST_NGRAMS_S + _whole_ngrams_s(data)
    first_s = min(whole_s, max(LEAST_NGRAMS_S, left_s / 2 if refits else left_s))
    after["ensemble"] = min(first_s, left_s - first_s) if refits else 0.0
    lines = {"start": start_s, "ngrams": first_s} | after
    total_s = sum(lines.values())
    return Plan(
        key=NGRAMS_ALONE,
        method=NGRAMS_ALONE,
        max_length=data.max_length,
        n_eval=len(data.eval_lengths),
        lines=lines,
        total_s=total_s,
        energy_j=total_s * device.busy_w,
        expected_points=-100.0,  # there is no encoder
    )


def _after_ngrams(device: DeviceCosts, deadline_s: float) -> Lines:
    """Return the time reserved for the end if only n-grams are fitted."""
    return {
        "save": NGRAMS_FILES_S,
        "ensemble": 0.0,
        "evaluate": LEAST_EVALUATION_S,
        "report": NGRAMS_FILES_S,
        "exit": EXIT_RATE * device.exit_s,
        "margin": margin_s(deadline_s),
    }


def _smallest_s(candidate: Candidate, limits: Limits) -> float:
    """Return the shortest deadline within which this candidate leaves a model that was trained at all."""
    data, n_train = candidate.data, len(candidate.data.lengths)
    of_classes = ROWS_PER_CLASS * data.n_classes if data.n_held_out else 0
    n_probe_rows = min(n_train, max(PROBE_ROWS[0], of_classes))
    lines = _before(candidate, limits)
    lines |= _after(candidate, 0.0, min(len(data.eval_lengths), FEWEST_EVALUATED))
    needed_s = sum(lines.values()) + _linear_probe_s(candidate, n_probe_rows, 0.0, saved=True)
    needed_s += max(0.0, _risk_s(lines) - lines["evaluate"])
    if not data.n_held_out:
        return needed_s / (1 - MARGIN_RATE)
    # N-grams are fitted once or twice, each time within a share of the deadline, or sooner.
    rest = 1 - MARGIN_RATE - 2 * ENSEMBLE_RATE  # the linear probe is scored on held-out rows, too
    n_fits = 2 if refit_pays(n_train, data.n_held_out) else 1
    whole_s = needed_s + n_fits * _whole_ngrams_s(data)
    left_rate = rest - n_fits * ngrams_rate(data.pair, candidate.costs.trains)
    return whole_s / rest if left_rate <= 0 else min(whole_s / rest, needed_s / left_rate)


@dataclass(frozen=True)
class _Reading:
    """What a plan reads besides the rows that it trains on."""

    tight: bool  # as little as possible; n-grams get half of their time before training, and no second fit
    n_eval: int
    n_probe_rows: int
    reads_all: bool  # the probe reads all rows, and the head is fitted on them again after training
    cache_mb: float  # for the hidden states of the frozen layers
    kept: float  # share of the rows that the cache has room for
    again_row_s: float  # of computing the features of a row that was read before


def _reading(
    candidate: Candidate, deadline_s: float, limits: Limits, constraints: Constraints, tight: bool
) -> _Reading:
    """Return what a plan reads, with as much as pays or, if time is tight, as little as possible."""
    data, n_distinct, n_probe_rows = candidate.data, len(candidate.data.lengths), 0
    n_eval = _n_paid(
        len(data.eval_lengths), candidate.evaluate_row_s, EVALUATION_RATE * deadline_s, FEWEST_EVALUATED
    )
    may_read_all = candidate.device.pools_mean and not data.pair
    if constraints.probes and math.isfinite(deadline_s):
        paid = int(FLOOR_RATE * deadline_s / max(candidate.probe_row_s, 1e-9))
        n_probe_rows = min(n_distinct, max(PROBE_ROWS[0], min(PROBE_ROWS[1], paid)))
        read_s = n_distinct * candidate.probe_row_s
        few = n_distinct <= most_read(data.n_classes)
        if may_read_all and few and read_s <= READ_ALL_RATE * deadline_s:
            n_probe_rows = n_distinct
    if tight:
        n_eval, n_probe_rows = min(n_eval, FEWEST_EVALUATED), min(n_probe_rows, PROBE_ROWS[0])
    reads_all = may_read_all and n_probe_rows == n_distinct
    cache_mb, kept = 0.0, 0.0
    if reads_all or most_passes(constraints) > 1 or constraints.method in FILTERS:
        n_cached = n_distinct + (data.n_held_out if reads_all else 0)
        cache_mb, kept = _cache(candidate, limits, constraints, n_cached)
    again_row_s = kept * candidate.cached_probe_row_s + (1 - kept) * candidate.probe_row_s
    return _Reading(tight, n_eval, n_probe_rows, reads_all, cache_mb, kept, again_row_s)


def most_read(n_classes: int) -> int:
    """Return up to how many training rows a probe on single texts reads all of them before training."""
    return max(MOST_READ, MOST_READ_PER_CLASS * n_classes)


def _spend(
    candidate: Candidate, reading: _Reading, deadline_s: float, limits: Limits
) -> tuple[Lines, Lines, float]:
    """Return the costs before training and after it, and the seconds in between."""
    data, trains = candidate.data, candidate.costs.trains
    before = _before(candidate, limits)
    after = _after(candidate, deadline_s, reading.n_eval, reading.tight)
    if data.ngrams is None:
        before["ngrams"] = _ngrams_s(data, deadline_s, trains) * (0.5 if reading.tight and trains else 1)
    else:
        before["ngrams"] = data.ngrams.took_s
    before["linear_probe"] = _linear_probe_s(candidate, reading.n_probe_rows, deadline_s, saved=True)
    if reading.reads_all and trains and data.n_held_out:
        n_again = len(data.lengths) + _n_weighed(candidate, deadline_s)
        read_s = READ_AGAIN_CAUTION * n_again * reading.again_row_s
        after["ensemble"] += read_s + min(FIRST_FIT_RATE * deadline_s, MOST_FIT_S)
    return before, after, deadline_s - sum(before.values()) - sum(after.values())


def _rows_in(left_s: float, n_distinct: int, n_most: int, first_s: float, again_s: float) -> int:
    """Return how many rows can be trained on, given the seconds of a row the first time and later."""
    if not math.isfinite(left_s):
        return n_most
    first_pass_s = n_distinct * first_s
    if left_s <= first_pass_s:
        return min(n_most, max(0, int(left_s / max(first_s, 1e-9))))
    return min(n_most, n_distinct + int((left_s - first_pass_s) / max(again_s, 1e-9)))


def plan_one(candidate: Candidate, deadline_s: float, limits: Limits, constraints: Constraints) -> list[Plan]:
    """Return the plans of a candidate for a budget: training the encoder, and fitting a linear probe."""
    data, costs, n_distinct = candidate.data, candidate.costs, len(candidate.data.lengths)
    uncertain, frozen = 1 + candidate.device.uncertainty, candidate.depth / candidate.device.n_layers
    reading = _reading(candidate, deadline_s, limits, constraints, tight=False)
    before, after, left_s = _spend(candidate, reading, deadline_s, limits)
    if left_s < _risk_s(before | after):  # with the fewest evaluation and probe rows, it may fit
        reading = _reading(candidate, deadline_s, limits, constraints, tight=True)
        before, after, left_s = _spend(candidate, reading, deadline_s, limits)
    n_most = most_passes(constraints) * n_distinct
    if constraints.max_steps is not None:
        n_most = min(n_most, constraints.max_steps * candidate.batch_size)
    again_s = reading.kept * candidate.again_row_s + (1 - reading.kept) * candidate.train_row_s
    # The hidden states of rows that a probe has read are cached before the first pass.
    first_s = again_s if reading.reads_all else candidate.train_row_s
    n_rows, low, high = (
        _rows_in(seconds, n_distinct, n_most, first_s, again_s)
        for seconds in (left_s, left_s / uncertain, left_s * uncertain)
    )
    n_again = max(0, n_rows - n_distinct)
    revisits = n_again or constraints.method in FILTERS or reading.reads_all
    cache_mb = reading.cache_mb if revisits else 0.0
    lines = before | {"train": (n_rows - n_again) * first_s + n_again * again_s} | after
    lost = points_lost(n_rows, n_distinct, frozen, candidate.cut_share, data.pair)
    if reading.reads_all:
        lost = min(lost, tuned_points_lost(n_rows, n_distinct, frozen, candidate.cut_share))
    trained = Plan(
        key=costs.key,
        backend=costs.backend,
        precision=costs.precision,
        threads=costs.threads,
        depth=candidate.depth,
        cache_mb=cache_mb,
        max_length=candidate.max_length,
        batch_size=candidate.batch_size,
        method=constraints.method,
        n_rows=n_rows,
        rows_interval=(low, high),
        passes=n_rows / n_distinct if n_distinct else 0.0,
        n_steps=math.ceil(n_rows / candidate.batch_size),
        n_probe_rows=reading.n_probe_rows,
        n_eval=reading.n_eval,
        n_weighed=_n_weighed(candidate, deadline_s),
        probe_row_s=candidate.probe_row_s,
        read_again_row_s=reading.again_row_s,
        refit_s=_refit_s(candidate, deadline_s, reading.tight),
        lines=lines,
        total_s=sum(lines.values()),
        memory_mb=candidate.memory_mb + cache_mb,
        energy_j=sum(lines.values()) * candidate.device.busy_w,
        expected_points=-lost,
        scale=costs.scale,
    )
    may_read_little = constraints.probes and not constraints.of_training and math.isfinite(deadline_s)
    reads_little = data.is_foreign and may_read_little
    found = [trained] if costs.trains and constraints.trains and not reads_little else []
    if reading.n_probe_rows and (candidate.depth == 0 or constraints.depth is not None):
        n_more = int(max(0.0, left_s) / max(candidate.probe_row_s, 1e-9))
        most = max(PROBE_ROWS[1], ROWS_PER_CLASS * data.n_classes) if reads_little else MOST_PROBE_ROWS
        n_head = min(n_distinct, reading.n_probe_rows + n_more, most)
        lines = before | {"linear_probe": _linear_probe_s(candidate, n_head, deadline_s, saved=False)} | after
        # Features of the backend that does not train are means; those of the others may be of one token.
        kind: ProbeKind = "first token" if costs.trains else "apart" if data.pair else "mean"
        probe = replace(
            trained,
            method=LINEAR_PROBE,
            cache_mb=0.0,
            n_rows=n_head,
            rows_interval=(n_head, n_head),
            passes=n_head / n_distinct,
            n_steps=0,
            n_probe_rows=n_head,
            grows=not reads_little,
            lines=lines,
            total_s=sum(lines.values()),
            memory_mb=candidate.memory_mb,
            energy_j=sum(lines.values()) * candidate.device.busy_w,
            expected_points=-probe_points_lost(n_head, candidate.cut_share, kind),
        )
        found.append(probe)
    return found


def most_passes(constraints: Constraints) -> int:
    """Return the largest number of passes over the rows."""
    return constraints.passes or constraints.usual_passes or MOST_PASSES


def _cache(
    candidate: Candidate, limits: Limits, constraints: Constraints, n_rows: int
) -> tuple[float, float]:
    """Return the megabytes of the hidden states of `n_rows` rows that are kept, and which share of them."""
    needed_mb = candidate.cache_needed_mb * n_rows / max(1, len(candidate.data.lengths))
    if needed_mb <= 0:
        return 0.0, 0.0
    allowed_mb = DEFAULT_CACHE_MB if constraints.cache_mb is None else constraints.cache_mb
    if limits.memory_mb is not None:
        allowed_mb = min(allowed_mb, limits.memory_mb - candidate.memory_mb)
    kept_mb = max(0.0, min(needed_mb, allowed_mb))
    return kept_mb, kept_mb / needed_mb


def _impossible(
    device: DeviceCosts,
    data: DataLengths,
    deadline_s: float,
    limits: Limits,
    refused: list[tuple[str, str]],
    least: list[tuple[float, Plan]],
) -> BudgetError:
    """Say why nothing fits, and what would."""
    if not least:
        why = "; ".join(f"{what}: {reason}" for what, reason in refused[-3:])
        return BudgetError(f"Nothing can be trained within this budget ({why or 'no backend was measured'}).")
    needed_s, plan = min(least, key=lambda item: item[0])
    costs = ", ".join(
        f"{name} {duration(s)}" for name, s in plan.lines.items() if name != "train" and s >= 0.05
    )
    needed_s = math.ceil(needed_s)
    ask = f"the shortest feasible deadline is about {duration(needed_s)}"
    if limits.energy_j is not None and deadline_s != limits.deadline_s:
        needed_kj = math.ceil(10 * needed_s * device.busy_w / 1e3) / 10
        ask = f"the smallest feasible energy budget is about {needed_kj:.1f} kJ"
    elif data.n_held_out and limits.memory_mb is None:
        start_s = limits.already_s or device.start_s
        alone_s = math.ceil(start_s + LEAST_NGRAMS_S + sum(_after_ngrams(device, 0.0).values()))
        ask += f" (about {duration(alone_s)} for n-grams alone)"
    return BudgetError(
        f"{duration(deadline_s)} is too short for this data and model on this machine: "
        f"the fixed costs alone are {costs} ({plan.key}); {ask}."
    )
