"""The part of a run in which the model changes: the loop, evaluations, saves, and the receipt at the end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edgetune.backends.base import Backend
from edgetune.config import RunConfig
from edgetune.errors import Interrupted
from edgetune.history import HistoryWriter, read_history
from edgetune.loop import Counts, Loop, LoopSettings
from edgetune.meter import Meter
from edgetune.metrics import Evaluation
from edgetune.prepare import Prepared
from edgetune.receipt import make_receipt
from edgetune.report.live import View
from edgetune.result import RunResult
from edgetune.runfolder import RunFolder
from edgetune.saved import evaluate_view
from edgetune.selection import make_selector
from edgetune.selection.base import Selector
from edgetune.stopping import StopRequest


class Training:
    """One run's training, from the first batch to the receipt."""

    def __init__(
        self,
        config: RunConfig,
        prepared: Prepared,
        folder: RunFolder,
        meter: Meter,
        view: View,
        stop: StopRequest,
    ) -> None:
        self._config, self._prepared, self._folder = config, prepared, folder
        self._meter, self._view, self._stop = meter, view, stop
        self._backend: Backend = prepared.backend
        self._best: Evaluation | None = None
        self._best_epoch: int | None = None

    def run(self) -> RunResult:
        """Train all epochs, keep the best, and write the receipt."""
        config, seed = self._config, self._config.train.seed
        selector = make_selector(
            config.selection,
            n_examples=len(self._prepared.data.train),
            n_classes=len(self._prepared.data.label_names),
            vocab_size=self._prepared.vocab_size,
            rng=np.random.default_rng([seed, 3]),
        )
        with HistoryWriter(self._folder.path / "history.jsonl") as history:
            loop = self._make_loop(selector, history)
            self._view.begin(self._prepared, config)
            try:
                self._run_epochs(loop, history)
            finally:
                self._view.end()
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
            self._end_epoch(epoch, history)
            if loop.finished:
                return

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
            should_stop=self._stop,
        )
        loop.on_progress = lambda counts, loss: self._view.progress(
            loop.progress, counts, loss, selector.stage, self._meter.elapsed_s()
        )
        return loop

    def _end_epoch(self, epoch: int, history: HistoryWriter) -> None:
        """Evaluate; save the model when it is the best so far."""
        with self._meter.phase("evaluate"):
            self._view.say(f"Evaluating {len(self._prepared.data.evaluation):,} rows")
            found = evaluate_view(self._backend.score, self._prepared.data.evaluation)
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
        if self._best is None or found.accuracy > self._best.accuracy:
            self._best, self._best_epoch = found, epoch
            self._save()
            self._folder.write_json("metrics.json", found.to_dict())

    def _save(self, under: str = "") -> None:
        def write(scratch: Path) -> None:
            self._backend.save(scratch, self._prepared.data.label_names)
            for name in ("model", "onnx"):
                _set_max_length(scratch / name, self._config.data.max_length)

        with self._meter.phase("save"):
            self._view.say("Saving the model")
            self._folder.save_model(write, under)

    def _save_interrupted(self) -> None:
        """Keep the newest weights, beside the best evaluated ones if there are any."""
        self._save("interrupted" if self._best is not None else "")

    def _interrupted(self, counts: Counts) -> Interrupted:
        where = self._folder.path / ("interrupted/model" if self._best is not None else "model")
        return Interrupted(
            f"Stopped after {counts.n_steps:,} steps; the model so far is in {where}. To go on from it: "
            f"edgetune finetune --config {self._folder.path / 'config.toml'} --model {where} "
            f"--out {self._folder.path}-2"
        )

    def _write_receipt(self, loop: Loop, selector: Selector) -> RunResult:
        """Draw the run, write the model card and the summary."""
        from edgetune.report.model_card import model_card
        from edgetune.report.plots import draw_run

        out = self._folder.path
        with self._meter.phase("save"):
            draft = self._summary(loop, selector).to_dict()
            draw_run(read_history(out / "history.jsonl"), draft, out / "run.png")
            card = model_card(draft)
            for home in (out, out / "interrupted"):
                if (home / "model").is_dir():
                    (home / "model" / "README.md").write_text(card, encoding="utf-8")
        result = self._summary(loop, selector)
        self._folder.write_json("summary.json", result.to_dict())
        return result

    def _summary(self, loop: Loop, selector: Selector) -> RunResult:
        return make_receipt(
            self._config,
            self._prepared,
            self._folder.path,
            loop,
            selector,
            self._meter.split_s(),
            self._best,
            self._best_epoch,
        )


def _set_max_length(folder: Path, max_length: int) -> None:
    """Tell other libraries' tokenizers where training cut texts."""
    path = folder / "tokenizer_config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        config["model_max_length"] = max_length
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
