"""What a run shows while it goes on: a rich progress bar, plain lines, or nothing. All of it on stderr."""

from __future__ import annotations

import math
import sys
from collections import deque
from typing import Any, TextIO

from edgetune.data.in_memory import name_copies
from edgetune.run_files.counters import Counters
from edgetune.utils.formatting import counted, duration
from edgetune.utils.metrics import Evaluation
from edgetune.utils.sanitize import brief, on_terminal, one_line

PLAIN_EVERY_S = 10.0
SPEED_WINDOW_S = 20.0


class View:
    """Receives the events of a run and shows none of them; its subclasses do.

    Attributes:
        warned: warnings that were shown.
    """

    def __init__(self) -> None:
        self.warned: set[str] = set()

    def say(self, text: str) -> None:
        """Receive a message."""

    def warn(self, text: str) -> None:
        """Receive a warning."""

    def begin(self, prepared: Any, config: Any) -> None:
        """Receive what is about to be trained, with its settings."""

    def progress(self, share: float, counts: Counters, loss: float, stage: str, elapsed_s: float) -> None:
        """Receive the progress of training."""

    def evaluated(self, epoch: int, found: Evaluation) -> None:
        """Receive the evaluation of an epoch; epoch 0 is the linear probe, before any training."""

    def end(self) -> None:
        """Training has ended."""


class TimeLeft:
    """Time left from recent speed, so that a stage that skips more is soon believed."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque()

    def left_s(self, share: float, elapsed_s: float) -> float | None:
        """Return the seconds left of the training loop, None before it can be told."""
        self._marks.append((elapsed_s, share))
        while len(self._marks) > 2 and elapsed_s - self._marks[1][0] > SPEED_WINDOW_S:
            self._marks.popleft()
        t_0, share_0 = self._marks[0]
        if share <= share_0 or elapsed_s - t_0 < 0.5:
            return None
        return (1.0 - share) * (elapsed_s - t_0) / (share - share_0)


def shares(counts: Counters) -> str:
    """Say how much was skipped, if anything was."""
    if not counts.n_seen or not (counts.n_skipped_backward or counts.n_skipped_both):
        return ""
    backward = counts.n_skipped_backward / counts.n_seen
    both = counts.n_skipped_both / counts.n_seen
    return f"skipped backward {backward:.0%}, both {both:.0%}"


def headline(prepared: Any, config: Any) -> str:
    """Say what is about to be trained, on what, by what."""
    train = config.train
    names = prepared.data.label_names
    n_eval = counted(len(prepared.data.evaluation), "row")
    labels = ", ".join(map(brief, names[:6])) + (", …" if len(names) > 6 else "")
    if prepared.plan is None or prepared.plan.trains:
        method, limit = config.selection.method, "at most " if config.budget.limits_time else ""
        how = (
            f"frozen: {prepared.freeze}; {limit}{counted(train.epochs, 'epoch')}, "
            f"batch {train.batch_size}, lr {train.lr:g}, "
        )
    else:
        method, how = prepared.plan.method, "not trained; "
    data = one_line(name_copies(config.data.train, config.data.train))
    return (
        f"{method} on {data}: {len(prepared.data.train):,} rows, {len(names)} labels "
        f"({labels}); evaluated on {prepared.data.eval_source} ({n_eval})\n"
        f"{prepared.model_name} on {prepared.backend.name}, {how}at most {config.data.max_length} tokens, "
        f"seed {train.seed}"
    )


def describe_loss(loss: float) -> str:
    """Say the last step's loss, once there is one."""
    return "" if math.isnan(loss) else f"loss {loss:.3f}"


class PlainView(View):
    """Plain lines, one at most every ten seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream if stream is not None else sys.stderr
        self._speed = TimeLeft()
        self._last_s = 0.0
        self._stage = ""

    def say(self, text: str) -> None:
        """Print a line."""
        print(on_terminal(text), file=self._stream, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.warned.add(text)
        self.say(f"warning: {text}")

    def begin(self, prepared: Any, config: Any) -> None:
        """Print what is trained."""
        self.say(headline(prepared, config))

    def progress(self, share: float, counts: Counters, loss: float, stage: str, elapsed_s: float) -> None:
        """Print a line when ten seconds have passed or the stage has changed."""
        left_s = self._speed.left_s(share, elapsed_s)
        if elapsed_s - self._last_s < PLAIN_EVERY_S and stage == self._stage:
            return
        self._last_s, self._stage = elapsed_s, stage
        parts = [
            f"{share:4.0%}",
            f"step {counts.n_steps:,}",
            describe_loss(loss),
            f"stage {stage}",
            shares(counts),
        ]
        if left_s is not None:
            parts.append(f"{duration(left_s)} of training left")
        self.say("  ".join(part for part in parts if part))

    def evaluated(self, epoch: int, found: Evaluation) -> None:
        """Print an evaluation."""
        low, high = found.interval
        what = f"epoch {epoch}" if epoch else "linear probe"
        self.say(f"{what}: accuracy {found.accuracy:.4f} ({low:.3f} to {high:.3f}), loss {found.loss:.3f}")


class RichView(PlainView):
    """A progress bar with the time left, loss, stage and shares."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__()
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.fields[stage]}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
        )
        self._task: Any = None

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(on_terminal(text), style="dim", highlight=False, markup=False)

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self.warned.add(text)
        self._console.print(f"warning: {on_terminal(text)}", style="yellow", highlight=False, markup=False)

    def begin(self, prepared: Any, config: Any) -> None:
        """Print what is trained and start the bar."""
        self._console.print(on_terminal(headline(prepared, config)), highlight=False, markup=False)
        self._task = self._bar.add_task("", total=1.0, stage="", note="")
        self._bar.start()

    def progress(self, share: float, counts: Counters, loss: float, stage: str, elapsed_s: float) -> None:
        """Move the bar."""
        left_s = self._speed.left_s(share, elapsed_s)
        left = f"{duration(left_s)} left" if left_s is not None else ""
        note = "  ".join(part for part in (left, describe_loss(loss), shares(counts)) if part)
        self._bar.update(self._task, completed=share, stage=stage, note=note)

    def end(self) -> None:
        """Remove the bar."""
        self._bar.stop()


def make_view(quiet: bool) -> View:
    """Choose by what stderr is."""
    if quiet:
        return View()
    return RichView() if sys.stderr.isatty() else PlainView()
