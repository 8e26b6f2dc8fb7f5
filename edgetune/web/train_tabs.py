"""The tabs that lead to a run, Data and Train; and how an event of any tab is handled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
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
from edgetune.utils.errors import EdgetuneError, UsageError
from edgetune.utils.files import os_error_in
from edgetune.utils.formatting import duration, percent
from edgetune.utils.sanitize import brief
from edgetune.utils.tables import Section
from edgetune.web.run_process import FAILED, FINISHED, RUNNING, STOPPED, RunProcesses, RunStatus

PREVIEW_ROWS, PREVIEW_CHARS, MOST_POINTS = 5, 200, 500
DETECTED = ""
LABELS_PER_TEXT = [
    ("As detected", DETECTED),
    ("One (--single-label)", "--single-label"),
    ("Several, or none (--multi-label)", "--multi-label"),
]
MOST_MINUTES = 60
"""Of the slider; a longer deadline is typed."""
MAX_UPLOAD_MB = 1000


def handled(function: Callable[..., Any], n_outputs: int) -> Callable[..., Any]:
    """Make a handler of an event, from what returns a message as text and then so many other outputs.

    Where it fails, the message says what went wrong, and the others stay as they are.
    """

    @wraps(function)
    def handler(*values: Any) -> Any:
        try:
            message, *others = function(*values)
        except EdgetuneError as error:
            sentence = str(error)
        except Exception as error:
            if (found := os_error_in(error)) is None:  # a bug keeps its traceback, in the terminal
                raise
            sentence = f"{brief(found.filename or 'The file')}: {found.strerror}; choose another path."
        else:
            if message and isinstance(message, str):  # a screen reader reads it out when it appears
                message = tag("p", message, class_="said", role="status")
            return message, *others
        return tag("p", sentence, class_="wrong", role="alert"), *(gr.skip() for _ in range(n_outputs))

    return handler


def data_tab(
    runs: RunProcesses, cache_dir: Path | None
) -> tuple[gr.Textbox, gr.Dropdown, gr.Dropdown, gr.Radio, gr.Textbox]:
    """Lay out the tab that chooses and checks a file; return its inputs, and that of the run's name."""
    title = f"Drop a file of labelled text, of {MAX_UPLOAD_MB:,} MB at most"
    dropped = gr.File(label=title, type="filepath", height=120)
    path = gr.Textbox(label="Or give the path of a file or folder", placeholder="reviews.csv")
    read = gr.Button("Read", variant="primary")
    said = gr.HTML()
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
    said_of_check = gr.HTML()
    checked = gr.HTML()
    name = gr.Textbox(label="Name of the run", render=False)

    def read_file(path: str) -> Any:
        if not path.strip():
            raise UsageError("Drop a file, or give its path.")
        table = open_labelled(path.strip(), DataOptions())
        whole = list(table.columns[: table.n_whole])
        flags, several = label_flags(table)
        columns = find_columns(table, DataOptions(label=",".join(flags) or None))
        rows = [
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
    for event in (read.click, path.submit):
        event(handled(read_file, 6), path, outputs)
    check.click(handled(check_file, 1), [path, text, label, per_text], [said_of_check, checked])
    return path, text, label, per_text, name


def settings_of(path: str, text: list[str], label: list[str], per_text: str) -> dict[str, Any]:
    """Return the settings that say which data is meant; refuse it where no file was chosen."""
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
    said = gr.HTML()
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
            return [gr.skip()] * 4
        found = runs.status(name)
        every = max(1, len(found.losses) // MOST_POINTS)
        frame = pd.DataFrame(found.losses[::every], columns=["seconds", "loss"])
        plot = gr.update(value=frame, visible=bool(found.losses))
        return gr.skip(), describe_status(name, found), plot, (name, found.state)

    asked = [*data, model, minutes]
    slider.input(lambda chosen: chosen, slider, minutes, trigger_mode="always_last", show_progress="hidden")
    planning = handled(make_plan, 1), asked, [said, planned]
    minutes.change(*planning, trigger_mode="always_last", show_progress="minimal")
    plan.click(*planning)
    start.click(handled(start_run, 1), [*asked, name], [said, run])
    stop.click(handled(stop_run, 0), run, [said])
    timer.tick(handled(watch, 3), [run, shown], [said, status, losses, shown], show_progress="hidden")


def seconds_of(minutes: float | None) -> float:
    """Return a deadline in seconds; refuse one that is empty or not above 0."""
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
    heading = tag("strong", f"{name} {words[found.state]}")
    return tag(
        "div",
        tag("p", heading, class_="wrong" if found.state == FAILED else None),
        tag("p", " · ".join(fact for fact in facts if fact)),
        tag("p", found.message) if found.state in (RUNNING, FAILED) else "",
        role="timer",
    )
