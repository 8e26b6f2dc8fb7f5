"""Draws the runs that `plans` left: how each spent its deadline, planned above real."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

TARGET = Path("docs/deadline-runs.png")
COLOURS = {
    "start": "#9a9a9a",
    "export": "#d9b38c",
    "open": "#8c6d46",
    "linear_probe": "#56b4e9",
    "train": "#0072b2",
    "save": "#e69f00",
    "evaluate": "#009e73",
    "report": "#cc79a7",
    "exit": "#666666",
    "margin": "#eeeeee",
}


def main(arguments: argparse.Namespace) -> None:
    """Write the picture; the runs are the folders `plan-*` in --out."""
    runs = [json.loads(path.read_text()) for path in sorted(arguments.out.glob("plan-*/summary.json"))]
    if not runs:
        raise SystemExit(f"{arguments.out} holds no runs of `plans`; run `python tools/bench plans` first")
    draw(sorted(runs, key=lambda run: (run["deadline_s"], run["dataset"])), TARGET)
    print(f"wrote {TARGET}")


def draw(runs: list[dict[str, Any]], target: Path) -> None:
    """Draw one pair of bars per run, in shares of its deadline."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.62 * len(runs) + 1.4))
    labels = []
    for number, run in enumerate(runs):
        for offset, key in ((0.2, "planned_s"), (-0.2, "real_s")):
            left = 0.0
            for line in run["planned"]["lines"]:
                share = (line[key] or 0.0) / run["deadline_s"]
                axes.barh(-number + offset, share, 0.36, left, color=COLOURS[line["line"]], linewidth=0)
                left += share
        rows = f"{run['n_trained']:,} of {run['planned']['n_rows']:,} rows"
        labels.append(f"{Path(run['dataset']).parent.name}, {run['deadline_s']:.0f} s\n{rows}")
    axes.set_yticks([-number for number in range(len(runs))], labels, fontsize=8)
    axes.set_xlim(0, 1.01)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("share of the deadline; upper bar planned, lower real (without the process's end)")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    axes.legend(handles, COLOURS, ncols=6, fontsize=8, loc="lower center", bbox_to_anchor=(0.45, 1.0))
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    plt.close(figure)
