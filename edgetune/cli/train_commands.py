"""The commands that train or say what training would do: finetune, plan, demo. Registered by `cli.py`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetune.cli.options import (
    BackendName,
    BatteryShare,
    CacheDir,
    CacheSize,
    Deadline,
    Delimiter,
    DeviceName,
    Encoding,
    Energy,
    Eval,
    Header,
    Json,
    Label,
    MaxBadRows,
    Memory,
    MethodName,
    Pair,
    Precision,
    Preset,
    Quiet,
    Set,
    Text,
    Watts,
    console,
    given_settings,
    parse_set_options,
)
from edgetune.core.errors import Interrupted, UsageError
from edgetune.core.sanitize import json_text, on_terminal

_IMPORTED_AT_S, _CPU_AT_IMPORT_S = time.perf_counter(), time.process_time()


def finetune(
    data: Annotated[str | None, typer.Argument(help="Labelled text: a file, a folder, or hub:NAME.")] = None,
    eval_: Eval = None,
    text: Text = None,
    label: Label = None,
    pair: Pair = None,
    header: Header = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    holdout: Annotated[
        float | None,
        typer.Option(help="Share of rows held out without --eval.", show_default="0.1, at most 10,000 rows"),
    ] = None,
    max_bad_rows: MaxBadRows = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens per text at most.", show_default="128")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model folder, run folder or hub:NAME (with --artifacts: weights to start from).",
            show_default="built-in",
        ),
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="Train from artifacts made by `edgetune export`.")
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            help="none, embeddings, how many lowest layers too, or auto.",
            show_default="auto: embeddings, deeper where a deadline asks for it",
        ),
    ] = None,
    cache_size: CacheSize = None,
    backend: Annotated[BackendName | None, typer.Option(help="What trains.", show_default="auto")] = None,
    device: Annotated[DeviceName | None, typer.Option(help="Where it trains.", show_default="cpu")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Arithmetic of the torch backend.", show_default="auto")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one operation.", show_default="all cores")
    ] = None,
    onnx: Annotated[
        bool | None, typer.Option("--onnx/--no-onnx", help="Whether the torch backend exports ONNX.")
    ] = None,
    method: Annotated[
        MethodName | None, typer.Option(help="Which examples are trained.", show_default="train-all")
    ] = None,
    preset: Annotated[
        Preset | None, typer.Option(help="Numbers of the three-stage filter.", show_default="default")
    ] = None,
    keep_rate: Annotated[
        float | None, typer.Option(help="random: share of examples kept.", show_default="0.5")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="fixed-threshold: train above this loss (nats).", show_default="0.3"),
    ] = None,
    warmup_fraction: Annotated[
        float | None, typer.Option(help="Stage 0, share of one epoch.", show_default="0.1")
    ] = None,
    moving_threshold: Annotated[
        bool | None,
        typer.Option(
            "--moving-threshold/--frozen-threshold", help="Whether L_low follows the losses after stage 0."
        ),
    ] = None,
    alt: Annotated[
        float | None,
        typer.Option(help="Predictor loss (nats) that ends stage 1.", show_default="by preset"),
    ] = None,
    alt_window: Annotated[
        int | None, typer.Option(help="Over how many batches (W).", show_default="by preset")
    ] = None,
    explore_rate: Annotated[
        float | None,
        typer.Option(help="Share of predicted-easy examples scored anyway.", show_default="by preset"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the rows.", show_default="1")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step.", show_default="32")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="by model and steps")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this many steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.", show_default="0")] = None,
    deadline: Deadline = None,
    energy: Energy = None,
    battery: BatteryShare = None,
    memory: Memory = None,
    watts: Watts = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Stop after so many passes without a better evaluation.", show_default="never"),
    ] = None,
    checkpoint_every: Annotated[
        str | None,
        typer.Option(help="How often what --resume needs is written (0: when stopped).", show_default="60s"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Go on with this run folder's broken-off run; give nothing else."),
    ] = None,
    set_: Set = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings from a TOML file; options go before it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/NAME")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run there.")] = False,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a classifier on labelled text, within a deadline if there is one.

    Example: edgetune finetune reviews.csv --deadline 10m
    """
    given = given_settings(
        locals(), "set_", "config", "out", "overwrite", "cache_dir", "quiet", "as_json", "resume"
    )
    settings = parse_set_options(set_ or []) | given
    if resume is None:
        run_finetune(settings, config, out, overwrite, cache_dir, quiet, as_json)
    elif settings or config is not None or out is not None or overwrite:
        raise UsageError("--resume goes on with the run's own settings; give the run folder and no others.")
    else:
        run_resumed(resume, cache_dir, quiet, as_json)


def run_finetune(
    settings: dict[str, Any],
    config_file: Path | None,
    out: Path | None,
    overwrite: bool,
    cache_dir: Path | None,
    quiet: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Train, print the receipt, and return it; `settings` are flat, the budget in a user's words."""

    def start(common: dict[str, Any]) -> Any:
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

    return _finetuned(start, "nothing was written", cache_dir, quiet, as_json)


def run_resumed(folder: Path, cache_dir: Path | None, quiet: bool, as_json: bool) -> dict[str, Any]:
    """Go on with a run that was broken off, print the receipt, and return it."""

    def start(common: dict[str, Any]) -> Any:
        from edgetune.runs.run import resume_run

        return resume_run(folder, **common)

    return _finetuned(start, f"{folder} is as it was", cache_dir, quiet, as_json)


def _finetuned(
    start: Callable[[dict[str, Any]], Any], unchanged: str, cache_dir: Path | None, quiet: bool, as_json: bool
) -> dict[str, Any]:
    """Let `start` train, with what every run has; print the receipt and return it."""
    from edgetune.core.machine import cache_folder
    from edgetune.core.meter import Meter, process_age_s
    from edgetune.core.signals import StopRequest
    from edgetune.report.live_view import make_view

    meter = Meter(process_age_s(_IMPORTED_AT_S, _CPU_AT_IMPORT_S))
    stop = StopRequest()
    try:
        with stop.handling_signals():
            cache = cache_dir if cache_dir is not None else cache_folder()
            common = {"cache_dir": cache, "meter": meter, "view": make_view(quiet), "stop": stop}
            result: dict[str, Any] = start(common).to_dict()
    except KeyboardInterrupt:  # typer would leave without a word
        raise Interrupted(f"Stopped before anything was trained; {unchanged}.") from None
    if as_json:
        print(json_text(result))
    elif not quiet:
        from edgetune.report.result_tables import print_summary

        print_summary(result, console())
    return result


def plan(
    data: Annotated[str, typer.Argument(help="Labelled text: a file, a folder, or hub:NAME.")],
    deadline: Deadline = None,
    energy: Energy = None,
    battery: BatteryShare = None,
    memory: Memory = None,
    eval_: Eval = None,
    text: Text = None,
    label: Label = None,
    pair: Pair = None,
    header: Header = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    max_bad_rows: MaxBadRows = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens per text at most.", show_default="planned")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model folder or hub:NAME.", show_default="built-in")
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(help="none, embeddings, or how many layers.", show_default="planned")
    ] = None,
    cache_size: CacheSize = None,
    backend: Annotated[BackendName | None, typer.Option(help="What trains.", show_default="planned")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Arithmetic of the torch backend.", show_default="planned")
    ] = None,
    method: Annotated[
        MethodName | None, typer.Option(help="Which examples are trained.", show_default="train-all")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the rows, at most.", show_default="planned")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step.", show_default="32")] = None,
    watts: Watts = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why, and what was refused.")] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Say what this machine can make of a deadline, and why; trains nothing.

    Example: edgetune plan reviews.csv --deadline 10m
    """
    settings = given_settings(locals(), "explain", "cache_dir", "as_json")
    from edgetune.report.plan_tables import print_plans
    from edgetune.runs.dry_run import dry_run

    plans = dry_run(settings, cache_dir, lambda text: print(on_terminal(text), file=sys.stderr))
    if as_json:
        print(json_text(plans.to_dict()))
    else:
        print_plans(plans, console(), explain=explain)


def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    rows: Annotated[int, typer.Option(help="Tickets to generate.", min=100)] = 4000,
    seed: Annotated[int, typer.Option(help="Of the tickets and of the run.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo there.")] = False,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Generate labelled support tickets, train on them, and predict three.

    Example: edgetune demo
    """
    from edgetune.data.demo import demo_texts, write_demo
    from edgetune.inference.saved_run import load_run
    from edgetune.record.run_folder import RunFolder, disk_errors

    RunFolder(out, overwrite)
    tickets = out.parent / f"{out.name}-tickets.csv"
    with disk_errors(tickets):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_demo(tickets, n_rows=rows, seed=seed)
    if not quiet and not as_json:
        print(f"Wrote {rows:,} generated support tickets to {tickets}", file=sys.stderr)
    run_finetune({"train": str(tickets), "seed": seed}, None, out, overwrite, cache_dir, quiet, as_json)
    if as_json or quiet:
        return
    from edgetune.inference.predictions import predict_lines, print_predictions

    print("\nThree tickets that it has not seen:")
    print_predictions(predict_lines(load_run(out), demo_texts()), as_json=False)
    print(
        f"\nThe tickets are in {tickets}, the model in {out / 'model'} (Hugging Face) and "
        f"{out / 'onnx'} (ONNX),\n"
        f"the picture of the run in {out / 'run.png'}. Next: edgetune finetune YOUR_FILE.csv"
    )
