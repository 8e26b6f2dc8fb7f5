"""What the loop adds to bare session calls, and what selection costs in stage 2."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import rows_file, spread

from edgetune.backends.ort.ort_backend import OrtBackend
from edgetune.config.settings import TrainSettings
from edgetune.config.toml_config import make_config
from edgetune.data.batches import Batch
from edgetune.learners.loop import Loop
from edgetune.learners.progress import Progress
from edgetune.report.live_view import View
from edgetune.run_files.history import HistoryWriter
from edgetune.run_files.run_folder import RunFolder
from edgetune.runs.open_choices import vocab_size
from edgetune.runs.setup import RunContext, set_up
from edgetune.selection import DataShape, SelectionSettings, make_selector
from edgetune.selection.three_stage import ThreeStage
from edgetune.utils.machine import cache_folder
from edgetune.utils.meter import Meter
from edgetune.utils.signals import StopRequest
from edgetune.utils.types import BoolArray, FloatArray

BATCH = 32
SKIPPED = 0.8


class Fixed80(ThreeStage):
    """Stage 2 at a fixed share: asks the predictor and pays for its answer, then follows a seeded draw."""

    def choose_score(self, batch: Batch) -> BoolArray:
        chosen = super().choose_score(batch)
        if self.stage != "filter_forward":
            return chosen
        draw: BoolArray = np.random.default_rng(int(batch.rows[0])).random(len(batch)) >= SKIPPED
        return draw


class Recorder:
    """A backend that computes nothing and remembers the batches it was given."""

    name = "recorder"
    n_parameters = 0

    def __init__(self, n_labels: int) -> None:
        self.n_labels = n_labels
        self.batches: list[Batch] = []

    def score(self, batch: Batch) -> FloatArray:
        return np.zeros((len(batch), self.n_labels))

    def train_step(self, batch: Batch, lr: float, weights: FloatArray | None = None) -> FloatArray:
        self.batches.append(batch)
        return self.score(batch)


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        data = rows_file(arguments.data, arguments.rows, Path(scratch))
        config = make_config({"data": {"train": str(data)}, "model": {"backend": "ort"}})
        folder = RunFolder(Path(scratch) / "run", overwrite=False)
        run = RunContext(config, folder, cache_folder(), Meter(), View(), StopRequest())
        set_up(run, stack)
        backend = run.backend
        assert isinstance(backend, OrtBackend)
        _against_bare(backend, run.data.train, arguments.repeats, Path(scratch))
        _selection(backend, run, Path(scratch))


def _bare(backend: OrtBackend, batches: list[Batch]) -> float:
    """Seconds of the session calls alone, inputs padded beforehand."""
    inputs = [backend._inputs(batch) for batch in batches]
    module, optimizer = backend._training._module, backend._training._optimizer
    module.train()
    optimizer.set_learning_rate(1e-5)
    started = time.perf_counter()
    for arrays in inputs:
        module(*arrays)
        optimizer.step()
        module.lazy_reset_grad()
    return time.perf_counter() - started


def _loop(backend: Any, source: Any, scratch: Path, seed: int, n_steps: int) -> float:
    """Seconds of the whole loop over the same batches: data, selection, history and all."""
    shape = DataShape(len(source), len(source.label_names), 30522)
    selector = make_selector(SelectionSettings(), shape, np.random.default_rng(0))
    train = TrainSettings(lr=1e-5, epochs=2, batch_size=BATCH, max_steps=n_steps)
    with HistoryWriter(scratch / f"history-{time.perf_counter_ns()}.jsonl") as history:
        loop = Loop(
            backend=backend,
            selector=selector,
            source=source,
            settings=train,
            meter=Meter(),
            history=history,
            rng=np.random.default_rng(seed),
            run_progress=Progress(len(source), train),
        )
        started = time.perf_counter()
        loop.run_epoch(1)
        return time.perf_counter() - started


def _against_bare(backend: OrtBackend, source: Any, repeats: int, scratch: Path) -> None:
    n_steps = min(40, len(source) // BATCH - 1)
    ratios, rates = [], []
    for repeat in range(repeats + 1):
        recorder = Recorder(len(source.label_names))
        _loop(recorder, source, scratch, repeat, n_steps)  # which batches the loop will train
        pair = [
            ("bare", partial(_bare, backend, recorder.batches)),
            ("loop", partial(_loop, backend, source, scratch, repeat, n_steps)),
        ]
        seconds = {name: run() for name, run in (pair if repeat % 2 else pair[::-1])}
        if repeat:  # the first pair warms up
            ratios.append(seconds["bare"] / seconds["loop"])
            rates.append(sum(len(batch) for batch in recorder.batches) / seconds["loop"])
    print(f"loop, examples per second: {spread(rates, 1)} over {repeats} repeats of {n_steps} steps")
    print(f"loop / bare session calls on the same batches: {spread(ratios, 3)}")


def _selection(backend: OrtBackend, run: RunContext, scratch: Path) -> None:
    settings = SelectionSettings(
        method="three-stage", warmup_fraction=0.05, alt=50.0, alt_window=1, calibrated=False
    )
    n_rows = len(run.data.train)
    shape = DataShape(n_rows, len(run.data.label_names), vocab_size(run.model_loader.tokenizer_file))
    selector = Fixed80(settings, shape, np.random.default_rng(0))
    meter, train = Meter(), TrainSettings(lr=1e-5, epochs=2, batch_size=BATCH)
    with HistoryWriter(scratch / "selection.jsonl") as history:
        loop = Loop(
            backend=backend,
            selector=selector,
            source=run.data.train,
            settings=train,
            meter=meter,
            history=history,
            rng=np.random.default_rng(0),
            run_progress=Progress(n_rows, train),
        )
        loop.run_epoch(1)  # stages 0 and 1, and the rest of the epoch in stage 2
        before, counts = meter.split_s(), dataclasses.replace(loop.counts)
        loop.run_epoch(2)
    after = meter.split_s()
    spent = {name: after[name] - before[name] for name in after}
    whole = sum(spent.values())
    share = (loop.counts.n_skipped_both - counts.n_skipped_both) / (loop.counts.n_seen - counts.n_seen)
    print(
        f"stage {selector.stage}, {share:.0%} skipped both: "
        f"selection {spent['select'] / whole:.2%} of wall clock "
        f"(score {spent['score'] / whole:.0%}, train {spent['train'] / whole:.0%})"
    )
