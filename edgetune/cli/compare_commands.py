"""The commands that compare: compare, report, methods. Registered by `app.py`."""

from __future__ import annotations

import json
import re
import signal
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edgetune.cli.options import (
    LABELS,
    READING,
    CacheDir,
    Json,
    Overwrite,
    Set,
    complete_methods,
    option,
    parse_set_options,
    takes,
    tell,
)
from edgetune.utils.errors import Interrupted, RunError, UsageError
from edgetune.utils.formatting import counted
from edgetune.utils.limits import MAX_CELLS, MAX_NAME
from edgetune.utils.sanitize import json_text, one_line
from edgetune.utils.tables import Section, print_sections

if TYPE_CHECKING:
    from edgetune.compare.comparison import CellDone
    from edgetune.compare.grid import Grid
    from edgetune.compare.ranking import DataTable
    from edgetune.report.collect import CollectedRuns


@takes(
    *("deadline", "eval", *READING, *LABELS),
    methods=option(
        str,
        "Methods to run, with commas, or all (see `edgetune methods`).",
        "a few",
        autocompletion=complete_methods,
    ),
    epochs=option(int, "Number of passes per run, without a deadline.", "1"),
    seeds=option(int, "Number of runs per method, each with its own seed.", "1", min=1, max=MAX_CELLS),
    rows=option(int, "Maximum number of training rows, drawn once.", "all"),
    eval_rows=option(int, "Maximum number of evaluation rows, drawn once.", "all"),
    curve=option(bool, "Also run random selection at five durations, as the reference curve.", "curve"),
    models=option(bool, "Keep the model of every run (180 MB each for the built-in model).", "models"),
    out=option(Path, "Folder to write to.", "runs/compare-NAME"),
    overwrite=option(bool, "Replace runs of that folder that had other settings.", None, "--overwrite"),
)
def compare(
    data: Annotated[list[str], typer.Argument(help="One or more labelled data sets, or one grid in TOML.")],
    set_: Set = None,
    out: Path | None = None,
    overwrite: bool = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    **wished: Any,
) -> None:
    """Run several methods on the same rows and rank them.

    Examples:
        edgetune compare reviews.csv --deadline 2m --methods all
        edgetune compare a.csv b.csv --epochs 2 --seeds 3 --no-models
        edgetune compare grid.toml --out runs/grid
    """
    from edgetune.compare.comparison import Comparison
    from edgetune.compare.comparison_charts import draw_all
    from edgetune.compare.grid import load_grid
    from edgetune.compare.ranking import make_tables, markdown
    from edgetune.config.budget import read_budget
    from edgetune.run_files.outputs import check_comparison_folder, write_output
    from edgetune.run_files.run_folder import disk_errors
    from edgetune.utils.machine import cache_folder

    settings = parse_set_options(set_ or []) | _popped(wished, "epochs", "deadline")
    settings = read_budget(settings, datetime.now(), 0.0)
    if not data[0].endswith(".toml"):
        reading = _popped(wished, "eval", *READING, *LABELS)
        if "seeds" in wished:
            wished["seeds"] = list(range(wished["seeds"]))
        methods = wished.pop("methods", None)
        grid = _grid_of(data, reading, methods, wished | {"settings": settings})
    elif len(data) > 1 or wished or settings:
        raise UsageError(f"{data[0]} is a grid and holds all settings; give no other option but --out.")
    else:
        grid = load_grid(Path(data[0]))
    folder = out if out is not None else Path("runs") / f"compare-{grid.name}"
    sources = [path for entry in grid.data for path in (entry.train, entry.eval)]
    check_comparison_folder(folder, grid.model_dump(mode="json"), sources, overwrite)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the cell is stopped too
    try:
        comparison = Comparison(grid, folder, cache_folder(cache_dir), tell)
        for done in comparison.run():
            tell(_progress(done))
    except KeyboardInterrupt:
        kept = f"Finished runs are kept in {folder}; run the same command again to continue."
        raise Interrupted(f"Stopped. {kept}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    outcomes = comparison.finished()
    tables = make_tables(outcomes)
    write_output(folder / "table.md", markdown(tables, grid.name))
    with disk_errors(folder):
        draw_all(tables, folder)
    if as_json:
        print(json_text([one.model_dump(mode="json") for one in outcomes]))
        return
    _print(tables)
    if not any(one.ok for one in outcomes):
        raise RunError(f"Every run failed; {folder / 'table.md'} lists the errors.")
    print(f"Tables and plots are in {folder}, the runs in {folder / 'cells'}.")


def _popped(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: values.pop(name) for name in names if name in values}


def _grid_of(data: list[str], reading: dict[str, Any], methods: str | None, wished: dict[str, Any]) -> Grid:
    from edgetune.compare.grid import make_grid
    from edgetune.runs.run import default_run_folder

    names = [re.sub(r"[^\w. +-]", "-", default_run_folder(path).name) for path in data]
    names = [(name if re.match(r"\w", name) else f"data{name}")[:MAX_NAME] for name in names]
    if len(set(names)) < len(names):
        names = [f"{name[: MAX_NAME - 6]}-{number}" for number, name in enumerate(names, 1)]
    raw: dict[str, Any] = {
        "name": "-".join(names)[:80],
        "data": [{"name": name, "train": path, **reading} for name, path in zip(names, data, strict=True)],
        **wished,
    }
    if methods is not None:
        raw["methods"] = [name.strip() for name in methods.split(",") if name.strip()]
    return make_grid(raw, "compare" if methods is None else "--methods")


def _progress(done: CellDone) -> str:
    one = done.outcome
    where = f"[{done.number}/{done.n_cells}] {one.data}, {one.variant}, seed {one.seed}"
    if not one.ok:
        return f"{where}: failed: {one.error}"
    kept = " (kept)" if done.kept else ""
    return f"{where}: {one.accuracy:.4f} after {one.seconds:.1f} s{kept}"


def _print(tables: list[DataTable]) -> None:
    from edgetune.compare.ranking import HEADER, describe_ratio, pooled_speedups, row_cells

    sections = []
    for table in tables:
        title = f"{table.data}: {counted(table.n_eval, 'evaluation row')}, {table.machine}"
        sections.append(Section(title, [row_cells(line) for line in table.lines], HEADER, right=True))
        if table.failed:
            sections.append(Section(f"{table.data}: not measured", [*table.failed]))
    if whole := [(name, describe_ratio(ratio)) for name, ratio in pooled_speedups(tables).items()]:
        sections.append(Section("All data sets together", [*whole], ("method", "speed-up"), right=True))
    print_sections(sections)
    print("= : not significantly worse than the best. speed-up: above 1, the method pays off.")
    for caution in {table.caution for table in tables} - {""}:
        print(caution)


Format = Literal["html", "md", "csv", "json"]
SUFFIXES: dict[str, Format] = {".html": "html", ".htm": "html", ".md": "md", ".csv": "csv", ".json": "json"}
SHOWN_LEFT_OUT = 5


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, or folders written by `edgetune compare`.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Output file.", show_default="stdout; required for html")
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="Output format.", show_default="from the file name"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare finished runs on an HTML page or in a table.

    Examples:
        edgetune report runs/reviews runs/reviews-2 --out report.html
        edgetune report runs/compare-reviews --format md
    """
    chosen = _format(out, format_)
    if chosen == "html" and out is None:
        raise UsageError(
            "HTML needs an output file: add --out report.html, or print a table with --format md."
        )
    from edgetune.report.collect import collect
    from edgetune.run_files.outputs import check_outputs, write_output

    check_outputs({"--out": out}, runs=runs, overwrite=overwrite)
    collected = collect(runs)
    text = _written(collected, chosen)
    if out is None:
        sys.stdout.write(text)
    else:
        write_output(out, text)
        print(f"Wrote {out}: {counted(len(collected.runs), 'run')}.", file=sys.stderr)
    for sentence in collected.left_out[:SHOWN_LEFT_OUT]:
        print(f"Left out: {one_line(sentence)}", file=sys.stderr)
    if (n_more := len(collected.left_out) - SHOWN_LEFT_OUT) > 0:
        print(f"Left out: {n_more} more.", file=sys.stderr)


def _format(out: Path | None, given: Format | None) -> Format:
    """Return the given format, or else the one that the file's name implies.

    Raises:
        UsageError: neither says.
    """
    if given is not None:
        return given
    if out is None:
        raise UsageError(
            "Choose an output file: --out report.html; or print a table with --format md, csv or json."
        )
    found = SUFFIXES.get(out.suffix.lower())
    if found is None:
        names = ", ".join(SUFFIXES)
        raise UsageError(f"--out {out}: unknown file extension; use one of {names}, or add --format.")
    return found


def _written(collected: CollectedRuns, chosen: Format) -> str:
    from edgetune.report.run_table import to_csv, to_json, to_markdown

    if chosen == "html":
        from edgetune.report.page import page

        return page(collected, datetime.now().astimezone())
    return {"md": to_markdown, "csv": to_csv, "json": to_json}[chosen](collected)


def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Method to describe.",
            show_default="list all methods",
            autocompletion=complete_methods,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the methods of choosing examples, or describe one.

    Examples:
        edgetune methods
        edgetune methods three-stage
    """
    from edgetune.compare.method_cards import (
        baseline_cards,
        card_sections,
        find_card,
        list_sections,
        method_cards,
    )

    if name is not None:
        card = find_card(name)
        if as_json:
            print(json.dumps(asdict(card), ensure_ascii=False))
        else:
            print_sections(card_sections(card))
        return
    if as_json:
        blocks = {"methods": [*method_cards().values()], "baselines": [*baseline_cards().values()]}
        print(json.dumps(blocks, default=asdict))
    else:
        print_sections(list_sections())
