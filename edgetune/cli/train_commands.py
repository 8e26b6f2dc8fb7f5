"""The commands that read labelled text: check, init, plan, finetune, demo. Registered by `app.py`."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetune.cli.options import (
    LABELS,
    READING,
    SETTINGS,
    CacheDir,
    Data,
    Json,
    Overwrite,
    Quiet,
    Set,
    console,
    option,
    parse_set_options,
    takes,
    tell,
)
from edgetune.utils.errors import NEEDS_MENDING, WORSE_THAN_MAJORITY, Interrupted, UsageError
from edgetune.utils.sanitize import json_text, on_terminal
from edgetune.utils.tables import print_sections

_IMPORTED_AT_S, _CPU_AT_IMPORT_S = time.perf_counter(), time.process_time()


@takes("eval", *READING, *LABELS, "max_length", "model")
def check(
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Also write a page to this .html file.")] = None,
    overwrite: Overwrite = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Check labelled text before training (exit code 3: needs mending).

    Examples:
        edgetune check reviews.csv
        edgetune check reviews.csv --eval test.csv --out check.html
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: the page is HTML; use a name that ends in .html.")
    from edgetune.report.check_tables import check_page, print_check
    from edgetune.run_files.outputs import check_outputs, write_output
    from edgetune.runs.dry_run import run_check

    check_outputs({"--out": out}, reads=[data, settings.get("eval")], overwrite=overwrite)
    found = run_check(settings | {"train": data}, cache_dir, tell)
    if as_json:
        print(json_text(found.to_dict()))
    else:
        print_check(found, console())
    if out is not None:
        write_output(out, check_page(found, datetime.now().astimezone()))
        print(f"Wrote {out}.", file=sys.stderr)
    if found.needs_mending:
        raise typer.Exit(NEEDS_MENDING)


@takes(*READING, *LABELS)
def init(data: Data, **settings: Any) -> None:
    """Print a commented config for a file, with what was detected.

    Examples:
        edgetune init reviews.csv > config.toml
        edgetune init reviews.csv --text title,body --label topic > config.toml
    """
    from edgetune.checking.config_draft import draft_config
    from edgetune.config.toml_config import group_by_section, make_config

    config = make_config(group_by_section({"encoding": "auto", "train": data} | settings))
    print(draft_config(config.data), end="")


@takes(
    *("eval", *READING, *LABELS, "max_bad_rows", "model", "cache_size", "backend", "precision", "method"),
    *("batch_size", "deadline", "energy", "battery", "memory", "watts"),
    max_length=option(int, "Maximum number of tokens per text.", "planned"),
    freeze=option(str, "Layers to freeze: none, embeddings, or a number.", "planned"),
    epochs=option(int, "Maximum number of passes over the training rows.", "planned"),
)
def plan(
    data: Data,
    explain: Annotated[
        bool, typer.Option("--explain", help="Explain the choice, and list what was rejected.")
    ] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Plan a run within a deadline, without training.

    Examples:
        edgetune plan reviews.csv --deadline 10m
        edgetune plan reviews.csv --deadline 10m --memory 2GB --explain
    """
    from edgetune.report.result_tables import print_plans
    from edgetune.runs.dry_run import dry_run

    plans = dry_run(settings | {"train": data}, cache_dir, tell)
    if as_json:
        print(json_text(plans.to_dict()))
    else:
        print_plans(plans, console(), explain=explain)


@takes(
    *SETTINGS,
    model=option(
        str, "Model folder, run folder, or hub:NAME (with --artifacts: the initial weights).", "built-in"
    ),
    resume=option(Path, "Resume an interrupted run. Takes no other settings."),
    config=option(Path, "Read settings from a TOML file; options take precedence."),
    out=option(Path, "Run folder to write to.", "runs/NAME"),
    overwrite=option(bool, "Replace an existing run in that folder.", None, "--overwrite"),
    details=option(bool, "Also print what every phase took, the plan, and skipped rows.", None, "--details"),
)
def finetune(
    data: Annotated[str | None, typer.Argument(help="Labelled text: a file, a folder, or hub:NAME.")] = None,
    resume: Path | None = None,
    set_: Set = None,
    config: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    cache_dir: CacheDir = None,
    details: bool = False,
    quiet: Quiet = False,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Train a classifier on labelled text.

    Examples:
        edgetune finetune reviews.csv --deadline 10m
        edgetune finetune train.tsv --eval test.tsv --text title,body --label topic
        edgetune finetune pairs.csv --text question,sentence --pair
        edgetune finetune reviews.csv --metric macro-f1 --out runs/rare
        edgetune finetune --resume runs/reviews
    """
    settings = parse_set_options(set_ or []) | settings | ({} if data is None else {"train": data})
    if resume is None:
        start = functools.partial(_start_run, settings, config, out, overwrite)
        _train(start, "nothing was written", cache_dir, quiet, as_json, details)
    elif settings or config is not None or out is not None or overwrite:
        raise UsageError("--resume uses the settings of the run; give the run folder and no other settings.")
    else:
        start = functools.partial(_resume_run, resume)
        _train(start, f"{resume} is unchanged", cache_dir, quiet, as_json, details)


def _start_run(
    settings: dict[str, Any], config_file: Path | None, out: Path | None, overwrite: bool, **common: Any
) -> Any:
    """Start a run; `settings` are flat, budgets as users write them."""
    from edgetune.config.budget import read_budget
    from edgetune.config.toml_config import group_by_section, load_config, merge_sections
    from edgetune.runs.run import default_run_folder, run

    flat = read_budget(settings, datetime.now(), common["meter"].elapsed_s())
    base = load_config(config_file) if config_file is not None else {}
    if "train" not in flat and "train" not in base.get("data", {}):
        raise UsageError("Give the labelled text to train on: edgetune finetune FILE (or --config FILE).")
    config = merge_sections(base, group_by_section(flat))
    where = out if out is not None else default_run_folder(config.data.train)
    return run(config, where, overwrite=overwrite, **common)


def _resume_run(folder: Path, **common: Any) -> Any:
    from edgetune.runs.run import resume_run

    return resume_run(folder, **common)


def _train(
    start: Callable[..., Any],
    unchanged: str,
    cache_dir: Path | None,
    quiet: bool,
    as_json: bool,
    details: bool = False,
) -> None:
    """Train by calling `start` with what every run needs, and print the summary."""
    from edgetune.report.live_view import make_view
    from edgetune.utils.machine import cache_folder
    from edgetune.utils.meter import Meter, process_age_s
    from edgetune.utils.signals import StopRequest

    meter = Meter(process_age_s(_IMPORTED_AT_S, _CPU_AT_IMPORT_S))
    stop = StopRequest()
    try:
        with stop.handling_signals():
            cache, view = cache_folder(cache_dir), make_view(quiet)
            result = start(cache_dir=cache, meter=meter, view=view, stop=stop).to_dict()
    except KeyboardInterrupt:  # typer would leave without a word
        raise Interrupted(f"Stopped before anything was trained; {unchanged}.") from None
    if as_json:
        print(json_text(result))
    elif not quiet:
        from edgetune.report.result_tables import summary_sections

        error = result["warnings"][:1] if result["worse_than_majority"] else []  # printed below
        new = [text for text in result["warnings"] if text not in {*view.warned, *error}]
        print_sections(summary_sections(result | {"warnings": new}, details=details))
    if result["worse_than_majority"]:
        typer.secho(f"edgetune: {on_terminal(result['warnings'][0])}", fg=typer.colors.RED, err=True)
        raise typer.Exit(WORSE_THAN_MAJORITY)


def demo(
    out: Annotated[Path, typer.Option(help="Run folder to write to.")] = Path("runs/demo"),
    rows: Annotated[int, typer.Option(help="Number of tickets to generate.", min=100)] = 4000,
    seed: Annotated[int, typer.Option(help="Random seed of the tickets and of the run.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing demo in that folder.")
    ] = False,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Generate support tickets, train on them, and predict.

    Examples:
        edgetune demo
        edgetune demo --rows 1000 --out runs/small-demo
    """
    from edgetune.data.demo import demo_texts, is_demo, write_demo
    from edgetune.inference.saved_run import load_run
    from edgetune.run_files.outputs import check_outputs
    from edgetune.run_files.run_folder import RunFolder, disk_errors

    RunFolder(out, overwrite)
    tickets = out.parent / f"{out.absolute().name}-tickets.csv"
    if not is_demo(tickets, n_rows=rows, seed=seed):  # as an interrupted demo left it
        check_outputs({"The tickets' file": tickets}, overwrite=overwrite)
        with disk_errors(tickets):
            write_demo(tickets, n_rows=rows, seed=seed)
    if not quiet and not as_json:
        print(f"Wrote {rows:,} generated support tickets to {tickets}", file=sys.stderr)
    # One pass: a few minutes, not the most accurate model.
    settings = {"train": str(tickets), "seed": seed, "epochs": 1}
    start = functools.partial(_start_run, settings, None, out, overwrite)
    _train(start, "nothing was written", cache_dir, quiet, as_json)
    if as_json or quiet:
        return
    from edgetune.inference.predictions import predict_lines, print_predictions

    print("\nPredictions for three unseen tickets:")
    print_predictions(predict_lines(load_run(out), demo_texts()), as_json=False)
    print(f"\nThe tickets are in {tickets}. Next: edgetune finetune YOUR_FILE.csv")
