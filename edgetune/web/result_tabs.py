"""The tabs on runs that have ended: Results, Mend, Try, Models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from edgetune.inference.inspection import Inspection, Suspect, inspect_run
from edgetune.inference.saved_run import Prediction
from edgetune.report.collect import RunRecord, collect, read_run
from edgetune.report.page_parts import (
    MOST_CLASSES,
    Html,
    class_tables,
    foreign_text,
    joined,
    row,
    section_table,
    table,
    tag,
)
from edgetune.report.result_tables import SUGGESTION
from edgetune.report.run_table import COSTS, RESULTS
from edgetune.utils.errors import EdgetuneError, RunError, UsageError
from edgetune.utils.formatting import accuracy_name, counted, describe_accuracy, percent
from edgetune.utils.sanitize import brief
from edgetune.utils.tables import Section
from edgetune.web import run_answers
from edgetune.web.run_process import PRIVATE, RunProcesses
from edgetune.web.train_tabs import handled

MOST_TEXTS, SHOWN_CHARS, MOST_INSPECTED = 100, 400, 20_000
MENDED = SUGGESTION[0]
ON_CELL = """element.addEventListener("click", event => {
  const cell = event.target.closest("button");
  if (cell) trigger("click", {true: cell.dataset.true, predicted: cell.dataset.predicted});
})"""
SHOWN_SECTIONS = ("Learners", "Warnings")
EFFECT_NATS = 2.0
"""Effect of a word that gets the full colour."""


def shown_folder(runs: RunProcesses, name: str | None) -> Path:
    """Return the folder of the run chosen at the top of the page, or of the newest if none is chosen yet."""
    return chosen_folder(runs, name or next(iter(runs.names()), None))


def chosen_folder(runs: RunProcesses, name: str | None) -> Path:
    """Return the folder of the chosen run; refuse it where none is chosen, or it is gone or has no result."""
    if not name:
        raise UsageError("No run is chosen; choose one, or train one first.")
    folder = runs.folder(name)
    if not folder.is_dir():
        raise RunError(f"The folder {folder} of this run is gone; choose another run.")
    if not (folder / "summary.json").is_file():
        raise RunError(f"The run {name} has no result yet; the tab Train shows how it stands.")
    return folder


def results_tab(runs: RunProcesses, run: gr.Dropdown, tab: gr.Tab) -> None:
    """Lay out accuracy, classes, and the confusion matrix with its texts."""
    said = gr.HTML()
    summary = gr.HTML()
    matrix = gr.HTML(js_on_load=ON_CELL)
    with gr.Row():
        true = gr.Dropdown(label="True class", choices=[])
        predicted = gr.Dropdown(label="Predicted class", choices=[])
    said_of_texts = gr.HTML()
    texts = gr.HTML()

    def show(name: str | None) -> Any:
        folder = shown_folder(runs, name)
        record = read_run(folder, folder.name)
        figures = record.figures
        names = [str(one.label) for one in figures.per_class] or figures.label_names
        parts = [section_table(one) for one in record.sections if one.title in SHOWN_SECTIONS]
        rest = [section_table(one) for one in record.sections if one.title not in SHOWN_SECTIONS]
        parts.append(tag("details", tag("summary", "The rest of the summary"), *rest))
        of_classes = class_tables(figures)
        small = len(names) <= MOST_CLASSES
        return (
            "",
            joined([headline(record), *(of_classes[:1] if small else of_classes), *parts]),
            confusion_buttons(names, figures.confusion) if small and figures.confusion else "",
            gr.update(choices=names, value=None, visible=bool(figures.confusion)),
            gr.update(choices=names, value=None, visible=bool(figures.confusion)),
            "",
        )

    def show_texts(name: str | None, *classes: str | None) -> Any:
        if None in classes:
            return "", ""
        answers = run_answers.evaluated(run_answers.open_run(shown_folder(runs, name)))
        found = [(share, text) for text, label, answer, share in answers if (label, answer) == classes]
        rows = [(percent(share), brief(text, SHOWN_CHARS)) for share, text in found[:MOST_TEXTS]]
        count = f"{len(found):,} of the {len(answers):,} evaluation rows shown"
        words = f"{count} are {classes[0]}, predicted as {classes[1]}."
        return words, rows_table("Texts", rows, ("probability", "text"))

    def pick(event: gr.EventData) -> Any:
        return event.true, event.predicted

    outputs = [said, summary, matrix, true, predicted, texts]
    tab.select(handled(show, 5), run, outputs)
    run.change(handled(lambda name: show(name) if name else ("", *[gr.skip()] * 5), 5), run, outputs)
    matrix.click(pick, None, [true, predicted])
    for chosen in (true, predicted):
        chosen.change(handled(show_texts, 1), [run, true, predicted], [said_of_texts, texts])


def confusion_buttons(names: list[str], confusion: list[list[int]]) -> Html:
    """Return the confusion matrix; each cell is a button that shows its texts."""
    right, rows = range(1, len(names) + 1), []
    for true, counts in zip(names, confusion, strict=False):
        cells = [
            tag(
                "button",
                f"{count:,}",
                data_true=true,
                data_predicted=predicted,
                aria_label=f"{count:,} rows of {true} predicted as {predicted}",
                style=f"background: rgba(0,114,178,{0.6 * count / max(1, sum(counts)):.2f})",
            )
            for predicted, count in zip(names, counts, strict=False)
        ]
        rows.append(row(foreign_text(true), cells, right))
    title = "Confusion matrix (rows: true, columns: predicted); a cell shows its texts"
    return table(title, ["true", *names], [tag("tbody", *rows)], right)


def rows_table(
    title: str, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = (), right: bool = False
) -> Html:
    """Return rows as a table; nothing where there are none."""
    return section_table(Section(title, rows, header, right)) if rows else Html("")


def headline(record: RunRecord) -> Html:
    """Return the accuracy beside what simpler answers reach on the same rows."""
    figures = record.figures
    if figures.accuracy is None:
        why = "The run was stopped" if figures.interrupted else "The deadline came"
        return tag("p", f"{why} before the model was evaluated; the learners' figures are of held-out rows.")
    summary, base = figures.model_dump(), ""
    words = f"{accuracy_name(summary).capitalize()} {describe_accuracy(summary)}"
    supports = [one.support or 0 for one in figures.per_class]
    if figures.micro_f1 is not None:
        words = f"Micro-F1 {figures.micro_f1:.4f}, {words[0].lower()}{words[1:]}"
    elif any(supports):
        base = f" Always predicting the most frequent class: {percent(max(supports) / sum(supports))}."
    return tag("p", tag("strong", words), f" on {counted(figures.n_eval or 0, 'row')}.{base}")


@dataclass(frozen=True)
class Mending:
    """Progress through the doubtful labels of a run.

    Attributes:
        at: which of them is shown.
        labels: other labels that were chosen, by line of the training file.
    """

    folder: Path
    found: Inspection
    at: int
    labels: dict[int, str]

    @property
    def row(self) -> Suspect | None:
        """The row that is shown; None when all are done."""
        return self.found.suspects[self.at] if self.at < len(self.found.suspects) else None


def mend_tab(runs: RunProcesses, run: gr.Dropdown, data: Sequence[Component]) -> None:
    """Lay out the labels that are probably wrong, one after the other."""
    gr.Markdown(
        "Training rows that get another label from models that never saw them. Your file is not changed."
    )
    find = gr.Button("Find doubtful labels", variant="primary")
    said = gr.HTML()
    shown = gr.HTML()
    label = gr.Dropdown(label="Label", choices=[], allow_custom_value=True)
    with gr.Row():
        accept = gr.Button("Accept the suggestion")
        change = gr.Button("Use the label above")
        skip = gr.Button("Skip")
    out = gr.Textbox(label="Corrected copy")
    write = gr.Button("Write the corrected copy, and choose it for training")
    state = gr.State(None)

    def current(state: Mending) -> Any:
        row, n_found = state.row, f"{len(state.found.suspects):,}"
        if row is None:
            done = f"{len(state.labels):,} of {n_found} doubtful labels are to be changed."
            return tag("p", done), gr.update(value=None), state
        facts = [
            ("text", row.text),
            ("line", f"{row.line:,}"),
            ("given label", row.label),
            ("suggested label", f"{row.suggested} ({row.probability:.0%})"),
        ]
        title = f"Doubtful label {state.at + 1:,} of {n_found}"
        return section_table(Section(title, facts)), gr.update(value=row.suggested), state

    def find_rows(name: str | None) -> Any:
        folder = shown_folder(runs, name)
        found = inspect_run(folder, 0, MOST_INSPECTED)
        table, value, state = current(Mending(folder, found, 0, {}))
        copy = str(runs.runs / f"{runs.free_name(f'{folder.name}-corrected')}.csv")
        words = f"{len(found.suspects):,} of {len(found.examined):,} labels are doubtful."
        names = list(run_answers.open_run(folder).label_names)
        return words, table, value | {"choices": names}, state, copy

    def decide(state: Mending | None, choose: Callable[[Suspect], str | None]) -> Any:
        if state is None or (row := state.row) is None:
            raise UsageError("There is no row to decide on; find doubtful labels first.")
        label = choose(row)
        chosen = {row.line: label} if label and label != row.label else {}
        return "", *current(replace(state, at=state.at + 1, labels={**state.labels, **chosen}))

    def write_copy(state: Mending | None, out: str) -> Any:
        if state is None or not out.strip():
            raise UsageError("Find doubtful labels first, and name the corrected copy.")
        path = Path(out.strip())
        columns = run_answers.write_mended(state.folder, state.found, state.labels, path)
        words = (
            f"Wrote {path} with {len(state.labels):,} changed labels; start training on it in the tab Train."
        )
        return (
            words,
            str(path),
            gr.update(choices=[*columns, MENDED], value=columns),
            gr.update(choices=[*columns, MENDED], value=[MENDED]),
            "--single-label",
            runs.free_name(path.name.split(".")[0]),
        )

    outputs = [said, shown, label, state]
    find.click(handled(find_rows, 4), run, [*outputs, out])
    accept.click(handled(lambda state: decide(state, lambda row: row.suggested), 3), state, outputs)
    change.click(handled(lambda state, label: decide(state, lambda _: label), 3), [state, label], outputs)
    skip.click(handled(lambda state: decide(state, lambda row: row.label), 3), state, outputs)
    write.click(handled(write_copy, 5), [state, out], [said, *data])


def try_tab(runs: RunProcesses, run: gr.Dropdown) -> None:
    """Lay out texts of one's own, their probabilities, and the words that mattered."""
    texts = gr.Textbox(label="Texts, one per line", lines=4)
    predict = gr.Button("Predict", variant="primary")
    said = gr.HTML()
    table = gr.HTML()
    classes = gr.HTML()
    words = gr.HTML()

    def answer(name: str | None, texts: str) -> Any:
        opened = run_answers.open_run(shown_folder(runs, name))
        lines = [line.strip() for line in texts.splitlines() if line.strip()]
        if not lines:
            raise UsageError("Type or paste a text first.")
        found = opened.predict(lines)
        rows = [
            (labels_of(one), percent(one.probability), brief(line, SHOWN_CHARS))
            for line, one in zip(lines, found, strict=True)
        ]
        answers = rows_table("Predictions", rows, ("label", "probability", "text"))
        best = sorted(found[0].probabilities.items(), key=lambda item: -item[1])[:MOST_CLASSES]
        shares = [(label, percent(p), "█" * round(20 * p)) for label, p in best]
        try:
            mattered = describe_words(*run_answers.word_effects(opened, lines[0]))
        except RunError as error:
            mattered = tag("p", str(error))
        return "", answers, rows_table("Probabilities of the first text", shares, right=True), mattered

    outputs = [said, table, classes, words]
    predict.click(handled(answer, 3), [run, texts], outputs)


def labels_of(prediction: Prediction) -> str:
    """Return what is predicted: a label, or all that reach their thresholds."""
    if prediction.labels is None:
        return str(prediction.label)
    return ", ".join(prediction.labels) or "(no label)"


def describe_words(label: str, effects: list[tuple[str, float]]) -> Html:
    """Return a text with its words coloured by their effect on the n-grams, and the strongest as a table."""
    marked: list[str] = []
    for word, effect in effects:
        colour = "0,114,178" if effect > 0 else "213,94,0"
        strength = min(1.0, abs(effect) / EFFECT_NATS) * 0.6
        marked += [tag("mark", word, style=f"background: rgba({colour},{strength:.2f})"), " "]
    strongest = sorted(effects, key=lambda item: -abs(item[1]))[:10]
    rows = [(word, f"{effect:+.2f}") for word, effect in strongest]
    table = rows_table("Strongest words, in nats", rows, right=True)
    intro = f"To the n-grams, this text is {label}. Blue words speak for that, orange ones against it:"
    return joined([tag("p", intro), tag("p", *marked), table])


def models_tab(runs: RunProcesses, tab: gr.Tab) -> None:
    """Lay out all runs, two of them side by side, and a zip of one."""
    said = gr.HTML()
    table = gr.HTML()
    with gr.Row():
        first = gr.Dropdown(label="First run", choices=[])
        second = gr.Dropdown(label="Compare with", choices=[])
    compare = gr.Button("Compare")
    compared = gr.HTML()
    with gr.Row():
        pack = gr.Button("Pack the run as a zip file")
        download = gr.DownloadButton("Download the zip file", interactive=False)

    def list_runs() -> Any:
        records = []
        for name in runs.names():
            with contextlib.suppress(EdgetuneError):  # it has no result, or a damaged one
                records.append(read_run(chosen_folder(runs, name), name))
        names = [record.name for record in records]
        columns = (*RESULTS, COSTS[-1])
        rows = [tuple(column.words(record) or "" for column in columns) for record in records]
        return (
            "" if names else "There is no finished run yet.",
            rows_table("Runs", rows, tuple(column.title for column in columns)),
            gr.update(choices=names, value=names[0] if names else None),
            gr.update(choices=names, value=names[1] if len(names) > 1 else None),
        )

    def compare_runs(first: str | None, second: str | None) -> Any:
        records = collect([chosen_folder(runs, first), chosen_folder(runs, second)]).runs
        if len(records) < 2:
            raise UsageError("Choose two different runs to compare.")
        rows = [(one.title, *(one.words(record) or "" for record in records)) for one in (*RESULTS, *COSTS)]
        return "", rows_table("Two runs", rows[1:], rows[0], right=True)

    def pack_run(name: str | None) -> Any:
        folder = chosen_folder(runs, name)
        packed = run_answers.zip_run(folder, runs.runs.resolve() / PRIVATE / "uploads" / f"{folder.name}.zip")
        return f"Packed {folder.name}.zip.", gr.update(value=str(packed), interactive=True)

    tab.select(handled(list_runs, 3), None, [said, table, first, second])
    compare.click(handled(compare_runs, 1), [first, second], [said, compared])
    pack.click(handled(pack_run, 1), first, [said, download])
