"""The part of a run in which the model changes: the loop, evaluations, saves, and the receipt at the end."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from edgetune.backends.base import Backend, NoLinearHead
from edgetune.config import FILTERS
from edgetune.data.tokens import TokenView
from edgetune.energy import Sensor, read_energy
from edgetune.errors import BudgetError, Interrupted
from edgetune.floor import Head
from edgetune.history import HistoryWriter, read_history
from edgetune.loop import Counts, Loop, LoopSettings
from edgetune.meter import Meter
from edgetune.metrics import Evaluation
from edgetune.pace import ClockPace, Pace
from edgetune.planning.planner import HEAD
from edgetune.prepare import Prepared
from edgetune.receipt import make_receipt
from edgetune.report.live import View
from edgetune.result import RunResult
from edgetune.runfolder import RunFolder
from edgetune.saved import evaluate_view
from edgetune.selection import make_selector
from edgetune.selection.base import Selector
from edgetune.stopping import StopRequest
from edgetune.timed import Timed, evaluate_in_time, fit_floor
from edgetune.watch import Watched

SENSOR_EVERY_S = 1.0


class Training:
    """One run's training, from the first batch to the receipt."""

    def __init__(
        self,
        prepared: Prepared,
        folder: RunFolder,
        meter: Meter,
        view: View,
        stop: StopRequest,
        sensor: Sensor,
        sensor_since_s: float = 0.0,
        timed: Timed | None = None,
    ) -> None:
        self._config, self._prepared, self._folder = prepared.config, prepared, folder
        self._meter, self._view, self._stop, self._sensor = meter, view, stop, sensor
        self._sensor_since_s, self._sensor_read_s = sensor_since_s, sensor_since_s
        self._timed = timed
        self._backend: Backend = prepared.backend
        self._best: Evaluation | None = None
        self._best_epoch: int | None = None
        self._n_worse = 0
        self._floor: Head | None = None

    def run(self) -> RunResult:
        """Train, keep the best model, and write the receipt."""
        config, seed = self._config, self._config.train.seed
        selector = make_selector(
            config.selection,
            n_examples=len(self._prepared.data.train),
            n_classes=len(self._prepared.data.label_names),
            vocab_size=self._prepared.vocab_size,
            rng=np.random.default_rng([seed, 3]),
        )
        if self._timed is not None and config.selection.method in FILTERS:
            selector = Watched(selector, self._timed.score_rate)
        with HistoryWriter(self._folder.path / "history.jsonl") as history:
            loop = self._make_loop(selector, history)
            self._view.begin(self._prepared, config)
            try:
                if self._timed is not None:
                    self._begin_timed(self._timed)
                if self._timed is None or self._timed.plan.method != HEAD:
                    self._run_epochs(loop, history)
                elif self._stop():
                    loop.stopped = True
            finally:
                self._view.end()
            if self._timed is not None:
                self._timed.mark("train")
                if not loop.stopped:
                    self._end_timed(self._timed, loop, history)
        if loop.stopped:
            self._save_interrupted()
        result = self._write_receipt(loop, selector)
        if loop.stopped:
            raise self._interrupted(loop.counts)
        return result

    def _run_epochs(self, loop: Loop, history: HistoryWriter) -> None:
        for epoch in range(1, self._config.train.epochs + 1):
            loop.run_epoch(epoch)
            if loop.stopped:
                return
            if self._timed is None:
                self._end_epoch(epoch, history, self._prepared.data.evaluation)
            elif self._config.budget.patience is not None and not loop.finished:
                self._look_for_better(self._timed, epoch, history)
            if loop.finished or self._out_of_patience:
                return

    @property
    def _out_of_patience(self) -> bool:
        patience = self._config.budget.patience
        return patience is not None and self._n_worse >= patience

    def _look_for_better(self, timed: Timed, epoch: int, history: HistoryWriter) -> None:
        """Under a deadline: evaluate the planned number of rows, always the same, if there is time for it."""
        rows, rng = self._prepared.data.evaluation, np.random.default_rng([self._config.train.seed, 5])
        needed_s = timed.plan.lines["evaluate"] * timed.clock.speed("score").cautious + timed.clock.save_s()
        if needed_s < timed.clock.left_s():
            self._end_epoch(epoch, history, rows.subset(rng.permutation(len(rows))[: timed.plan.n_eval]))

    def _make_loop(self, selector: Selector, history: HistoryWriter) -> Loop:
        train = self._config.train
        assert train.lr is not None
        settings = LoopSettings(train.lr, train.epochs, train.batch_size, train.decay, train.max_steps)
        loop = Loop(
            backend=self._backend,
            selector=selector,
            source=self._prepared.data.train,
            settings=settings,
            meter=self._meter,
            history=history,
            rng=np.random.default_rng([train.seed, 2]),
            pace=self._pace(settings),
            should_stop=self._stop,
        )
        loop.on_progress = partial(self._on_progress, loop, selector)
        return loop

    def _pace(self, settings: LoopSettings) -> Pace:
        data = settings.data_pace(len(self._prepared.data.train))
        return data if self._timed is None else ClockPace(self._timed.clock, self._timed.cost, data)

    def _on_progress(self, loop: Loop, selector: Selector, counts: Counts, loss: float) -> None:
        """Show where the run is; keep the model on disk fresh and the filter honest."""
        self._view.progress(loop.progress, counts, loss, selector.stage, self._meter.elapsed_s())
        if self._meter.elapsed_s() - self._sensor_read_s > SENSOR_EVERY_S:
            self._sensor_read_s = self._meter.elapsed_s()
            self._sensor.joules()  # counters wrap, and power has to be followed
        if self._timed is None:
            return
        if isinstance(selector, Watched) and (why := selector.consider(counts, self._meter.split_s())):
            self._view.say(f"The filter is switched off: {why}.")
        if selector.straight and (n_rows := self._timed.revise(counts.n_trained)):
            planned = self._timed.plan.n_rows
            self._view.say(f"By the first steps' speed {n_rows:,} examples will fit ({planned:,} planned)")
        if self._best is None and self._timed.save_is_due():  # else the best so far lies there
            self._save_in_passing()

    def _begin_timed(self, timed: Timed) -> None:
        """Fit and save the first usable model, then start the clock of training.

        Training starts from the drawn head all the same: from the fitted one it came out two points worse
        (docs/log.md).
        """
        source, rng = self._prepared.data.train, np.random.default_rng([self._config.train.seed, 4])
        with self._meter.phase("floor"):
            try:
                drawn = self._backend.head()
                head = fit_floor(self._backend, source, timed, rng, self._stop)
            except NoLinearHead as error:
                if timed.plan.method == HEAD:
                    raise BudgetError(f"Too short to train, and the head alone cannot be: {error}") from error
                self._view.say(f"No first model before training: {error}")
            else:
                self._floor = head
                self._backend.set_head(head.weight, head.bias)
                self._save(light=timed.plan.method != HEAD)
                if timed.plan.method != HEAD:
                    self._backend.set_head(*drawn)
        timed.mark("floor")
        timed.clock.begin()

    def _end_timed(self, timed: Timed, loop: Loop, history: HistoryWriter) -> None:
        """Save, then evaluate with what time is left.

        Where patience has run out the best model was saved and evaluated before.
        """
        if self._out_of_patience:
            timed.mark("save")
            return
        if timed.plan.method != HEAD:
            if not loop.counts.n_steps:
                self._fall_back()
            self._save()
            self._best = self._best_epoch = None  # what was evaluated before is not what lies there now
        timed.mark("save")
        rows = self._prepared.data.evaluation
        with self._meter.phase("evaluate"):
            self._view.say(f"Evaluating up to {len(rows):,} rows")
            rng = np.random.default_rng([self._config.train.seed, 5])
            found = evaluate_in_time(self._backend, rows, timed.clock, timed.cost, rng, self._stop)
        timed.mark("evaluate")
        if found is None:
            self._view.warn("There was no time left to evaluate; `edgetune evaluate` measures the model.")
            (self._folder.path / "metrics.json").unlink(missing_ok=True)
            return
        self._record_evaluation(loop.epoch, found, history)
        self._best, self._best_epoch = found, loop.epoch
        self._folder.write_json("metrics.json", found.to_dict())

    def _fall_back(self) -> None:
        """No step fitted: what is left is the fitted head, which is better than a drawn one."""
        self._view.warn("There was no time for a single step; the model is the encoder as it came.")
        if self._floor is not None:
            self._backend.set_head(self._floor.weight, self._floor.bias)

    def _record_evaluation(self, epoch: int, found: Evaluation, history: HistoryWriter) -> None:
        history.append(
            kind="eval",
            t_s=self._meter.elapsed_s(),
            epoch=epoch,
            accuracy=found.accuracy,
            macro_f1=found.macro_f1,
            loss=found.loss,
            n=found.n,
        )
        self._view.evaluated(epoch, found)

    def _end_epoch(self, epoch: int, history: HistoryWriter, rows: TokenView) -> None:
        """Evaluate; save the model when it is the best so far."""
        with self._meter.phase("evaluate"):
            self._view.say(f"Evaluating {len(rows):,} rows")
            score = partial(self._backend.score, keep=self._config.train.epochs > 1)
            found = evaluate_view(score, rows)
        self._record_evaluation(epoch, found, history)
        self._n_worse += 1
        if self._best is None or found.accuracy > self._best.accuracy:
            self._best, self._best_epoch, self._n_worse = found, epoch, 0
            self._save()
            self._folder.write_json("metrics.json", found.to_dict())

    def _save(self, under: str = "", *, light: bool = False) -> None:
        """Write the model; a light save leaves out what is slow to write and can be made later."""

        def write(scratch: Path) -> None:
            self._backend.save(scratch, self._prepared.data.label_names, light=light)
            for name in ("model", "onnx"):
                _set_max_length(scratch / name, self._config.data.max_length)

        started_s = self._meter.elapsed_s()
        with self._meter.phase("save"):
            if not light:
                self._view.say("Saving the model")
            self._folder.save_model(write, under)
        if self._timed is not None:
            self._timed.saved(self._meter.elapsed_s() - started_s)

    def _save_in_passing(self) -> None:
        """Replace the model on disk by a newer one; where that fails the older one stays."""
        try:
            self._save(light=True)
        except OSError as error:
            self._view.warn(f"A safety save failed ({error.strerror}); the model saved before that stays.")
            if self._timed is not None:
                self._timed.saved()

    def _save_interrupted(self) -> None:
        """Keep the newest weights, beside the best evaluated ones if there are any."""
        self._save("interrupted" if self._best is not None else "")
        if self._timed is not None:
            self._timed.mark("save")

    def _interrupted(self, counts: Counts) -> Interrupted:
        where = self._folder.path / ("interrupted/model" if self._best is not None else "model")
        return Interrupted(
            f"Stopped after {counts.n_steps:,} steps; the model so far is in {where}. To go on from it: "
            f"edgetune finetune --config {self._folder.path / 'config.toml'} --model {where} "
            f"--out {self._folder.path}-2"
        )

    def _write_receipt(self, loop: Loop, selector: Selector) -> RunResult:
        """Write the summary and the model card, and draw the picture if there is time for it."""
        from edgetune.report.model_card import model_card
        from edgetune.report.plots import draw_run

        out = self._folder.path
        with self._meter.phase("save"):
            draft = self._summary(loop, selector).to_dict()
            card = model_card(draft)
            for home in (out, out / "interrupted"):
                if (home / "model").is_dir():
                    (home / "model" / "README.md").write_text(card, encoding="utf-8")
            if self._timed is None or self._timed.clock.picture_fits():
                draw_run(read_history(out / "history.jsonl"), draft, out / "run.png")
            else:
                self._view.warn("There was no time left to draw run.png.")
        if self._timed is not None:
            self._timed.mark("report")
        result = self._summary(loop, selector)
        self._folder.write_json("summary.json", result.to_dict())
        if result.deadline_s is not None and result.elapsed_s > result.deadline_s:
            late_s = result.elapsed_s - result.deadline_s
            self._view.warn(
                f"The deadline was passed by {late_s:.1f} s: the machine was slower than planned."
            )
        limit_mb = self._config.budget.memory_mb
        if limit_mb is not None and (result.peak_memory_mb or 0.0) > limit_mb:
            self._view.warn(
                f"{result.peak_memory_mb:,.0f} MB of memory were used, {limit_mb:,.0f} planned for."
            )
        return result

    def _summary(self, loop: Loop, selector: Selector) -> RunResult:
        split_s = self._meter.split_s()
        return make_receipt(
            self._prepared,
            self._folder.path,
            loop,
            selector,
            split_s,
            self._best,
            self._best_epoch,
            read_energy(self._sensor, sum(split_s.values()) - self._sensor_since_s),
            self._timed,
        )


def _set_max_length(folder: Path, max_length: int) -> None:
    """Tell other libraries' tokenizers where training cut texts."""
    path = folder / "tokenizer_config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        config["model_max_length"] = max_length
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
