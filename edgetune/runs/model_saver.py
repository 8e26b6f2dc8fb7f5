"""Writes a run's model: the best one so far, intermediate ones, and the newest when the run is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgetune.run_files.run_folder import INTERRUPTED
from edgetune.runs.setup import RunContext
from edgetune.utils.failpoints import failpoint
from edgetune.utils.machine import return_memory
from edgetune.utils.metrics import Evaluation
from edgetune.utils.multi_label import micro_f1, restore_evaluation


class ModelSaver:
    """Keeps the best known model on disk, always in a usable state.

    Attributes:
        best: evaluation of the model in the run folder; None as long as none was evaluated.
        best_epoch: the pass after which it was evaluated.
        n_worse: number of evaluations since then that found nothing better.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self.best: Evaluation | None = None
        self.best_epoch: int | None = None
        self.n_worse = 0
        self._best_score: tuple[float, float] | None = None

    def save(self, under: str = "", *, skip_onnx: bool = False) -> None:
        """Write the model; `skip_onnx` leaves out what is slow to write and can be made later."""

        def write(scratch: Path) -> None:
            self._run.backend.save(scratch, self._run.data.label_names, skip_onnx=skip_onnx)
            for name in ("model", "onnx"):
                _set_max_length(scratch / name, self._run.config.data.max_length)

        started_s = self._run.meter.elapsed_s()
        with self._run.meter.phase("save"):
            if not skip_onnx:
                self._run.view.say("Saving the model")
                return_memory()  # what training needed, before the copies that are written
            self._run.folder.save_model(write, under)
        self._run.deadline.saved(self._run.meter.elapsed_s() - started_s)

    def consider(self, found: Evaluation, epoch: int, held_out: Evaluation | None = None) -> bool:
        """Keep the model evaluated after a pass if it is the best so far; return whether it is.

        The evaluation on rows held out for choosing decides, or `found` if there are none.
        """
        self.n_worse += 1
        by = found if held_out is None else held_out
        metric = by.macro_f1 if self._run.config.train.metric == "macro-f1" else by.accuracy
        if micro_f1(by) is not None:  # at thresholds that are chosen later
            metric = -by.loss
        score = (metric, -by.loss if held_out is not None else 0.0)
        if self.best is None or self._best_score is None or score > self._best_score:
            self.n_worse, self._best_score = 0, score
            self.save()
            self.note(found, epoch)
        return self.n_worse == 0

    def note(self, found: Evaluation, epoch: int) -> None:
        """Remember the evaluation of the model in the run folder."""
        self.best, self.best_epoch = found, epoch
        self._run.folder.write_json("metrics.json", found.to_dict())
        failpoint("metrics-written")

    def state(self) -> dict[str, Any]:
        """Return what is known of the model in the run folder."""
        best = None if self.best is None else self.best.to_dict()
        return {
            "best": best,
            "best_epoch": self.best_epoch,
            "n_worse": self.n_worse,
            "best_score": self._best_score,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state()` was taken; later saves are made again."""
        self.best = None if state["best"] is None else restore_evaluation(state["best"])
        self.best_epoch, self.n_worse = state["best_epoch"], state["n_worse"]
        self._best_score = None if state["best_score"] is None else tuple(state["best_score"])

    def forget(self) -> None:
        """Forget the evaluation, because the model in the run folder is another one now."""
        self.best = self.best_epoch = None

    def save_in_passing(self) -> None:
        """Replace the model on disk by a newer one; if that fails, the older one is kept."""
        try:
            self.save(skip_onnx=True)
        except OSError as error:
            self._run.view.warn(
                f"An intermediate save failed ({error.strerror}); the previously saved model is kept."
            )
            self._run.deadline.saved()

    def save_interrupted(self) -> Path:
        """Keep the newest weights, beside the best evaluated ones if there are any; return their folder."""
        under = INTERRUPTED if self.best is not None else ""
        self.save(under)
        self._run.deadline.mark("save")
        return self._run.folder.path / under / "model"


def _set_max_length(folder: Path, max_length: int) -> None:
    """Tell other libraries' tokenizers where training cut texts."""
    path = folder / "tokenizer_config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        config["model_max_length"] = max_length
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
