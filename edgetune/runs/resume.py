"""Resuming a run: what a checkpoint holds, when one is due, and what it is compared with.

Training ─ state of loop, saver, clock ─→ Recovery.write ─→ RUN/checkpoints/
RUN ─→ read_interruption ─→ Interruption ─→ prepare (same rows, same plan) ─→ Recovery.restore
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.data.splits import Splits
from edgetune.planning.plan import Plan
from edgetune.run_files.checkpoint import Checkpoint, checkpoint_files, newest_checkpoint, write_checkpoint
from edgetune.run_files.history import read_history
from edgetune.run_files.summary import read_summary
from edgetune.utils.errors import DataError, RunError
from edgetune.utils.formatting import counted
from edgetune.utils.machine import machine_info, versions
from edgetune.utils.meter import Meter

EVERY_S = 60.0
COST_RATE = 0.01
"""Largest share of the time that checkpoints take, unless the user sets their interval."""
FIRST_BYTES_S = 200e6
"""Assumed bytes per second of writing, syncing included, until a first checkpoint was timed."""
ADAM_BYTES = 12
"""Bytes of a trained parameter: itself and two moments."""


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
    def read_length(self) -> int:
        """Tokens per row at most, as the rows were tokenized."""
        return int(self.state["of"]["read_length"])

    @property
    def breaks(self) -> list[dict[str, Any]]:
        """This interruption and those before it, as in the summary."""
        this = {
            "n_steps": self.n_steps,
            "n_steps_lost": self.n_steps_lost,
            "elapsed_s": sum(self.state["spent_s"].values()),
            "lost_s": self.lost_s,
        }
        return [*self.state["breaks"], this]

    @property
    def energy_j(self) -> float:
        """Joules used before the interruption; for the lost time, at the mean power up to the checkpoint."""
        joules, spent_s = float(self.state["joules"]), sum(self.state["spent_s"].values())
        return joules * (1.0 + self.lost_s / spent_s) if spent_s > 0 else joules

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


def fingerprint(rows: Splits, backend: str, depth: int) -> dict[str, Any]:
    """Return what must be the same for a run to be resumed, and what should be."""
    stores = (rows.train.store, rows.evaluation.store)
    return {
        "rows": [store.checksum() for store in stores],
        "labels": list(rows.label_names),
        "n_rows": [len(rows.train), len(rows.evaluation), _held_out(rows)],
        "read_length": rows.train.store.meta.max_length,
        "backend": [backend, depth],
        "machine": [machine_info().get("cpu"), versions()],
    }


def _held_out(rows: Splits) -> int:
    """Return a checksum of which rows are held out; 0 if none are."""
    return 0 if rows.held_out is None else zlib.crc32(np.ascontiguousarray(rows.held_out.rows).tobytes())


def check_unchanged(found: dict[str, Any], now: dict[str, Any], train: str) -> str:
    """Compare a checkpoint's fingerprint with the current one; return a warning, "" for none.

    Raises:
        DataError: the rows or labels differ.
        RunError: the backend or the frozen layers differ.
    """
    if any(found[name] != now[name] for name in ("rows", "labels", "n_rows")):
        raise DataError(
            f"{train} (or the evaluation data) has changed since the run started, so the run cannot be "
            "resumed. Restore the original file, or start a new run."
        )
    if found["backend"] != now["backend"]:
        was, here = (
            f"{name} with {counted(depth, 'layer')} frozen"
            for name, depth in (found["backend"], now["backend"])
        )
        raise RunError(f"The run was trained by {was}, but would be resumed by {here}; start a new run.")
    if found["machine"] != now["machine"]:
        return (
            "The processor or a library version has changed since the run started. The run is resumed, but "
            "its results are not bit-for-bit those of an uninterrupted run."
        )
    return ""


class CheckpointWriter:
    """Writes a run's checkpoints when they are due."""

    def __init__(self, folder: Path, asked_s: float | None, meter: Meter, n_parameters: int) -> None:
        """Start counting the time to the first checkpoint.

        Args:
            folder: folder of the run.
            asked_s: seconds between two checkpoints, if the user set them; 0: only when the run is stopped.
            meter: records their time, and knows that of checkpoints before an interruption.
            n_parameters: number of trained parameters.
        """
        self._folder, self._asked_s, self._meter = folder, asked_s, meter
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

    def write(self, state: dict[str, Any], backend: bytes) -> None:
        """Write a checkpoint.

        Raises:
            OSError: it could not be written; earlier checkpoints are untouched.
        """
        started_s = self._meter.elapsed_s()
        try:
            write_checkpoint(self._folder, state, backend)
        finally:
            self._last_s = self._meter.elapsed_s()
            self._takes_s = self._last_s - started_s

    def newest(self, *, but_newest: bool = False) -> Checkpoint | None:
        """Read the newest checkpoint; `but_newest` first deletes the newest one, which led nowhere."""
        files = checkpoint_files(self._folder)
        if but_newest and files:
            files[-1].unlink()
        return newest_checkpoint(self._folder)
