"""The commands that compare methods and inspect finished runs: compare, inspect. Registered by `app.py`."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetune.cli.options import (
    CacheDir,
    Deadline,
    Delimiter,
    Encoding,
    Escape,
    Eval,
    Header,
    Json,
    Label,
    MergeLabels,
    MultiLabel,
    Overwrite,
    Pair,
    Set,
    Text,
    complete_methods,
    console,
    given_options,
    parse_set_options,
    split_columns,
    tell,
)
from edgetune.utils.errors import RunError, UsageError
from edgetune.utils.formatting import counted
from edgetune.utils.limits import MAX_CELLS, MAX_NAME
from edgetune.utils.sanitize import json_text, on_terminal

if TYPE_CHECKING:
    from edgetune.compare.comparison import CellDone
    from edgetune.compare.grid import Grid
    from edgetune.compare.ranking import DataTable


def compare(
    data: Annotated[list[str], typer.Argument(help="One or more labelled data sets, or one grid in TOML.")],
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods to run, with commas, or all (see `edgetune methods`).",
            show_default="a few",
            autocompletion=complete_methods,
        ),
    ] = None,
    deadline: Deadline = None,
    epochs: Annotated[
        int | None, typer.Option(help="Number of passes per run, without a deadline.", show_default="1")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Number of runs per method, each with its own seed.", min=1, max=MAX_CELLS, show_default="1"
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Maximum number of training rows, drawn once.", show_default="all")
    ] = None,
    eval_rows: Annotated[
        int | None, typer.Option(help="Maximum number of evaluation rows, drawn once.", show_default="all")
    ] = None,
    eval_: Eval = None,
    text: Text = None,
    label: Label = None,
    pair: Pair = None,
    header: Header = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    escape: Escape = None,
    merge_labels: MergeLabels = None,
    multi_label: MultiLabel = None,
    curve: Annotated[
        bool | None,
        typer.Option(
            "--curve/--no-curve",
            help="Also run random selection at five durations, as the reference curve.",
            show_default="curve",
        ),
    ] = None,
    models: Annotated[
        bool | None,
        typer.Option(
            "--models/--no-models",
            help="Keep the model of every run (180 MB each for the built-in model).",
            show_default="models",
        ),
    ] = None,
    set_: Set = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to.", show_default="runs/compare-NAME")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace runs of that folder that had other settings."),
    ] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Run several methods on the same rows and rank them.

    Examples:
        edgetune compare reviews.csv --deadline 2m --methods all
        edgetune compare a.csv b.csv --epochs 2 --seeds 3 --no-models
        edgetune compare grid.toml --out runs/grid
    """
    from edgetune.compare.comparison import Comparison
    from edgetune.compare.comparison_charts import draw_all
    from edgetune.compare.ranking import make_tables, markdown
    from edgetune.run_files.outputs import check_comparison_folder, write_output
    from edgetune.run_files.run_folder import disk_errors
    from edgetune.utils.machine import cache_folder

    reading = {"text": split_columns(text) if text else None, "label": label, "pair": pair, "header": header}
    reading |= {"encoding": encoding, "delimiter": delimiter, "escape": escape}
    reading |= {"merge_labels": merge_labels, "multi_label": multi_label, "eval": eval_}
    size = given_options({"rows": rows, "eval_rows": eval_rows})
    settings = _settings(deadline, epochs, set_)
    if data[0].endswith(".toml"):
        also = [
            *given_options(reading),
            *size,
            *settings,
            *given_options({"methods": methods, "seeds": seeds, "curve": curve, "models": models}),
        ]
        grid = _grid_file(data, also)
    else:
        wished = size | given_options(
            {"seeds": seeds and list(range(seeds)), "curve": curve, "models": models}
        )
        grid = _grid_of(data, given_options(reading), methods, wished | {"settings": settings})
    folder = out if out is not None else Path("runs") / f"compare-{grid.name}"
    sources = [path for entry in grid.data for path in (entry.train, entry.eval)]
    check_comparison_folder(folder, grid.model_dump(mode="json"), sources, overwrite)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the cell is stopped too
    try:
        comparison = Comparison(grid, folder, cache_dir or cache_folder(), _say)
        for done in comparison.run():
            _say(_progress(done))
    except KeyboardInterrupt:
        _say(f"Stopped. Finished runs are kept in {folder}; run the same command again to continue.")
        sys.exit(130)
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


def _say(text: str) -> None:
    print(on_terminal(text), file=sys.stderr, flush=True)


def _grid_file(data: list[str], also: list[str]) -> Grid:
    from edgetune.compare.grid import load_grid

    if len(data) > 1 or also:
        raise UsageError(f"{data[0]} is a grid and holds all settings; give no other option but --out.")
    return load_grid(Path(data[0]))


def _settings(deadline: str | None, epochs: int | None, set_: list[str] | None) -> dict[str, Any]:
    """Return settings of every cell, as `config` has them."""
    from datetime import datetime

    from edgetune.config.budget import read_budget

    settings = parse_set_options(set_ or [])
    if epochs is not None:
        settings["epochs"] = epochs
    if deadline is not None:
        settings["deadline"] = deadline
    return read_budget(settings, datetime.now(), 0.0)


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
    from edgetune.utils.tables import Section, print_sections

    sections = []
    for table in tables:
        title = f"{table.data}: {counted(table.n_eval, 'evaluation row')}, {table.machine}"
        sections.append(Section(title, [row_cells(line) for line in table.lines], HEADER, right=True))
        if table.failed:
            sections.append(Section(f"{table.data}: not measured", [*table.failed]))
    if whole := [(name, describe_ratio(ratio)) for name, ratio in pooled_speedups(tables).items()]:
        sections.append(Section("All data sets together", [*whole], ("method", "speed-up"), right=True))
    print_sections(sections, console())
    print("= : not significantly worse than the best. speed-up: above 1, the method pays off.")
    for caution in {table.caution for table in tables} - {""}:
        print(caution)


def inspect(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    rows: Annotated[int, typer.Option(help="Number of rows to list.", min=1)] = 10,
    limit: Annotated[
        int, typer.Option(help="Number of rows to check at most; of more, a random sample.", min=1)
    ] = 20_000,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the training file with a suggested label for each row to this CSV file."),
    ] = None,
    map_: Annotated[
        Path | None,
        typer.Option("--map", help="Plot the data map of the training rows to this file (.png or .svg)."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """List training rows whose label is probably wrong.

    Examples:
        edgetune inspect runs/reviews
        edgetune inspect runs/reviews --out corrected.csv --map map.png
    """
    from edgetune.inference.inspection import corrected_table, inspect_run
    from edgetune.report.result_tables import inspection_object, print_inspection, write_corrected
    from edgetune.run_files.example_stats import load_example_stats
    from edgetune.run_files.outputs import check_outputs
    from edgetune.run_files.run_folder import disk_errors

    check_outputs({"--out": out, "--map": map_}, runs=[run], overwrite=overwrite)
    if map_ is not None:
        from edgetune.report.charts import picture_kind

        try:
            picture_kind(map_)
        except ValueError as error:
            raise UsageError(f"--map {map_}: {error}.") from error
    found = inspect_run(run, rows, limit, tell)
    if out is not None:
        bad: list[str] = []
        write_corrected(out, corrected_table(found, bad.append))
        if bad:
            print(
                f"Rows left out because they cannot be read: {len(bad):,}, the first is {bad[0]}.",
                file=sys.stderr,
            )
    if map_ is not None:
        from edgetune.report.charts import draw_map

        record = load_example_stats(run)
        with disk_errors(map_):
            draw_map(record.confidence(), record.variability(), record.correctness(), map_)
    if as_json:
        print(json_text(inspection_object(found, rows)))
    else:
        print_inspection(found, rows, console())
    for path in (out, map_):
        if path is not None:
            print(f"Wrote {path}.", file=sys.stderr)
