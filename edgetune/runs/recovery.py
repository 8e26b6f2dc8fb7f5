"""Protects a run's work: checkpoints, resuming, and rolling back after a loss that is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgetune.backends.backend_contract import NoLinearHead
from edgetune.learners.loop import Loop
from edgetune.run_files.checkpoint import checkpoint_files
from edgetune.run_files.history import HistoryWriter
from edgetune.run_files.run_folder import CHECKPOINTS, INTERRUPTED
from edgetune.runs.context import RunContext
from edgetune.runs.ensembling import EnsembleStage
from edgetune.runs.model_saver import ModelSaver
from edgetune.runs.resume import CheckpointWriter, Interruption, check_unchanged, fingerprint
from edgetune.runs.setup import Prepared
from edgetune.utils.failpoints import failpoint
from edgetune.utils.machine import return_memory

RETURN_EVERY_S = 15.0
"""Seconds between two returns of freed memory to the system, each of which takes milliseconds."""
MOST_DIVERGED = 3
"""The learning rate is halved this many times; at the next loss that is not finite, the run ends."""


class Recovery:
    """Writes and reads everything that is needed to resume a run.

    Attributes:
        breaks: where the run was interrupted, as in the summary.
        n_diverged: how often the loss was not finite.
    """

    def __init__(self, run: RunContext[Prepared], saver: ModelSaver, ensemble: EnsembleStage) -> None:
        self._run, self._saver, self._ensemble = run, saver, ensemble
        backend, asked_s = run.prepared.backend, run.prepared.config.train.checkpoint_s
        self._checkpoints = CheckpointWriter(run.folder.path, asked_s, run.meter, backend.n_parameters)
        self._cache = backend.cache
        self._of = fingerprint(run.prepared.data, backend.name, backend.depth)
        self._went_back_to = -1  # step
        self._returned_s = run.meter.elapsed_s()
        self.breaks: list[dict[str, Any]] = []
        self.n_diverged = 0

    def between_batches(self, loop: Loop, history: HistoryWriter) -> None:
        """Write a checkpoint if the last one is old; return freed memory now and then."""
        if self._run.meter.elapsed_s() - self._returned_s > RETURN_EVERY_S:
            return_memory()
            self._returned_s = self._run.meter.elapsed_s()
        if self._checkpoints.is_due(self._run.deadline.clock.left_s()):
            self.write(loop, history)

    def write(self, loop: Loop, history: HistoryWriter) -> bool:
        """Write a checkpoint between two batches; return whether there is one to resume from."""
        with self._run.meter.phase("checkpoint"):
            try:
                if self._healthy():
                    self._checkpoints.write(self._state(loop, history), self._run.prepared.backend.state())
            except OSError as error:
                self._run.view.warn(
                    f"A checkpoint could not be written ({error.strerror}); earlier checkpoints are kept."
                )
        return bool(checkpoint_files(self._run.folder.path))

    def _healthy(self) -> bool:
        """Return whether the weights are finite; a step with a loss that is not finite spoils all of them."""
        try:
            return all(np.isfinite(part).all() for part in self._run.prepared.backend.head())
        except NoLinearHead:
            return True

    def _state(self, loop: Loop, history: HistoryWriter) -> dict[str, Any]:
        return {
            "of": self._of,
            "loop": loop.state(),
            "prefix_cache": None if self._cache is None else self._cache.state(),
            "keeper": self._saver.state(),
            "ensemble": self._ensemble.state(),
            "timed": self._run.deadline.state(),
            "history": history.state(),
            "spent_s": self._run.meter.split_s(),
            "joules": self._run.sensor.joules(),
            "measured": self._run.sensor.measured,
            "since_s": self._run.sensor_since_s,
            "breaks": self.breaks,
            "n_diverged": self.n_diverged,
            "rows_at_once": self._run.prepared.backend.microbatches.max_rows,
        }

    def restore(self, interruption: Interruption, loop: Loop, history: HistoryWriter) -> None:
        """Restore loop, model, history and clock from a checkpoint.

        Raises:
            EdgetuneError: rows or backend are not those of the run.
        """
        state = interruption.state
        warning = check_unchanged(state["of"], self._of, self._run.prepared.config.data.train)
        if warning:
            self._run.view.warn(warning)
        for path in interruption.checkpoint.damaged:
            self._run.view.warn(f"{path} is damaged; resuming from the previous checkpoint.")
        history.load_state(state["history"])
        loop.load_state(state["loop"], interruption.checkpoint.backend, self._run.prepared.backend.state)
        if self._cache is not None and (kept := state["prefix_cache"]) is not None:
            data = self._run.prepared.data
            views = [view for view in (data.train, data.evaluation, data.held_out) if view is not None]
            self._cache.load_state(kept, views)
        self._run.prepared.backend.microbatches.max_rows = state["rows_at_once"]
        self._saver.load_state(state["keeper"])
        self._ensemble.load_state(state["ensemble"])
        self._run.deadline.load_state(state["timed"])
        self.breaks, self.n_diverged = interruption.breaks, state["n_diverged"]
        self._run.folder.remove("summary.json")
        self._run.view.say(interruption.describe())

    def roll_back(self, loop: Loop, fresh: Loop, history: HistoryWriter) -> bool:
        """Restore the last good weights and halve the learning rate; return whether to continue.

        Args:
            loop: the loop to restore.
            fresh: a loop that has not begun, used if there is no checkpoint.
            history: its later lines are removed, and a note is added.
        """
        self.n_diverged += 1
        from_step = loop.counts.n_steps
        found = self._checkpoints.newest(but_newest=from_step == self._went_back_to)
        if found is not None:
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
        return self._run.prepared.reopen().state()

    def finish(self) -> None:
        """Remove what only an unfinished run needs."""
        for name in (CHECKPOINTS, INTERRUPTED):
            self._run.folder.remove(name)
        failpoint("checkpoints-removed")
