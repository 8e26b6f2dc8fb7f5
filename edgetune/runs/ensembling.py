"""The learners of a run beside the encoder, and the ensemble of all of them.

    before training   n-grams are fitted on the training rows ─→ ensemble/
    after training    every learner on the held-out rows ─→ weights ─→ n-grams fitted again on all rows
                      ─→ ensemble/ ─→ evaluation of the ensemble and of each learner alone

The weights are fitted on rows that no learner was trained on. `ensemble/` holds them with the n-grams; the
encoder lies in `model/` and `onnx/` as ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from edgetune.data.batches import Batch
from edgetune.data.token_store import TokenView
from edgetune.inference.saved_ensemble import ENCODER, NGRAMS, PROBE, SavedEnsemble, load_ensemble
from edgetune.inference.saved_run import score_view
from edgetune.learners.ensemble import Ensemble, MemberScore, fit_ensemble
from edgetune.learners.linear_probe import LinearProbe
from edgetune.learners.ngrams import Ngrams
from edgetune.planning.plan import NGRAMS_ALONE
from edgetune.planning.planner import ngrams_rate, refit_pays
from edgetune.runs.context import RunContext
from edgetune.runs.cross_fitting import MOST_ROWS, CrossFit, cross_fit
from edgetune.runs.deadline import Scored
from edgetune.runs.probing import FittedProbe
from edgetune.runs.setup import Prepared, PreparedRows
from edgetune.utils.metrics import Evaluation, cross_entropy
from edgetune.utils.multi_label import is_multi_hot, log_odds, log_probabilities
from edgetune.utils.multi_label_metrics import calibration_error, evaluate_answers, micro_f1
from edgetune.utils.types import FloatArray, IntArray, Labels

FEWEST_ROWS = 20
"""The encoder takes part only if it was scored on this many held-out rows, or on all of them."""
ROWS_WHEN_INTERRUPTED = 100
SAVE_CAUTION = 1.5
"""The next save is allowed this many times the duration of the last one."""
LEFT_RATE = 0.4
"""Share of the time that is left, beyond what was planned, which the first fit of the n-grams may take."""
FEW_PAIR_STEPS, IDLE_RATE = 150, 0.8
"""If the encoder would make fewer steps than this on pairs of texts, the first fit of the n-grams may take
this share of the time left."""
CROSS_FIT_RATE = 0.25
"""Share of the time for training that cross-fitting may take; with 300 rows it takes about a second."""
KEPT_RATE = 0.95
"""Share of the held-out rows whose highest class probability reaches the threshold in the summary."""


class EnsembleStage:
    """Fits the other learners of one run, and the weights of all.

    Attributes:
        ngrams: the n-gram classifier; None before it is fitted, or where rows are too few to set any aside.
        ensemble: learners and weights as they lie in the run folder.
        members: how each learner did on the held-out rows.
        probe: the linear probe of the untouched encoder; None where none was fitted.
        crossed: what probe and n-grams say of all rows where these are few; None otherwise.
        encoder: what the kept encoder is: `ENCODER` if it was trained, `PROBE` if its head alone was fitted.
        evaluation: of the ensemble, on the evaluation rows that the encoder was evaluated on.
        alone: evaluations of the learners on those rows, by name.
        calibration_error: of the ensemble's probabilities on those rows.
        threshold: value that the highest class probability reaches on 95 % of the held-out rows; a text below
            it may belong to no class.
    """

    def __init__(self, run: RunContext[PreparedRows]) -> None:
        self._run = run
        self.ngrams: Ngrams | None = None
        self.ensemble: Ensemble | None = None
        self.members: tuple[MemberScore, ...] = ()
        self.probe: FittedProbe | None = None
        self.crossed: CrossFit | None = None
        self.encoder = ENCODER
        self._probe_score: MemberScore | None = None
        self.evaluation: Evaluation | None = None
        self.alone: dict[str, Evaluation] = {}
        self.calibration_error: float | None = None
        self.threshold: float | None = None
        self._fit_s = self._row_s = self._save_s = 0.0
        self._best: tuple[Scored | None, Scored] | None = None

    @property
    def held_out(self) -> TokenView | None:
        """Rows for the weights; None where the run has the encoder alone."""
        return self._run.prepared.data.held_out

    def begin(self) -> None:
        """Fit n-grams on the training rows and save them: they answer until the encoder has a weight."""
        held_out, train = self.held_out, self._run.prepared.data.train
        if held_out is None:
            return
        with self._run.meter.phase("ngrams"):
            self._run.view.say("Fitting n-grams")
            self.ngrams = self._fitted(train, self._allowed_s())
            self._weigh({NGRAMS: self._timed_log_proba(self.ngrams, held_out)}, held_out.labels)
            self._save()
        if self._run.deadline is not None:
            self._run.deadline.mark("ngrams")

    def restore(self) -> None:
        """Read what `begin` saved before a break, or do it again."""
        if self.held_out is None:
            return
        with self._run.meter.phase("ngrams"):
            found = load_ensemble(self._run.folder.path)
        if found is None or found.ngrams.n_rows > len(
            self._run.prepared.data.train
        ):  # fitted on held-out rows
            self.begin()
        else:
            self.ensemble, self.ngrams = found.ensemble, found.ngrams
            with self._run.meter.phase("ngrams"):
                self._timed_log_proba(found.ngrams, self.held_out)
        if self.probe is not None:
            self.note_probe(self.probe)

    def _timed_log_proba(self, ngrams: Ngrams, view: TokenView) -> FloatArray:
        """Return what n-grams say of rows, and remember what a row took."""
        texts, started_s = view.texts(), self._run.meter.elapsed_s()
        found = ngrams.log_proba(texts)
        self._row_s = (self._run.meter.elapsed_s() - started_s) / len(view)
        return found

    def note_probe(self, found: FittedProbe, save: bool = True) -> None:
        """Weigh the linear probe against the n-grams; a trained encoder may take its place later.

        Args:
            found: the probe.
            save: whether the encoder is saved at once, too, so that the ensemble may rest on it.
        """
        self.probe = found
        scored = found.held_out
        if scored is None or self.ngrams is None or len(scored.rows) < min(FEWEST_ROWS, len(scored.view)):
            return
        self._weigh(self._log_probas(self.ngrams, scored), scored.view.labels[scored.rows])
        self._probe_score = next(score for score in self.members if score.name == ENCODER)
        if save:
            self._save()

    def cross_fit(self, found: FittedProbe) -> None:
        """Where rows are few, cross-fit probe and n-grams on all of them, for weights if the probe is kept.

        Nothing is done where rows are many, were not all read, or there is too little time.
        """
        held_out, train, scored = self.held_out, self._run.prepared.data.train, found.held_out
        if held_out is None or self._run.deadline is None or scored is None:
            return
        if found.train_rows is None or found.features is None:
            return
        n_rows = len(train) + len(held_out)
        if n_rows > MOST_ROWS or len(found.train_rows) + len(scored.rows) < n_rows:
            return
        rows = np.concatenate([train.rows[found.train_rows], held_out.rows[scored.rows]])
        labels = np.concatenate([train.labels[found.train_rows], held_out.labels[scored.rows]])
        clock = self._run.deadline.clock
        end_s = clock.elapsed_s() + CROSS_FIT_RATE * clock.left_s()

        def time_left_s() -> float:
            return 0.0 if self._run.stop() else end_s - clock.elapsed_s()

        everything = TokenView(train.store, rows, labels, train.label_names)
        seed = self._run.prepared.config.train.seed
        self.crossed = cross_fit(everything, found.features(), seed, time_left_s)

    def prefers_probe(self, trained: Scored | None) -> bool:
        """Return whether the probe is better than the trained encoder on held-out rows, at its temperature.

        The n-grams take no part in the comparison. Where held-out rows repeat phrases of training rows, as in
        SST-2, the n-grams are right on nearly all of them, and the pool hardly depends on the encoder. The
        probe is also preferred where there was no time to score the trained encoder on enough rows.

        Args:
            trained: the trained encoder on held-out rows.
        """
        if self.probe is None or self.probe.held_out is None:
            return False
        probe = self.probe.held_out
        if trained is None or not np.isfinite(trained.logits).all():
            return True
        rows, of_trained, of_probe = np.intersect1d(trained.rows, probe.rows, return_indices=True)
        if len(rows) < min(FEWEST_ROWS, len(trained.view)):
            return True
        labels = trained.view.labels[rows]
        loss_of_probe = _calibrated_loss(probe.logits[of_probe], labels)
        return loss_of_probe < _calibrated_loss(trained.logits[of_trained], labels)

    @staticmethod
    def _log_probas(ngrams: Ngrams, scored: Scored) -> dict[str, FloatArray]:
        """Return what n-grams and an encoder say of the rows that the encoder was scored on."""
        return {
            NGRAMS: ngrams.log_proba(scored.view.texts(scored.rows)),
            ENCODER: log_probabilities(scored.logits, ngrams.multi_label),
        }

    def note(self, held_out: Scored | None, evaluated: Scored) -> None:
        """Remember what the best encoder so far says of the held-out and the evaluation rows."""
        self._best = (held_out, evaluated)

    def state(self) -> dict[str, Any]:
        """Return what was noted last, and the linear probe."""
        best, probe = self._best, self.probe
        return {
            "held_out": _scored_state(None if best is None else best[0]),
            "evaluated": _scored_state(None if best is None else best[1]),
            "probe": None
            if probe is None
            else {
                "weight": probe.probe.weight,
                "bias": probe.probe.bias,
                "n_rows": probe.n_rows,
                "held_out": _scored_state(probe.held_out),
            },
            "crossed": None if self.crossed is None else self.crossed.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Note again what `state()` gave."""
        data = self._run.prepared.data

        def scored(view: TokenView | None, found: list[Any] | None) -> Scored | None:
            return None if view is None or found is None else Scored(view, *found)

        evaluated = scored(data.evaluation, state["evaluated"])
        self._best = None if evaluated is None else (scored(data.held_out, state["held_out"]), evaluated)
        self.probe = None
        if (probe := state["probe"]) is not None:
            head = LinearProbe(probe["weight"], probe["bias"])
            self.probe = FittedProbe(head, probe["n_rows"], scored(data.held_out, probe["held_out"]))
        self.crossed = None if (crossed := state["crossed"]) is None else CrossFit.of_state(crossed)

    def finish_best(self, last: bool = True) -> bool:
        """Finish and evaluate with the best encoder that was noted; return whether there was one."""
        if self._best is None:
            return False
        held_out, evaluated = self._best
        self.finish(held_out, last)
        self.evaluate(evaluated)
        return True

    def finish_interrupted(self, score: Callable[[Batch], FloatArray]) -> None:
        """After a request to stop: weigh the learners on the best encoder, or on the newest and few rows.

        Args:
            score: takes a batch, returns logits (B, C) of the newest encoder.
        """
        if self.held_out is None or self.finish_best(last=False):
            return
        rng = np.random.default_rng([self._run.prepared.config.train.seed, 7])
        rows = rng.permutation(len(self.held_out))[:ROWS_WHEN_INTERRUPTED]
        with self._run.meter.phase("ensemble"):
            logits = score_view(score, self.held_out.subset(rows))
        self.finish(Scored(self.held_out, rows, logits), last=False)

    def finish(self, scored: Scored | None, last: bool = True) -> None:
        """Fit the weights of n-grams and encoder, and save both.

        Args:
            scored: the encoder on held-out rows; None where there was no time for any.
            last: whether n-grams are fitted again, on the held-out rows too.
        """
        held_out = self.held_out
        if held_out is None or self.ngrams is None:
            return
        with self._run.meter.phase("ensemble"):
            if (crossed := self.crossed) is not None and self.encoder == PROBE:
                log_probas = {NGRAMS: crossed.ngrams_log_proba, ENCODER: crossed.probe_log_proba}
                self._weigh(log_probas, crossed.labels)
            elif scored is None or len(scored.rows) < min(FEWEST_ROWS, len(held_out)):
                self._run.view.warn(
                    "There was no time to compare the encoder with the n-grams; predictions use the n-grams."
                )
            elif not np.isfinite(scored.logits).all():
                self._run.view.warn(
                    "The encoder gives scores that are not finite; predictions use the n-grams."
                )
            else:
                self._weigh(self._log_probas(self.ngrams, scored), held_out.labels[scored.rows])
            if last and self.ensemble is not None and NGRAMS in self.ensemble.names and not self._run.stop():
                self._fit_again(held_out)
            self._save()

    def finish_alone(self) -> None:
        """Fit the n-grams on all rows, where no encoder takes part, and save them."""
        if self.held_out is None:
            return
        with self._run.meter.phase("ensemble"):
            self._fit_again(self.held_out)
            self._save()

    def _fit_again(self, held_out: TokenView) -> None:
        """Fit the n-grams on training and held-out rows together, if that pays and there is time."""
        train = self._run.prepared.data.train
        if not refit_pays(len(train), len(held_out)):
            return
        left_s = math.inf
        if self._run.deadline is not None:
            left_s = self._run.deadline.clock.ensemble_end_s() - self._run.deadline.clock.elapsed_s()
            left_s -= SAVE_CAUTION * self._save_s
        if self.ngrams is None or left_s < self._fit_s:
            return
        rows = np.concatenate([train.rows, held_out.rows])
        labels = np.concatenate([train.labels, held_out.labels])
        together = TokenView(train.store, rows, labels, train.label_names)
        found = self._fitted(together, left_s)
        if found.n_rows > self.ngrams.n_rows and not self._run.stop():  # else it was cut short
            self.ngrams = found

    @property
    def needs_encoder(self) -> bool:
        """Whether the answer depends on the encoder; so it does where the encoder is the only learner."""
        return self.ensemble is None or ENCODER in self.ensemble.names

    def evaluate(self, scored: Scored | None) -> None:
        """Evaluate the ensemble, and each learner alone.

        Args:
            scored: the encoder on evaluation rows, which are evaluated; None where it takes no part: as many
                are as there is time for, at the speed at which n-grams answered the held-out rows.
        """
        if self.ensemble is None or self.ngrams is None:
            return
        view = self._run.prepared.data.evaluation if scored is None else scored.view
        rows = self._rows_in_time(len(view)) if scored is None else scored.rows
        if not len(rows):
            self._run.view.warn(
                "There was no time to evaluate; run `edgetune evaluate` to measure the model."
            )
            (self._run.folder.path / "metrics.json").unlink(missing_ok=True)
            return
        labels, names = view.labels[rows], view.label_names
        with self._run.meter.phase("evaluate"):
            log_probas: dict[str, FloatArray] = {NGRAMS: self.ngrams.log_proba(view.texts(rows))}
            if scored is not None and np.isfinite(scored.logits).all():
                log_probas[ENCODER] = log_probabilities(scored.logits, self.ngrams.multi_label)
            combined, thresholds = self.ensemble.combine(log_probas), self.ensemble.thresholds
            self.evaluation = evaluate_answers(combined, labels, names, thresholds)
            own = {score.name: score.thresholds for score in self.members}
            self.alone = {
                name: evaluate_answers(found, labels, names, own.get(name, thresholds))
                for name, found in log_probas.items()
            }
            self.calibration_error = calibration_error(np.exp(combined), labels)
        self.write_metrics()

    def _rows_in_time(self, n_rows: int) -> IntArray:
        """Return which of so many rows n-grams have time to answer: all, or a random sample."""
        n_fit = n_rows
        if self._run.deadline is not None and self._row_s:
            left_s = self._run.deadline.clock.evaluation_end_s() - self._run.deadline.clock.elapsed_s()
            n_fit = max(0, min(n_rows, int(left_s / self._row_s)))
        if n_fit == n_rows:
            return np.arange(n_rows)
        return np.random.default_rng([self._run.prepared.config.train.seed, 5]).permutation(n_rows)[:n_fit]

    def write_metrics(self) -> None:
        """Put the evaluation of the ensemble in place of that of the encoder alone."""
        if self.evaluation is not None:
            self._run.folder.write_json("metrics.json", self.evaluation.to_dict())

    def to_dict(self) -> dict[str, Any] | None:
        """Return what the summary says of the learners; None where the run has the encoder alone."""
        if self.ensemble is None:
            return None
        weights = dict(zip(self.ensemble.names, self.ensemble.weights, strict=True))
        on_held_out = {score.name: score for score in self.members}
        names = [NGRAMS, ENCODER]
        if not isinstance(self._run.prepared, Prepared):
            names = [NGRAMS]
        elif self.encoder == PROBE:  # it lies where a trained encoder would
            names[1] = PROBE
        elif self._probe_score is not None:
            names.insert(1, PROBE)
            on_held_out[PROBE] = self._probe_score

        def key(name: str) -> str:
            return ENCODER if name == PROBE == self.encoder else name

        return {
            "n_held_out": self.ensemble.n_rows,
            "cross_fitted": self.crossed is not None and self.encoder == PROBE,
            "accuracy": None if self.evaluation is None else self.evaluation.accuracy,
            "micro_f1": micro_f1(self.evaluation),
            "calibration_error": self.calibration_error,
            "threshold": self.threshold,
            "learners": [
                {
                    "name": name,
                    "weight": weights.get(key(name), 0.0),
                    "accuracy": self.alone[key(name)].accuracy if key(name) in self.alone else None,
                    "macro_f1": self.alone[key(name)].macro_f1 if key(name) in self.alone else None,
                    "micro_f1": micro_f1(self.alone.get(key(name))),
                    "held_out": asdict(on_held_out[key(name)]) if key(name) in on_held_out else None,
                }
                for name in names
            ],
        }

    def _allowed_s(self) -> float:
        """Return how long the first fit may take, seconds: its share of the time; all without a deadline.

        A fit that needs less ends by itself. What is planned does not know the number of classes.
        """
        if self._run.deadline is None:
            return math.inf
        pair = self._run.prepared.config.data.pair
        idle = pair and self._run.deadline.trains and self._run.deadline.plan.n_steps < FEW_PAIR_STEPS
        clock, planned_s = self._run.deadline.clock, self._run.deadline.plan.lines["ngrams"]
        if self._run.deadline.plan.method == NGRAMS_ALONE:
            return max(planned_s, clock.left_s())
        rate = ngrams_rate(pair, self._run.deadline.trains)
        left_rate = IDLE_RATE if idle else max(LEFT_RATE, rate)
        return min(rate * clock.limit_s(), max(planned_s, left_rate * clock.left_s()))

    def _fitted(self, rows: TokenView, allowed_s: float) -> Ngrams:
        started_s = self._run.meter.elapsed_s()

        def time_left_s() -> float:
            return 0.0 if self._run.stop() else allowed_s - (self._run.meter.elapsed_s() - started_s)

        seed = self._run.prepared.config.train.seed
        found = Ngrams.fit(
            rows.texts(), rows.labels, len(rows.label_names), seed=seed, time_left_s=time_left_s
        )
        self._fit_s = self._run.meter.elapsed_s() - started_s
        return found

    def _weigh(self, log_probas: dict[str, FloatArray], labels: Labels) -> None:
        train = self._run.prepared.config.train
        self.ensemble, self.members = fit_ensemble(
            log_probas, labels, metric=train.metric, keep="best" if train.single else "pool"
        )
        if is_multi_hot(labels):  # which have a threshold for each class instead
            return
        by = None if train.class_weight == "balanced" else train.metric
        if by != "accuracy" and train.class_weight != "none":
            data = self._run.prepared.data
            counts = np.bincount(data.train.labels, minlength=len(data.label_names)) + 1
            self.ensemble = self.ensemble.balanced(
                log_probas, labels.astype(np.int64), counts / counts.sum(), by
            )
        largest = np.exp(self.ensemble.combine(log_probas).max(axis=1))
        self.threshold = float(np.quantile(largest, 1 - KEPT_RATE))

    def _save(self) -> None:
        assert self.ensemble is not None
        assert self.ngrams is not None
        labels = self._run.prepared.data.label_names
        tokenizer = None if isinstance(self._run.prepared, Prepared) else self._run.prepared.tokenizer_file
        started_s = self._run.meter.elapsed_s()
        self._run.folder.save_ensemble(SavedEnsemble(self.ensemble, self.ngrams, labels, tokenizer).write)
        self._save_s = self._run.meter.elapsed_s() - started_s


def _calibrated_loss(logits: FloatArray, labels: Labels) -> float:
    """Return the mean log loss (nats) of logits (N, C) at the temperature that suits these rows."""
    log_probas = {ENCODER: log_probabilities(logits, is_multi_hot(labels))}
    ensemble, _ = fit_ensemble(log_probas, labels)
    combined = ensemble.combine(log_probas)
    return float(cross_entropy(log_odds(combined) if ensemble.multi_label else combined, labels).mean())


def _scored_state(scored: Scored | None) -> list[Any] | None:
    return None if scored is None else [scored.rows, scored.logits]
