"""The picture of a run, `run.png`: loss, stages and what was skipped, over time.

Drawn on Agg through matplotlib's objects: no window, no pyplot, no global state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetune.report.charts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    plain_label,
    save_figure,
    style_axes,
    white_figure,
)
from edgetune.utils.formatting import (
    Summary,
    counted,
    dataset_name,
    describe_accuracy,
    describe_stage,
    percent,
)
from edgetune.utils.sanitize import brief
from edgetune.utils.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BANDS = ("#F3E3BF", "#CFE6F5", "#CDEBDD", "#EFD9E6")
FEW_STEPS = 30


@dataclass(frozen=True, slots=True)
class Trace:
    """What the picture needs of a history, as arrays over its lines.

    Attributes:
        step_t: (S,) seconds of every step.
        loss: (S,) mean loss of every step, nan where it was not finite.
        t: (L,) seconds of every step and skip line.
        shares: (3, L) of the examples seen by then: trained, scored and not trained, not even scored; the
            rest to 1 waits in a queue.
        stages: when each stage began, and its name.
        evals: when each evaluation ended, and its accuracy.
        end: seconds of the last line.
    """

    step_t: FloatArray
    loss: FloatArray
    t: FloatArray
    shares: FloatArray
    stages: list[tuple[float, str]]
    evals: list[tuple[float, float]]
    end: float


def trace(history: list[dict[str, Any]]) -> Trace:
    """Read the arrays off a history, whose lines hold totals."""

    def column(lines: list[dict[str, Any]], name: str) -> FloatArray:
        return np.array([np.nan if line.get(name) is None else line[name] for line in lines], np.float64)

    steps = [line for line in history if line["kind"] == "step"]
    moves = [line for line in history if line["kind"] in {"step", "skip"}]
    totals = [column(moves, name) for name in ("n_trained", "n_skipped_backward", "n_skipped_both")]
    return Trace(
        step_t=column(steps, "t_s"),
        loss=column(steps, "loss"),
        t=column(moves, "t_s"),
        shares=np.nan_to_num(np.stack(totals) / np.maximum(column(moves, "n_seen"), 1.0)),
        stages=[(float(line["t_s"]), str(line["stage"])) for line in history if line["kind"] == "stage"],
        evals=[
            (float(line["t_s"]), float(line["accuracy"]))
            for line in history
            if line["kind"] == "eval" and line.get("accuracy") is not None
        ],
        end=max((float(line["t_s"]) for line in history), default=0.0),
    )


def smooth(values: FloatArray, span: float) -> FloatArray:
    """Return the exponential moving mean over about `span` values, unbiased at the start; nan is skipped."""
    keep = 1 - 2 / (span + 1)
    out = np.empty_like(values)
    total = weight = 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        out[i] = total / weight if weight else np.nan
    return out


def draw_run(history: list[dict[str, Any]], summary: Summary, out: Path) -> None:
    """Draw the run as a PNG of 1200 x 900 pixels; the file appears whole or not at all."""
    data = trace(history)
    unit, name = _time_unit(data.end)
    figure = white_figure(12, 9)
    loss, bands, shares = figure.subplots(3, 1, sharex=True, height_ratios=[4.2, 0.55, 2.6])
    figure.subplots_adjust(left=0.075, right=0.925, top=0.865, bottom=0.075, hspace=0.13)
    _title(figure.text, summary)
    _draw_loss(loss, data, unit, summary.get("threshold"))
    _draw_stages([loss, shares], bands, data, unit)
    _draw_shares(shares, data, unit, summary)
    shares.set_xlim(0, max(data.end / unit, 1e-3))
    shares.set_xlabel(f"time since the start ({name})")
    for axes in (loss, shares):
        style_axes(axes).grid(axis="x", visible=False)
        axes.spines["right"].set_visible(True)
    save_figure(figure, out, dpi=100)


def _time_unit(end_s: float) -> tuple[float, str]:
    if end_s < 300:
        return 1.0, "s"
    return (60.0, "min") if end_s < 2 * 3600 else (3600.0, "h")


def _title(write: Any, summary: Summary) -> None:
    data, accuracy, n_steps = dataset_name(summary), describe_accuracy(summary), summary.get("n_steps")
    how = " on ".join(str(part) for part in (summary.get("method"), summary.get("backend")) if part)
    head = [plain_label(brief(data, 36)) if data else None, how]
    facts = [
        f"accuracy {accuracy}" if accuracy else None,
        None if n_steps is None else counted(n_steps, "step"),
        "stopped early" if summary.get("interrupted") else None,
    ]
    write(0.075, 0.945, " · ".join(part for part in head if part), fontsize=17, fontweight="bold")
    write(0.075, 0.912, " · ".join(part for part in facts if part), fontsize=12.5, color="#444444")


def _draw_loss(axes: Axes, data: Trace, unit: float, threshold: float | None) -> None:
    t, few = data.step_t / unit, len(data.loss) <= FEW_STEPS
    if few:
        axes.plot(t, data.loss, color=BLUE, marker="o", linewidth=1.8, label="loss per step")
    else:
        alpha, width = (0.45, 0.8) if len(data.loss) > 300 else (0.8, 1.2)
        axes.plot(t, data.loss, color=SKY, alpha=alpha, linewidth=width, label="loss per step")
        smoothed = smooth(data.loss, span=max(len(data.loss) / 40, 8))
        axes.plot(t, smoothed, color=BLUE, linewidth=2.2, label="smoothed")
    if threshold is not None:
        label = f"threshold {threshold:.3f}"
        axes.axhline(threshold, color=VERMILLION, linestyle="--", linewidth=1.5, label=label)
    finite = data.loss[np.isfinite(data.loss)]
    top = float(np.quantile(finite, 0.998)) if len(finite) else 1.0
    axes.set_ylim(0, 1.12 * max(top, threshold or 0.0, 1e-3))
    axes.set_ylabel("loss of trained rows (nats)")
    handles, labels = axes.get_legend_handles_labels()
    if data.evals:
        handle = _draw_accuracy(axes, data.evals, unit)
        handles, labels = [*handles, handle], [*labels, "eval accuracy (right)"]
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, borderaxespad=0.2
    )


def _draw_accuracy(axes: Axes, evals: list[tuple[float, float]], unit: float) -> Any:
    twin = axes.twinx()
    times = [t / unit for t, _ in evals]
    values = [100 * value for _, value in evals]
    look: dict[str, Any] = {"marker": "D", "markersize": 8, "markeredgecolor": "white", "linewidth": 1.2}
    (line,) = twin.plot(times, values, color=GREEN, linestyle=":", clip_on=False, zorder=5, **look)
    box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    words: dict[str, Any] = {"color": GREEN, "fontweight": "bold", "bbox": box, "zorder": 6}
    last = max(times)
    for t, value in zip(times, values, strict=True) if len(times) <= 12 else [(times[-1], values[-1])]:
        side = "right" if t > 0.93 * last else "center"
        twin.annotate(f"{value:.1f}", (t, value), (0, 10), textcoords="offset points", ha=side, **words)
    low, high = min(values), max(values)
    twin.set_ylim(max(low - max(high - low, 10), 0) - 0.5, min(high + max((high - low) / 2, 5), 104))
    twin.set_ylabel("eval accuracy (%)", color=GREEN)
    twin.tick_params(axis="y", colors=GREEN)
    twin.spines[["top"]].set_visible(False)
    return line


def _draw_stages(others: list[Axes], strip: Axes, data: Trace, unit: float) -> None:
    starts = data.stages or [(0.0, "all")]
    if starts[0][0] > 0.03 * data.end:
        strip.axvspan(0, starts[0][0] / unit, color="#EFEFEF", linewidth=0)
        strip.text(starts[0][0] / 2 / unit, 0.5, "set-up", ha="center", va="center", color="#666666")
    ends = [t for t, _ in starts[1:]] + [max(data.end, starts[-1][0])]
    too_narrow = []
    for i, ((start, stage), end) in enumerate(zip(starts, ends, strict=True)):
        colour = BANDS[i % len(BANDS)]
        strip.axvspan(start / unit, end / unit, color=colour, linewidth=0)
        for axes in others if len(starts) > 1 else []:
            axes.axvline(start / unit, color=GREY, linewidth=0.8, alpha=0.6 if i else 0.0)
            axes.axvspan(start / unit, end / unit, color=colour, alpha=0.3, linewidth=0, zorder=0)
        words = describe_stage(stage)
        if end - start < (0.012 * len(words) + 0.01) * data.end:
            too_narrow.append(f"{i + 1} {words}")
            words = str(i + 1)
        if end > start:
            strip.text((start + end) / 2 / unit, 0.5, words, ha="center", va="center", fontsize=11)
    strip.set_ylabel("stage", rotation=0, ha="right", va="center")
    if too_narrow:
        strip.set_title(",  ".join(too_narrow), fontsize=9.5, loc="left", pad=2, color="#444444")
    strip.set_ylim(0, 1)
    strip.set_yticks([])
    strip.tick_params(axis="x", length=0)
    strip.spines[:].set_visible(False)


def _draw_shares(axes: Axes, data: Trace, unit: float, summary: Summary) -> None:
    if len(data.t):
        layers = list(100 * data.shares)
        names = ("trained", "backward pass skipped", "both passes skipped")
        told = (None, summary.get("skipped_backward_rate"), summary.get("skipped_both_rate"))
        shown = [at[-1] if share is None else share for at, share in zip(data.shares, told, strict=True)]
        labels = [f"{name}  {percent(share)}" for name, share in zip(names, shown, strict=True)]
        colours = (BLUE, ORANGE, "#D9D9D9")
        axes.stackplot(data.t / unit, *layers, labels=labels, colors=colours, alpha=0.85, linewidth=0)
        if np.min(np.sum(layers, axis=0)) < 99:
            axes.fill_between([], [], color="white", edgecolor=GREY, label="waiting in a queue")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, borderaxespad=0.2)
    axes.set_ylim(0, 100)
    axes.set_ylabel("share of rows seen (%)")
