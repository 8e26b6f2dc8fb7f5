"""The learners of a run beside the encoder, and the ensemble of all of them.

    before training   n-grams, and other learners of texts, are fitted on the training rows ─→ ensemble/
    after training    every learner on the held-out rows ─→ weights ─→ n-grams fitted again on all rows
                      ─→ ensemble/ ─→ evaluation of the ensemble and of each learner alone

The weights are fitted on rows that no learner was trained on. `ensemble/` holds them with the n-grams; the
encoder is in `model/` and `onnx/`.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from edgetune.data.token_store import TokenView
from edgetune.inference.saved_ensemble import ENCODER, NGRAMS, PROBE, SavedEnsemble, load_ensemble
from edgetune.inference.saved_run import score_view
from edgetune.learners.ensemble import Ensemble, MemberScore, fit_ensemble
from edgetune.learners.linear_probe import LinearProbe
from edgetune.planning.plan import FittedNgrams
from edgetune.runs.cross_fitting import CrossFit
from edgetune.runs.probing import FittedProbe
from edgetune.runs.scoring import Scored
from edgetune.runs.setup import RunContext
from edgetune.runs.text_fits import TextFits
from edgetune.utils.machine import return_memory
from edgetune.utils.metrics import Evaluation
from edgetune.utils.multi_label import (
    calibration_error,
    evaluate_answers,
    is_multi_hot,
    log_probabilities,
    micro_f1,
)
from edgetune.utils.types import FloatArray, IntArray, Labels

ROWS_WHEN_INTERRUPTED = 100
KEPT_RATE = 0.95
"""Share of the held-out rows whose highest class probability reaches the threshold in the summary."""
SAVE_CAUTION = 1.5
"""The next save is allowed this many times the duration of the last one."""


class EnsembleStage:
    """Fits the other learners of one run, and the weights of all.

    If there are too few rows to set any aside, the encoder is the only learner, and nothing is done here.

    Attributes:
        probe: the linear probe of the untouched encoder; None if none was fitted.
        crossed: cross-fitted predictions of probe and n-grams for all rows if these are few; None otherwise.
        encoder: what the kept encoder is: `ENCODER` if it was trained, `PROBE` if its head alone was fitted.
        ngrams: what the n-grams took; None before they are fitted.
        evaluation: of the ensemble, on the rows that the encoder was evaluated on; None before that.
    """

    def __init__(self, run: RunContext) -> None:
        self._run, self._texts = run, TextFits(run)
        self.probe: FittedProbe | None = None
        self.crossed: CrossFit | None = None
        self.encoder = ENCODER
        self.ngrams: FittedNgrams | None = None
        self.evaluation: Evaluation | None = None
        self._alone: dict[str, Evaluation] = {}
        self._calibration_error: float | None = None
        self._weighted: Ensemble | None = None  # as in the run folder
        self._scores: dict[str, MemberScore] = {}  # of the learners on the rows that the weights are of
        self._threshold: float | None = None
        self._probe_score: MemberScore | None = None
        self._best: tuple[Scored, Scored] | None = None
        self._save_s = 0.0

    @property
    def held_out(self) -> TokenView | None:
        """Rows for the weights; None if the encoder is the only learner."""
        return self._run.data.held_out

    @property
    def needs_encoder(self) -> bool:
        """Whether predictions depend on the encoder, as they do if it is the only learner."""
        return self._weighted is None or ENCODER in self._weighted.names

    def begin(self) -> None:
        """Fit n-grams on the training rows and save them; they predict until the encoder has a weight.

        Nothing is done if they are fitted already.
        """
        if self.held_out is None or self._texts.are_there:
            return
        started_s = self._run.meter.elapsed_s()
        with self._run.meter.phase("ngrams"):
            self._run.view.say("Fitting n-grams")
            return_memory()  # what reading needed
            self._texts.fit()
            self._weigh(self._texts.timed_log_probas(self.held_out), self.held_out.labels)
            self._save()
            return_memory()  # what counting needed, before an encoder needs as much
        took_s = self._run.meter.elapsed_s() - started_s
        self.ngrams = FittedNgrams(took_s, self._texts.again_s(self.held_out) + SAVE_CAUTION * self._save_s)
        self._run.deadline.expect_refit(self.ngrams)
        self._run.deadline.mark("ngrams")

    def restore(self) -> None:
        """Read what `begin` saved before a break, or do it again."""
        if self.held_out is None:
            return
        with self._run.meter.phase("ngrams"):
            found = load_ensemble(self._run.folder.path)
            # with more rows they were fitted on the held-out rows, too
            if found is not None and found.ngrams.n_rows <= len(self._run.data.train):
                self._texts.load(found)
                self._weighted = found.ensemble
                self._texts.timed_log_probas(self.held_out)
        self.begin()
        if self.probe is not None:
            self.weigh_probe(self.probe)

    def weigh_probe(self, found: FittedProbe, save: bool = True) -> None:
        """Fit the weights of linear probe and n-grams; a trained encoder may replace the probe later.

        With `save`, `ensemble/` is written now, and the caller saves the encoder at once, too.
        """
        self.probe = found
        scored = found.held_out
        if scored is None or not scored.has_enough_rows:
            return
        self._weigh_scored(scored)
        self._probe_score = self._scores[ENCODER]
        if save:
            self._save()

    @property
    def n_probe_rows(self) -> int:
        """Rows that the linear probe was fitted on; 0 without a probe."""
        return 0 if self.probe is None else self.probe.n_rows

    def note(self, held_out: Scored, evaluated: Scored) -> None:
        """Remember the predictions of the best encoder so far for the held-out and the evaluation rows."""
        self._best = held_out, evaluated

    def state(self) -> dict[str, Any]:
        """Return what was noted last, and the linear probe."""
        held_out, evaluated = self._best or (None, None)
        probe = None
        if self.probe is not None:
            head = {"weight": self.probe.probe.weight, "bias": self.probe.probe.bias}
            probe = {**head, "n_rows": self.probe.n_rows, "held_out": _scored_state(self.probe.held_out)}
        return {
            "held_out": _scored_state(held_out),
            "evaluated": _scored_state(evaluated),
            "probe": probe,
            "crossed": None if self.crossed is None else self.crossed.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a `state()`."""

        def scored(view: TokenView | None, found: list[Any] | None) -> Scored | None:
            return None if view is None or found is None else Scored(view, *found)

        held_out = scored(self.held_out, state["held_out"])
        evaluated = scored(self._run.data.evaluation, state["evaluated"])
        self._best = None if held_out is None or evaluated is None else (held_out, evaluated)
        self.probe = None
        if (probe := state["probe"]) is not None:
            head = LinearProbe(probe["weight"], probe["bias"])
            self.probe = FittedProbe(head, probe["n_rows"], scored(self.held_out, probe["held_out"]))
        self.crossed = None if (crossed := state["crossed"]) is None else CrossFit.of_state(crossed)

    def finish_best(self, refits_ngrams: bool = True) -> bool:
        """Finish and evaluate with the best encoder that was noted; return whether there was one."""
        if self._best is None:
            return False
        held_out, evaluated = self._best
        self.finish(held_out, refits_ngrams)
        self.evaluate(evaluated)
        return True

    def finish_interrupted(self) -> None:
        """After a request to stop, fit the weights with the best encoder, or the newest one on few rows."""
        if self.held_out is None or self.finish_best(refits_ngrams=False):
            return
        rng = np.random.default_rng([self._run.config.train.seed, 7])
        rows = rng.permutation(len(self.held_out))[:ROWS_WHEN_INTERRUPTED]
        with self._run.meter.phase("ensemble"):
            score = partial(self._run.backend.score, keep=False)
            logits = score_view(score, self.held_out.subset(rows))
        self.finish(Scored(self.held_out, rows, logits), refits_ngrams=False)

    def finish(self, scored: Scored | None, refits_ngrams: bool = True) -> None:
        """Fit the weights of all learners, and write `ensemble/`; the encoder is saved elsewhere.

        Args:
            scored: the encoder on held-out rows; None if there was no time for any.
            refits_ngrams: whether n-grams are fitted again, on the held-out rows too.
        """
        if self.held_out is None:
            return
        with self._run.meter.phase("ensemble"):
            if (crossed := self.crossed) is not None and self.encoder == PROBE:
                log_probas = {NGRAMS: crossed.ngrams_log_proba, ENCODER: crossed.probe_log_proba}
                self._weigh(log_probas, crossed.labels)
            elif scored is None or not scored.has_enough_rows:
                self._run.view.warn(
                    "There was no time to compare the encoder with the n-grams; predictions use the n-grams."
                )
            elif not np.isfinite(scored.logits).all():
                self._run.view.warn(
                    "The encoder gives scores that are not finite; predictions use the n-grams."
                )
            else:
                self._weigh_scored(scored)
            answers = self._weighted is not None and NGRAMS in self._weighted.names
            if refits_ngrams and answers and not self._run.stop():
                self._fit_again(self.held_out)
            self._save()

    def finish_alone(self) -> None:
        """Fit the n-grams on all rows, for a run without an encoder, and save them."""
        if self.held_out is not None:
            with self._run.meter.phase("ensemble"):
                self._fit_again(self.held_out)
                self._save()

    def _fit_again(self, held_out: TokenView) -> None:
        return_memory()  # what saving the encoder needed, before counting needs as much
        self._texts.fit_again(held_out, SAVE_CAUTION * self._save_s)

    def evaluate(self, scored: Scored) -> None:
        """Evaluate the ensemble, and each learner alone, on rows that the encoder was scored on."""
        finite = np.isfinite(scored.logits).all()
        self._evaluate(scored.view, scored.rows, scored.logits if finite else None)

    def evaluate_ngrams(self) -> None:
        """Evaluate the n-grams, which are used alone, on as many rows as there is time for."""
        view = self._run.data.evaluation
        rows = self._texts.rows_in_time(len(view))
        if len(rows):
            self._evaluate(view, rows, None)
        else:
            self.warn_not_evaluated()

    def warn_not_evaluated(self) -> None:
        """Say that there was no time to evaluate, and remove the figures of an earlier model."""
        self._run.view.warn("There was no time to evaluate; run `edgetune evaluate` to measure the model.")
        (self._run.folder.path / "metrics.json").unlink(missing_ok=True)

    def _evaluate(self, view: TokenView, rows: IntArray, logits: FloatArray | None) -> None:
        if self._weighted is None:
            return
        with self._run.meter.phase("evaluate"):
            log_probas, labels = self._log_probas(view, rows, logits), view.labels[rows]
            answers, usual = self._weighted.combine(log_probas), self._weighted.thresholds
            own = {name: score.thresholds for name, score in self._scores.items()}
            self._alone = {
                name: evaluate_answers(found, labels, view.label_names, own.get(name, usual))
                for name, found in log_probas.items()
            }
            self.evaluation = evaluate_answers(answers, labels, view.label_names, usual)
            self._calibration_error = calibration_error(np.exp(answers), labels)
        self.write_metrics()

    def write_metrics(self) -> None:
        """Put the evaluation of the ensemble in place of that of the encoder alone."""
        if self.evaluation is not None:
            self._run.folder.write_json("metrics.json", self.evaluation.to_dict())

    def to_dict(self) -> dict[str, Any] | None:
        """Return what the summary says about the learners; None if the encoder is the only one."""
        if (weighted := self._weighted) is None:
            return None
        weights = dict(zip(weighted.names, weighted.weights, strict=True))

        def fields(key: str, name: str) -> dict[str, Any]:
            score, alone = self._scores.get(key), self._alone.get(key)
            return _learner_fields(name, weights.get(key, 0.0), alone, score)

        learners = [fields(name, name) for name in (NGRAMS, *self._texts.others)]
        if self._run.encoder is not None:
            if self.encoder == ENCODER and self._probe_score is not None:
                learners.append(_learner_fields(PROBE, 0.0, None, self._probe_score))
            learners.append(fields(ENCODER, self.encoder))  # a probe takes the place of a trained encoder
        return {
            "n_held_out": weighted.n_rows,
            "cross_fitted": self.crossed is not None and self.encoder == PROBE,
            "accuracy": None if self.evaluation is None else self.evaluation.accuracy,
            "micro_f1": micro_f1(self.evaluation),
            "calibration_error": self._calibration_error,
            "threshold": self._threshold,
            "learners": learners,
        }

    def _weigh(self, log_probas: dict[str, FloatArray], labels: Labels) -> None:
        """Fit the weights of the learners on rows that none of them was trained on."""
        settings, train = self._run.config.train, self._run.data.train
        metric = settings.metric
        ensemble, scores = fit_ensemble(
            log_probas, labels, metric=metric, keep="best" if settings.single else "pool"
        )
        self._threshold = None
        if not is_multi_hot(labels):  # else there is a threshold for each class
            by = None if settings.class_weight == "balanced" else metric
            if by != "accuracy" and settings.class_weight != "none":
                counts = np.bincount(train.labels, minlength=len(train.label_names)) + 1
                ensemble = ensemble.balanced(log_probas, labels.astype(np.int64), counts / counts.sum(), by)
            largest = np.exp(ensemble.combine(log_probas).max(axis=1))
            self._threshold = float(np.quantile(largest, 1 - KEPT_RATE))
        self._weighted, self._scores = ensemble, {score.name: score for score in scores}

    def _weigh_scored(self, scored: Scored) -> None:
        log_probas = self._log_probas(scored.view, scored.rows, scored.logits)
        self._weigh(log_probas, scored.view.labels[scored.rows])

    def _log_probas(
        self, view: TokenView, rows: IntArray, logits: FloatArray | None
    ) -> dict[str, FloatArray]:
        """Return log-probabilities of rows (n,) of a view by the learners, and by an encoder's logits."""
        found = self._texts.log_probas(view, rows)
        if logits is not None:
            found[ENCODER] = log_probabilities(logits, self._run.data.multi_label)
        return found

    def _save(self) -> None:
        assert self._weighted is not None
        run, texts, started_s = self._run, self._texts, self._run.meter.elapsed_s()
        tokenizer = run.model_loader.tokenizer_file if run.encoder is None else None
        names = run.data.label_names
        saved = SavedEnsemble(self._weighted, texts.ngrams, names, tokenizer, texts.others)
        run.folder.save_ensemble(saved.write)
        self._save_s = self._run.meter.elapsed_s() - started_s


def _scored_state(scored: Scored | None) -> list[Any] | None:
    return None if scored is None else [scored.rows, scored.logits]


def _learner_fields(
    name: str, weight: float, evaluation: Evaluation | None, held_out: MemberScore | None
) -> dict[str, Any]:
    """Return what the summary says about one learner."""
    return {
        "name": name,
        "weight": weight,
        "accuracy": None if evaluation is None else evaluation.accuracy,
        "macro_f1": None if evaluation is None else evaluation.macro_f1,
        "micro_f1": micro_f1(evaluation),
        "held_out": None if held_out is None else asdict(held_out),
    }
