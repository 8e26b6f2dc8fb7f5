"""Protects a run's work: checkpoints, resuming, and rolling back after a loss that is not finite.

Training ─ state of loop, saver, clock ─→ Recovery.write ─→ RUN/checkpoints/
RUN ─→ read_interruption ─→ Interruption ─→ set_up (same rows, same plan) ─→ Recovery.restore
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.backend_contract import NoLinearHead
from edgetune.learners.loop import Loop
from edgetune.planning.plan import Plan
from edgetune.run_files.checkpoint import Checkpoint, checkpoint_files, newest_checkpoint, write_checkpoint
from edgetune.run_files.history import HistoryWriter, read_history
from edgetune.run_files.run_folder import CHECKPOINTS, INTERRUPTED
from edgetune.run_files.summary import read_summary
from edgetune.runs.ensembling import EnsembleStage
from edgetune.runs.model_saver import ModelSaver
from edgetune.runs.setup import RunContext
from edgetune.utils.errors import DataError, RunError
from edgetune.utils.failpoints import failpoint
from edgetune.utils.formatting import counted
from edgetune.utils.machine import machine_info, return_memory, versions
from edgetune.utils.meter import Meter

EVERY_S = 60.0
COST_RATE = 0.01
"""Largest share of the time that checkpoints take, unless the user sets their interval."""
FIRST_BYTES_S = 200e6
"""Assumed bytes per second of writing, syncing included, until a first checkpoint was timed."""
ADAM_BYTES = 12
"""Bytes of a trained parameter: itself and two moments."""
RETURN_EVERY_S = 15.0
"""Seconds between two returns of freed memory to the system, each of which takes milliseconds."""
MOST_DIVERGED = 3
"""The learning rate is halved this many times; at the next loss that is not finite, the run ends."""


@dataclass(frozen=True)
class Interruption:
    """Where a run was interrupted.

    Attributes:
        checkpoint: the one to resume from.
        lost_s: seconds between the checkpoint and the run's last sign of life.
        n_steps: optimizer steps at the checkpoint.
        n_steps_lost: steps made after it.
    """

    checkpoint: Checkpoint
    lost_s: float
    n_steps: int
    n_steps_lost: int

    @property
    def state(self) -> dict[str, Any]:
        """The saved state, except that of the backend."""
        return self.checkpoint.state

    @property
    def plan(self) -> Plan | None:
        """The plan that the run follows; None if it ends with its data."""
        deadline = self.state["timed"]
        return None if deadline is None else Plan.from_dict(deadline["plan"])

    @property
    def spent_s(self) -> float:
        """Seconds of the run up to the checkpoint."""
        return float(sum(self.state["spent_s"].values()))

    @property
    def energy_j(self) -> float:
        """Joules used before the interruption; for the lost time, at the mean power up to the checkpoint."""
        joules = float(self.state["joules"])
        return joules * (1.0 + self.lost_s / self.spent_s) if self.spent_s > 0 else joules

    def describe(self) -> str:
        """Say in a sentence where the run is resumed, and what is repeated."""
        if not self.n_steps_lost:
            return f"Resuming at step {self.n_steps:,}; no training steps lost."
        steps = counted(self.n_steps_lost, "step")
        verb = "is" if self.n_steps_lost == 1 else "are"
        return f"Resuming at step {self.n_steps:,}; {steps} ({self.lost_s:.1f} s of work) {verb} repeated."


def read_interruption(folder: Path) -> Interruption:
    """Find where a run was interrupted; nothing is changed.

    Raises:
        RunError: it is finished, or there is no checkpoint to resume from.
    """
    summary = read_summary(folder)
    if summary and not summary.get("interrupted"):
        raise RunError(f"{folder} is finished; there is nothing to resume.")
    found = newest_checkpoint(folder)
    if found is None:
        raise RunError(
            f"{folder} has no checkpoint: the run was interrupted before the first one. Start it again with: "
            f"edgetune finetune --config {folder / 'config.toml'} --out {folder} --overwrite"
        )
    n_steps, spent_s = int(found.state["loop"]["counts"]["n_steps"]), sum(found.state["spent_s"].values())
    lines = read_history(folder / "history.jsonl")
    last_s = max(
        [spent_s, float(summary.get("elapsed_s", 0.0)), *(float(line["t_s"]) for line in lines[-1:])]
    )
    last_step = max((int(line["step"]) for line in lines if line["kind"] == "step"), default=n_steps)
    return Interruption(found, last_s - spent_s, n_steps, max(0, last_step - n_steps))


class CheckpointSchedule:
    """Says when a checkpoint is due."""

    def __init__(self, asked_s: float | None, meter: Meter, n_parameters: int) -> None:
        """Start counting the time to the first checkpoint.

        Args:
            asked_s: seconds between two checkpoints, if the user set them; 0: only when the run is stopped.
            meter: records their time, and knows that of checkpoints before an interruption.
            n_parameters: number of trained parameters.
        """
        self._asked_s, self._meter = asked_s, meter
        self._last_s = meter.elapsed_s()
        self._takes_s = ADAM_BYTES * n_parameters / FIRST_BYTES_S

    def is_due(self, left_s: float) -> bool:
        """Return whether the last one is old, and enough of the run is left for another to be of use."""
        age_s = self._meter.elapsed_s() - self._last_s
        if self._asked_s is not None:
            return bool(self._asked_s) and age_s > self._asked_s and left_s > self._asked_s / 2
        if age_s <= EVERY_S or left_s <= max(EVERY_S, self._takes_s / COST_RATE) / 2:
            return False
        cost_s = self._meter.split_s()["checkpoint"] + self._takes_s
        return cost_s <= COST_RATE * self._meter.elapsed_s()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Time a checkpoint that is written meanwhile."""
        started_s = self._meter.elapsed_s()
        try:
            yield
        finally:
            self._last_s = self._meter.elapsed_s()
            self._takes_s = self._last_s - started_s


class Recovery:
    """Writes and reads everything that is needed to resume a run.

    Attributes:
        breaks: where the run was interrupted, as in the summary.
        n_diverged: how often the loss was not finite.
    """

    def __init__(
        self, run: RunContext, loop: Loop, history: HistoryWriter, saver: ModelSaver, ensemble: EnsembleStage
    ) -> None:
        self._run, self._loop, self._history = run, loop, history
        self._saver, self._ensemble = saver, ensemble
        self._backend, self._cache = run.backend, run.backend.cache
        asked_s, n_parameters = run.config.train.checkpoint_s, run.backend.n_parameters
        self._of = self._fingerprint()
        self._schedule = CheckpointSchedule(asked_s, run.meter, n_parameters)
        self._went_back_to = -1  # step
        self._returned_s = run.meter.elapsed_s()
        self.breaks: list[dict[str, Any]] = []
        self.n_diverged = 0

    def between_batches(self) -> None:
        """Write a checkpoint if the last one is old; return freed memory now and then."""
        if self._run.meter.elapsed_s() - self._returned_s > RETURN_EVERY_S:
            return_memory()
            self._returned_s = self._run.meter.elapsed_s()
        if self._schedule.is_due(self._run.deadline.clock.left_s()):
            self.write()

    def write(self) -> bool:
        """Write a checkpoint between two batches; return whether there is one to resume from."""
        with self._run.meter.phase("checkpoint"):
            try:
                if self._healthy():
                    state, backend = self._state(), self._backend.state()
                    with self._schedule.writing():
                        write_checkpoint(self._run.folder.path, state, backend)
            except OSError as error:
                self._run.view.warn(
                    f"A checkpoint could not be written ({error.strerror}); earlier checkpoints are kept."
                )
        return bool(checkpoint_files(self._run.folder.path))

    def _healthy(self) -> bool:
        """Return whether the weights are finite; a step with a loss that is not finite spoils all of them."""
        try:
            return all(np.isfinite(part).all() for part in self._backend.head())
        except NoLinearHead:
            return True

    def _state(self) -> dict[str, Any]:
        return {
            "of": self._of,
            "loop": self._loop.state(),
            "prefix_cache": None if self._cache is None else self._cache.state(),
            "keeper": self._saver.state(),
            "ensemble": self._ensemble.state(),
            "timed": self._run.deadline.state(),
            "history": self._history.state(),
            "spent_s": self._run.meter.split_s(),
            "joules": self._run.sensor.joules(),
            "measured": self._run.sensor.measured,
            "since_s": self._run.sensor_since_s,
            "breaks": self.breaks,
            "n_diverged": self.n_diverged,
            "rows_at_once": self._backend.microbatches.max_rows,
        }

    def restore(self, interruption: Interruption) -> None:
        """Restore loop, model, history and clock from a checkpoint.

        Raises:
            EdgetuneError: rows or backend are not those of the run.
        """
        state = interruption.state
        self._check_unchanged(state["of"])
        for path in interruption.checkpoint.damaged:
            self._run.view.warn(f"{path} is damaged; resuming from the previous checkpoint.")
        self._history.load_state(state["history"])
        self._loop.load_state(state["loop"], interruption.checkpoint.backend, self._backend.state)
        if self._cache is not None and (kept := state["prefix_cache"]) is not None:
            data = self._run.data
            views = [view for view in (data.train, data.evaluation, data.held_out) if view is not None]
            self._cache.load_state(kept, views)
        self._backend.microbatches.max_rows = state["rows_at_once"]
        self._saver.load_state(state["keeper"])
        self._ensemble.load_state(state["ensemble"])
        self._run.deadline.load_state(state["timed"])
        this = {
            "n_steps": interruption.n_steps,
            "n_steps_lost": interruption.n_steps_lost,
            "elapsed_s": interruption.spent_s,
            "lost_s": interruption.lost_s,
        }
        self.breaks, self.n_diverged = [*state["breaks"], this], state["n_diverged"]
        self._run.folder.remove("summary.json")
        self._run.view.say(interruption.describe())

    def _fingerprint(self) -> dict[str, Any]:
        """Return what must be the same for a run to be resumed, and what should be."""
        data, held_out = self._run.data, 0  # else a checksum of which rows are held out
        if data.held_out is not None:
            held_out = zlib.crc32(np.ascontiguousarray(data.held_out.rows).tobytes())
        return {
            "rows": [data.train.store.checksum(), data.evaluation.store.checksum()],
            "labels": list(data.label_names),
            "n_rows": [len(data.train), len(data.evaluation), held_out],
            "read_length": data.train.store.meta.max_length,
            "backend": [self._backend.name, self._backend.depth],
            "machine": [machine_info().get("cpu"), versions()],
        }

    def _check_unchanged(self, found: dict[str, Any]) -> None:
        """Compare a checkpoint's fingerprint with the current one."""
        now = self._of
        if any(found[name] != now[name] for name in ("rows", "labels", "n_rows")):
            raise DataError(
                f"{self._run.config.data.train} (or the evaluation data) has changed since the run started, "
                "so the run cannot be resumed. Restore the original file, or start a new run."
            )
        if found["backend"] != now["backend"]:
            was, here = (
                f"{name} with {counted(depth, 'layer')} frozen"
                for name, depth in (found["backend"], now["backend"])
            )
            raise RunError(f"The run was trained by {was}, but would be resumed by {here}; start a new run.")
        if found["machine"] != now["machine"]:
            self._run.view.warn(
                "The processor or a library version has changed since the run started. The run is resumed, "
                "but its results are not bit-for-bit those of an uninterrupted run."
            )

    def roll_back(self, fresh: Loop) -> bool:
        """Restore the last good weights and halve the learning rate; return whether to continue.

        Without a checkpoint these are the first ones, of a `fresh` loop that has not begun.
        """
        self.n_diverged += 1
        loop, history, folder = self._loop, self._history, self._run.folder.path
        from_step, files = loop.counts.n_steps, checkpoint_files(folder)
        if files and from_step == self._went_back_to:
            files[-1].unlink()  # it led nowhere
        if (found := newest_checkpoint(folder)) is not None:
            history.load_state(found.state["history"])
            loop.load_state(found.state["loop"], found.backend, self._first)
        else:
            history.empty()
            fresh.begin()
            loop.load_state(fresh.state(), self._first(), self._first)
        self._went_back_to = loop.counts.n_steps
        loop.lr_scale = 0.5**self.n_diverged
        goes_on = self.n_diverged <= MOST_DIVERGED
        lower = f"the learning rate was reduced to {loop.lr_scale:g} of its initial value"
        then = lower if goes_on else "training ends here"
        text = (
            f"The loss was NaN or infinite after step {from_step:,}; the weights of step "
            f"{loop.counts.n_steps:,} were restored, and {then}."
        )
        history.append(kind="note", t_s=self._run.meter.elapsed_s(), text=text)
        self._run.view.warn(text)
        return goes_on

    def _first(self) -> bytes:
        """Return parameters and optimizer of a run that has not begun."""
        return self._run.open_backend().state()

    def finish(self) -> None:
        """Remove what only an unfinished run needs."""
        for name in (CHECKPOINTS, INTERRUPTED):
            self._run.folder.remove(name)
        failpoint("checkpoints-removed")
