"""The page: a run chosen above the tabs, and the tabs Data and Train; `result_tabs` has the others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from gradio.components import Component

from edgetune.data.columns import label_flags
from edgetune.data.examples import DataOptions, find_columns, open_labelled
from edgetune.data.table import BadRow
from edgetune.planning.decision import plan_summary
from edgetune.report.check_tables import check_parts
from edgetune.report.page_parts import Html, joined, section_table, tag
from edgetune.report.result_tables import plan_sections
from edgetune.runs.dry_run import dry_run, run_check
from edgetune.runs.run import default_run_folder
from edgetune.utils.errors import UsageError
from edgetune.utils.formatting import duration, percent
from edgetune.utils.sanitize import brief
from edgetune.utils.tables import Section
from edgetune.web.handlers import handled, message
from edgetune.web.result_tabs import mend_tab, models_tab, results_tab, try_tab
from edgetune.web.run_process import FAILED, FINISHED, RUNNING, STOPPED, RunProcesses, RunStatus

PREVIEW_ROWS, PREVIEW_CHARS, MOST_POINTS = 5, 200, 500
DETECTED = ""
LABELS_PER_TEXT = [
    ("As detected", DETECTED),
    ("One (--single-label)", "--single-label"),
    ("Several, or none (--multi-label)", "--multi-label"),
]
REFRESH_S = 3.0
MOST_MINUTES = 60
"""Of the slider; a longer deadline is typed."""
MAX_UPLOAD_MB = 1000
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
)
CSS = """
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
.scroll :is(table, thead, tbody, tr) { border: 0 !important; }
.scroll table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scroll caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
.scroll th, .scroll td {
  padding: .25rem .6rem; text-align: left; vertical-align: top;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important;
}
.scroll tbody th { font-weight: normal; }
.scroll td { overflow-wrap: break-word; }
.scroll tbody td:last-child { overflow-wrap: anywhere; min-width: 6rem; }
.scroll .n, .scroll .n button { text-align: right; white-space: nowrap; }
.scroll button {
  font: inherit; color: inherit; width: 100%; min-width: 2.5rem; padding: .1rem .4rem; cursor: pointer;
}
.bar { display: inline-block; height: .7em; background: var(--color-accent); }
.wrong, .note, .said { border-left: 4px solid var(--color-accent); padding: .5rem .9rem; }
.wrong, .note { border-color: #c2410c; background: var(--block-background-fill); }
.none { font-style: italic; }
mark { padding: 0 .15em; border-radius: 3px; color: inherit; }
:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 2px; }
"""


def make_page(runs: RunProcesses, cache_dir: Path | None) -> gr.Blocks:
    """Return the page.

    Args:
        runs: starts and finds runs.
        cache_dir: where tokens and artifacts are kept.
    """
    with gr.Blocks(title="edgetune", analytics_enabled=False) as page:
        gr.Markdown("# edgetune\nTrain a text classifier on this machine. Nothing leaves it.")
        run = gr.Dropdown(
            label="Run",
            info="Train, Results, Mend and Try show it.",
            choices=[],
            interactive=True,
        )
        with gr.Tabs():
            with gr.Tab("Data"):
                *data, name = data_tab(runs, cache_dir)
            with gr.Tab("Train"):
                train_tab(runs, cache_dir, data, name, run)
            with gr.Tab("Results") as results:
                results_tab(runs, run, results)
            with gr.Tab("Mend"):
                mend_tab(runs, run, [*data, name])
            with gr.Tab("Try"):
                try_tab(runs, run)
            with gr.Tab("Models") as models:
                models_tab(runs, models)

        listed = gr.State([])

        def find_runs(chosen: str | None, listed: list[str]) -> Any:
            names = runs.names()
            if set(names) == set(listed):  # an update would close the open list
                return gr.skip(), gr.skip()
            if chosen:  # also where its folder is gone, which the tabs say
                return gr.update(choices=list(dict.fromkeys([*names, chosen]))), names
            return gr.update(choices=names, value=next(iter(names), None)), names

        for event in (page.load, gr.Timer(REFRESH_S).tick):
            event(find_runs, [run, listed], [run, listed], show_progress="hidden")
    return page


def data_tab(
    runs: RunProcesses, cache_dir: Path | None
) -> tuple[gr.Textbox, gr.Dropdown, gr.Dropdown, gr.Radio, gr.Textbox]:
    """Lay out the tab that chooses and checks a file.

    Returns:
        The inputs for its path, text columns, label columns and labels per text, and for the run's name.
    """
    title = f"Drop a file of labelled text, of {MAX_UPLOAD_MB:,} MB at most"
    dropped = gr.File(label=title, type="filepath", height=120)
    path = gr.Textbox(label="Or give the path of a file or folder", placeholder="reviews.csv")
    read = gr.Button("Read", variant="primary")
    said = message()
    with gr.Row():
        text = gr.Dropdown(
            label="Text columns", multiselect=True, choices=[], info="Guessed; change them here."
        )
        label = gr.Dropdown(
            label="Label columns",
            multiselect=True,
            choices=[],
            info="Guessed; change them here. Choose several where each holds 0 or 1 for one label.",
        )
    per_text = gr.Radio(
        LABELS_PER_TEXT,
        value=DETECTED,
        label="Labels per text",
        info="Lists of labels are detected; for cells such as price;screen, choose several.",
    )
    preview = gr.HTML()
    check = gr.Button("Check the data")
    said_of_check = message()
    checked = gr.HTML()
    name = gr.Textbox(label="Name of the run", render=False)

    def read_file(path: str) -> Any:
        if not path.strip():
            raise UsageError("Drop a file, or give its path.")
        table = open_labelled(path.strip(), DataOptions())
        whole = list(table.columns[: table.n_whole])
        flags, several = label_flags(table)
        columns = find_columns(table, DataOptions(label=",".join(flags) or None))
        rows: list[tuple[str, ...]] = [
            tuple(brief(value, PREVIEW_CHARS) for value in row[1])
            for row in islice(table.read(range(len(whole))), PREVIEW_ROWS)
            if not isinstance(row, BadRow)
        ]
        names = list(table.columns)
        return (
            f"Read {Path(path).name}: {len(whole)} columns.",
            gr.update(choices=names, value=[names[i] for i in columns.text]),
            gr.update(choices=names, value=flags or [names[i] for i in (columns.label,) if i is not None]),
            "--multi-label" if several else DETECTED,
            section_table(Section("First rows", rows, tuple(whole))),
            runs.free_name(default_run_folder(path.strip()).name),
            "",
        )

    def check_file(*data: Any) -> Any:
        found = run_check(settings_of(*data), cache_dir)
        return "The check is done.", joined(check_parts(found))

    outputs = [said, text, label, per_text, preview, name, checked]
    dropped.upload(lambda file: file, dropped, path).then(handled(read_file, 6), path, outputs)
    read.click(handled(read_file, 6), path, outputs)
    path.submit(handled(read_file, 6), path, outputs)
    check.click(handled(check_file, 1), [path, text, label, per_text], [said_of_check, checked])
    return path, text, label, per_text, name


def settings_of(path: str, text: list[str], label: list[str], per_text: str) -> dict[str, Any]:
    """Return the settings that say which data is meant.

    Raises:
        UsageError: no file was chosen.
    """
    if not path.strip():
        raise UsageError("Choose a file in the tab Data first.")
    given = {"train": path.strip(), "text": text, "label": ",".join(label or ())}
    several = {} if per_text == DETECTED else {"multi_label": per_text == "--multi-label"}
    return {name: value for name, value in given.items() if value} | several


def train_tab(
    runs: RunProcesses,
    cache_dir: Path | None,
    data: Sequence[Component],
    name: gr.Textbox,
    run: gr.Dropdown,
) -> None:
    """Lay out the tab that plans, starts, watches and stops a run."""
    name.render()
    with gr.Row():
        minutes = gr.Number(2, label="Deadline (minutes)", info="Start-up and saving included.")
        slider = gr.Slider(0.5, MOST_MINUTES, 2, step=0.5, label="Up to an hour", info="Or type it.")
    model = gr.Textbox(label="Encoder", placeholder="built-in", info="Empty: the built-in model.")
    with gr.Row():
        plan = gr.Button("Plan")
        start = gr.Button("Start training", variant="primary")
        stop = gr.Button("Stop and keep the model")
    said = message()
    planned = gr.HTML()
    status = gr.HTML()
    losses = gr.LinePlot(x="seconds", y="loss", label="Loss of the training steps", height=240, visible=False)
    shown = gr.State(("", ""))
    timer = gr.Timer(1.0)

    def make_plan(*asked: Any) -> Any:
        *data, model, minutes = asked
        if not data[0].strip():
            return "", ""
        if (busy := runs.running()) is not None:
            raise UsageError(f"The run {busy} is training; a plan is made when it has ended.")
        settings = settings_of(*data) | ({"model": model.strip()} if model.strip() else {})
        plans = dry_run({**settings, "deadline": f"{seconds_of(minutes):g}s"}, cache_dir)
        tables = map(section_table, plan_sections(plans, explain=True))
        details = tag("details", tag("summary", "Other plans, times and reasons"), *tables)
        return "", joined([tag("p", tag("strong", f"{plan_summary(plans.best)}.")), details])

    def start_run(*asked: Any) -> Any:
        *data, model, minutes, name = asked
        _, text, _, per_text = data
        settings = settings_of(*data)
        given = {"--text": ",".join(text), "--label": settings.get("label"), "--model": model.strip()}
        options = [part for option, value in given.items() if value for part in (option, value)]
        options += [per_text] if per_text else []
        runs.start(name.strip(), settings["train"], options, seconds_of(minutes))
        chosen = gr.update(choices=runs.names(), value=name.strip())
        return f"Started {name.strip()}; it goes on when this page is closed.", chosen

    def stop_run(name: str | None) -> Any:
        runs.stop(name or "")
        return ("Asked the run to stop; it saves its model first.",)

    def watch(name: str | None, shown: tuple[str, str]) -> Any:
        if not name or (name, FINISHED) == shown:
            return "", gr.skip(), gr.skip(), gr.skip()
        found = runs.status(name)
        every = max(1, len(found.losses) // MOST_POINTS)
        frame = pd.DataFrame(found.losses[::every], columns=["seconds", "loss"])
        plot = gr.update(value=frame, visible=bool(found.losses))
        return "", describe_status(name, found), plot, (name, found.state)

    def watch_quietly(name: str | None, shown: tuple[str, str]) -> Any:
        said_now, *others = handled(watch, 3)(name, shown)
        return said_now or gr.skip(), *others

    asked = [*data, model, minutes]
    slider.input(lambda chosen: chosen, slider, minutes, trigger_mode="always_last", show_progress="hidden")
    minutes.change(
        handled(make_plan, 1),
        asked,
        [said, planned],
        trigger_mode="always_last",
        show_progress="minimal",
    )
    plan.click(handled(make_plan, 1), asked, [said, planned])
    start.click(handled(start_run, 1), [*asked, name], [said, run])
    stop.click(handled(stop_run, 0), run, [said])
    timer.tick(watch_quietly, [run, shown], [said, status, losses, shown], show_progress="hidden")


def seconds_of(minutes: float | None) -> float:
    """Return a deadline in seconds.

    Raises:
        UsageError: it is empty, or not above 0.
    """
    if minutes is None or minutes <= 0:
        raise UsageError("Give the deadline in minutes, above 0.")
    return 60 * minutes


def describe_status(name: str, found: RunStatus) -> Html:
    """Return the state of a run as HTML; a screen reader reads it when asked, not at every update."""
    words = {
        RUNNING: "is training",
        FINISHED: "is finished: see Results",
        STOPPED: "was stopped, and its model was kept: see Results",
        FAILED: "ended without a model",
    }
    result = None if found.accuracy is None else f"accuracy {percent(found.accuracy)}"
    if found.micro_f1 is not None:  # which says more than the share of rows with all labels right
        result = f"micro-F1 {found.micro_f1:.4f}"
    facts = [
        None if found.elapsed_s is None else f"{duration(found.elapsed_s)} so far",
        None if found.left_s is None else f"{duration(found.left_s)} left",
        f"loss {found.losses[-1][1]:.3f}" if found.losses else None,
        result,
    ]
    return tag(
        "div",
        tag(
            "p",
            tag("strong", f"{name} {words[found.state]}"),
            class_="wrong" if found.state == FAILED else None,
        ),
        tag("p", " · ".join(fact for fact in facts if fact)),
        tag("p", found.message) if found.state in (RUNNING, FAILED) else "",
        role="timer",
    )
