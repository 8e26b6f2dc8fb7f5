"""What a run shows while it goes on: a rich progress bar or plain lines on stderr, or a notebook's output."""

from __future__ import annotations

import html
import math
import sys
import time
from collections import deque
from typing import Any

from edgetune.data.in_memory import name_copies
from edgetune.run_files.counters import Counters
from edgetune.run_files.summary import RunResult
from edgetune.utils.formatting import accuracy_name, counted, describe_accuracy, duration
from edgetune.utils.metrics import Evaluation
from edgetune.utils.multi_label import micro_f1
from edgetune.utils.sanitize import brief, on_terminal, one_line

PLAIN_EVERY_S, NOTEBOOK_EVERY_S = 10.0, 0.25
SPEED_WINDOW_S = 20.0


class View:
    """Receives the events of a run and shows none of them; its subclasses do.

    Attributes:
        warned: warnings that were shown.
    """

    def __init__(self) -> None:
        self.warned: set[str] = set()
        self._marks: deque[tuple[float, float]] = deque()

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

    def finished(self, result: RunResult) -> None:
        """Receive the summary of the run."""

    def _time_left(self, share: float, elapsed_s: float) -> str:
        """Say the time left by recent speed, so that a stage that skips more is soon believed."""
        self._marks.append((elapsed_s, share))
        while len(self._marks) > 2 and elapsed_s - self._marks[1][0] > SPEED_WINDOW_S:
            self._marks.popleft()
        t_0, share_0 = self._marks[0]
        if share <= share_0 or elapsed_s - t_0 < 0.5:
            return ""
        return duration((1.0 - share) * (elapsed_s - t_0) / (share - share_0))


def joined(separator: str, *parts: str) -> str:
    """Join the parts that say something."""
    return separator.join(filter(None, parts))


def shares(counts: Counters) -> str:
    """Say how much was skipped, if anything was."""
    if not counts.n_seen or not (counts.n_skipped_backward or counts.n_skipped_both):
        return ""
    backward = counts.n_skipped_backward / counts.n_seen
    both = counts.n_skipped_both / counts.n_seen
    return f"skipped backward {backward:.0%}, both {both:.0%}"


def headline(prepared: Any, config: Any) -> str:
    """Say what is about to be trained, on what, by what."""
    train, data = config.train, prepared.data
    names = data.label_names
    labels = ", ".join(map(brief, names[:6])) + (", …" if len(names) > 6 else "")
    if prepared.plan is None or prepared.plan.trains:
        method, limit = config.selection.method, "at most " if config.budget.limits_time else ""
        epochs = f"frozen: {config.model.freeze}; {limit}{counted(train.epochs, 'epoch')}"
        how = f"{epochs}, batch {train.batch_size}, lr {train.lr:g}, "
    else:
        method, how = prepared.plan.method, "not trained; "
    return on_terminal(
        f"{method} on {one_line(name_copies(config.data.train, config.data.train))}: "
        f"{len(data.train):,} rows, {len(names)} labels ({labels}); "
        f"evaluated on {data.eval_source} ({counted(len(data.evaluation), 'row')})\n"
        f"{prepared.model_name} on {prepared.backend.name}, {how}at most {config.data.max_length} tokens, "
        f"seed {train.seed}"
    )


def describe_loss(loss: float) -> str:
    """Say the last step's loss, once there is one."""
    return "" if math.isnan(loss) else f"loss {loss:.3f}"


class PlainView(View):
    """Plain lines, one at most every ten seconds, or when the stage has changed."""

    def __init__(self) -> None:
        super().__init__()
        self._last_s = 0.0
        self._stage = ""

    def _print(self, text: str, style: str) -> None:
        print(on_terminal(text), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        self._print(text, "dim")

    def warn(self, text: str) -> None:
        self.warned.add(text)
        self._print(f"warning: {text}", "yellow")

    def begin(self, prepared: Any, config: Any) -> None:
        self._print(headline(prepared, config), "")

    def progress(self, share: float, counts: Counters, loss: float, stage: str, elapsed_s: float) -> None:
        left = self._time_left(share, elapsed_s)
        if elapsed_s - self._last_s < PLAIN_EVERY_S and stage == self._stage:
            return
        self._last_s, self._stage = elapsed_s, stage
        done = f"{share:4.0%}  step {counts.n_steps:,}"
        left = left and f"{left} of training left"
        self.say(joined("  ", done, describe_loss(loss), f"stage {stage}", shares(counts), left))

    def evaluated(self, epoch: int, found: Evaluation) -> None:
        low, high = found.interval
        what = f"encoder after epoch {epoch}" if epoch else "linear probe"
        name = "accuracy" if (f1 := micro_f1(found)) is None else f"micro-F1 {f1:.4f}, subset accuracy"
        self.say(f"{what}: {name} {found.accuracy:.4f} ({low:.3f} to {high:.3f}), loss {found.loss:.3f}")


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

    def _print(self, text: str, style: str) -> None:
        self._console.print(on_terminal(text), style=style, highlight=False, markup=False)

    def begin(self, prepared: Any, config: Any) -> None:
        super().begin(prepared, config)
        self._task = self._bar.add_task("", total=1.0, stage="", note="")
        self._bar.start()

    def progress(self, share: float, counts: Counters, loss: float, stage: str, elapsed_s: float) -> None:
        left = self._time_left(share, elapsed_s)
        note = joined("  ", left and f"{left} left", describe_loss(loss), shares(counts))
        self._bar.update(self._task, completed=share, stage=stage, note=note)

    def end(self) -> None:
        self._bar.stop()


class NotebookView(View):
    """One output in a notebook, which is redrawn, and at the end says what came of the run.

    It needs nothing but IPython: a bar of rich would need ipywidgets, and their extension in the browser.
    """

    def __init__(self) -> None:
        super().__init__()
        self._head = self._status = ""
        self._warnings: list[str] = []
        self._share: float | None = None
        self._handle: Any = None
        self._drawn_s = 0.0

    def __repr__(self) -> str:
        """Return what a program without HTML shows."""
        return joined("\n", self._head, self._status, *self._warnings)

    def _repr_html_(self) -> str:
        bar = "" if self._share is None else f'<progress max="1" value="{self._share:.3f}"></progress> '
        parts = [html.escape(self._head), bar + html.escape(self._status), *map(html.escape, self._warnings)]
        return f'<div style="white-space: pre-wrap">{joined("<br>", *parts)}</div>'

    def _draw(self) -> None:
        from IPython.display import display

        self._drawn_s = time.monotonic()
        if self._handle is None:
            self._handle = display(self, display_id=True)
        else:
            self._handle.update(self)

    def say(self, text: str) -> None:
        self._status = on_terminal(text)
        self._draw()

    def warn(self, text: str) -> None:
        self.warned.add(text)
        self._warnings.append(f"warning: {on_terminal(text)}")
        self._draw()

    def begin(self, prepared: Any, config: Any) -> None:
        self._head, self._share = headline(prepared, config), 0.0
        self._draw()

    def progress(self, share: float, counts: Counters, loss: float, stage: str, elapsed_s: float) -> None:
        left = self._time_left(share, elapsed_s)
        if time.monotonic() - self._drawn_s < NOTEBOOK_EVERY_S:
            return
        self._share = share
        left = left and f"{left} of training left"
        self._status = joined(", ", f"step {counts.n_steps:,}", left, describe_loss(loss), shares(counts))
        self._draw()

    def end(self) -> None:
        self._share = None
        self._draw()

    def finished(self, result: RunResult) -> None:
        summary, what = result.to_dict(), "Not evaluated"
        if (found := describe_accuracy(summary)) is not None:
            what = f"{accuracy_name(summary).capitalize()} {found} on {counted(result.n_eval, 'row')}"
        self._status = f"{what}, after {duration(result.elapsed_s)}. The run is in {result.run_dir}."
        self._draw()


def in_notebook() -> bool:
    """Return whether this program is a cell of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")  # a terminal's IPython has none


def make_view(quiet: bool) -> View:
    """Choose by where the output goes: a notebook, a terminal, or anything else."""
    if quiet:
        return View()
    if in_notebook():
        return NotebookView()
    return RichView() if sys.stderr.isatty() else PlainView()
