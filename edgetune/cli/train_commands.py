"""The commands that train, or plan a training run: finetune, plan, demo. Registered by `app.py`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetune.cli.options import (
    Backend,
    BatchSize,
    BatteryShare,
    CacheDir,
    CacheSize,
    Data,
    Deadline,
    Delimiter,
    Encoding,
    Energy,
    Escape,
    Eval,
    Header,
    Json,
    Label,
    MaxBadRows,
    MaxLength,
    Memory,
    MergeLabels,
    Method,
    Model,
    MultiLabel,
    Pair,
    Precision,
    Quiet,
    Set,
    Text,
    Watts,
    choice_option,
    completion_of,
    console,
    given_settings,
    parse_set_options,
    tell,
)
from edgetune.config.choices import (
    LEARNERS,
    TEXT_LEARNERS,
    USUAL_LEARNERS,
    ClassWeight,
    Device,
    LogTo,
    Metric,
    Pooling,
    Preset,
)
from edgetune.utils.errors import WORSE_THAN_MAJORITY, Interrupted, UsageError
from edgetune.utils.sanitize import json_text, on_terminal

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
    escape: Escape = None,
    merge_labels: MergeLabels = None,
    multi_label: MultiLabel = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            help="Share of rows to hold out for evaluation if --eval is not given.",
            show_default="0.1, at most 10,000 rows",
        ),
    ] = None,
    max_bad_rows: MaxBadRows = None,
    max_length: MaxLength = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model folder, run folder, or hub:NAME (with --artifacts: the initial weights).",
            show_default="built-in",
        ),
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="Train from artifacts made by `edgetune export`.")
    ] = None,
    pooling: Annotated[
        Pooling | None,
        choice_option(
            Pooling,
            "Input of a new classifier head, where cls is the first token",
            "auto: the mean where the encoder was trained with it",
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            help="Layers to freeze: none, embeddings, a number of lowest layers, or auto.",
            show_default="auto: embeddings, and more layers for a deadline or few rows",
        ),
    ] = None,
    cache_size: CacheSize = None,
    backend: Backend = None,
    device: Annotated[Device | None, choice_option(Device, "Device to train on", "cpu")] = None,
    precision: Precision = None,
    threads: Annotated[int | None, typer.Option(help="Number of threads.", show_default="all cores")] = None,
    onnx: Annotated[
        bool | None,
        typer.Option(
            "--onnx/--no-onnx", help="Export (or do not export) an ONNX model from the torch backend."
        ),
    ] = None,
    method: Method = None,
    preset: Annotated[
        Preset | None, choice_option(Preset, "Hyperparameters of the three-stage filter", "default")
    ] = None,
    keep_rate: Annotated[
        float | None, typer.Option(help="random: share of examples to keep.", show_default="0.5")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="fixed-threshold: train examples with a loss (nats) above this.", show_default="0.3"
        ),
    ] = None,
    warmup_fraction: Annotated[
        float | None,
        typer.Option(help="Length of the warm-up (stage 0), as a share of one epoch.", show_default="0.1"),
    ] = None,
    moving_threshold: Annotated[
        bool | None,
        typer.Option(
            "--moving-threshold/--frozen-threshold",
            help="Update the loss threshold L_low after stage 0, or keep it fixed.",
        ),
    ] = None,
    alt: Annotated[
        float | None,
        typer.Option(help="Predictor loss (nats) at which stage 1 ends.", show_default="by preset"),
    ] = None,
    alt_window: Annotated[
        int | None,
        typer.Option(
            help="Number of batches (W) over which that loss is averaged.", show_default="by preset"
        ),
    ] = None,
    explore_rate: Annotated[
        float | None,
        typer.Option(
            help="Share of examples predicted easy that are scored anyway.", show_default="by preset"
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Number of passes over the training rows.",
            show_default="by the number of rows, 1 to 10, with early stopping",
        ),
    ] = None,
    batch_size: BatchSize = None,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            "--learning-rate",
            help="Peak learning rate.",
            show_default="from model size and number of steps",
        ),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this many optimizer steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.", show_default="0")] = None,
    deadline: Deadline = None,
    energy: Energy = None,
    battery: BatteryShare = None,
    memory: Memory = None,
    watts: Watts = None,
    ngrams: Annotated[
        bool | None,
        typer.Option(
            "--ngrams/--no-ngrams",
            help="Also fit an n-gram classifier and combine it with the encoder.",
            show_default="True",
        ),
    ] = None,
    learners: Annotated[
        str | None,
        typer.Option(
            help="Learners that take part, with commas: ngrams, probe (a linear probe on the untouched "
            f"encoder, within a deadline), {', '.join(['encoder (trained)', *TEXT_LEARNERS])}.",
            show_default=",".join(USUAL_LEARNERS),
            autocompletion=completion_of(*LEARNERS),
        ),
    ] = None,
    single: Annotated[
        bool | None,
        typer.Option(
            "--single/--combined",
            help="Predict with the best learner alone, or with all learners combined.",
            show_default="False",
        ),
    ] = None,
    metric: Annotated[
        Metric | None, choice_option(Metric, "Metric by which learners are compared", "accuracy")
    ] = None,
    class_weight: Annotated[
        ClassWeight | None,
        choice_option(
            ClassWeight, "Correction for unequal class frequencies", "auto: as far as it improves --metric"
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Stop after this many passes without improvement.", show_default="never"),
    ] = None,
    checkpoint_every: Annotated[
        str | None,
        typer.Option(help="Time between checkpoints (0: only when stopped).", show_default="60s"),
    ] = None,
    log_to: Annotated[
        list[str] | None,
        choice_option(LogTo, "Also write the figures of the run for another program", "none"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Resume an interrupted run. Takes no other settings."),
    ] = None,
    set_: Set = None,
    config: Annotated[
        Path | None, typer.Option(help="Read settings from a TOML file; options take precedence.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to write to.", show_default="runs/NAME")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run in that folder.")
    ] = False,
    cache_dir: CacheDir = None,
    details: Annotated[
        bool, typer.Option("--details", help="Also print what every phase took, the plan, and skipped rows.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a classifier on labelled text.

    Examples:
        edgetune finetune reviews.csv --deadline 10m
        edgetune finetune train.tsv --eval test.tsv --text title,body --label topic
        edgetune finetune pairs.csv --text question,sentence --pair
        edgetune finetune reviews.csv --metric macro-f1 --out runs/rare
        edgetune finetune --resume runs/reviews
    """
    given = given_settings(
        locals(), "set_", "config", "out", "overwrite", "cache_dir", "quiet", "as_json", "resume", "details"
    )
    settings = parse_set_options(set_ or []) | given
    if resume is None:
        run_finetune(settings, config, out, overwrite, cache_dir, quiet, as_json, details)
    elif settings or config is not None or out is not None or overwrite:
        raise UsageError("--resume uses the settings of the run; give the run folder and no other settings.")
    else:
        run_resumed(resume, cache_dir, quiet, as_json, details)


def run_finetune(
    settings: dict[str, Any],
    config_file: Path | None,
    out: Path | None,
    overwrite: bool,
    cache_dir: Path | None,
    quiet: bool,
    as_json: bool,
    details: bool = False,
) -> dict[str, Any]:
    """Train, print the summary, and return it; `settings` are flat, budgets as users write them."""

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

    return _finetuned(start, "nothing was written", cache_dir, quiet, as_json, details)


def run_resumed(
    folder: Path, cache_dir: Path | None, quiet: bool, as_json: bool, details: bool
) -> dict[str, Any]:
    """Resume an interrupted run, print the summary, and return it."""

    def start(common: dict[str, Any]) -> Any:
        from edgetune.runs.run import resume_run

        return resume_run(folder, **common)

    return _finetuned(start, f"{folder} is unchanged", cache_dir, quiet, as_json, details)


def _finetuned(
    start: Callable[[dict[str, Any]], Any],
    unchanged: str,
    cache_dir: Path | None,
    quiet: bool,
    as_json: bool,
    details: bool,
) -> dict[str, Any]:
    """Train by calling `start` with what every run needs; print the summary and return it."""
    from edgetune.report.live_view import make_view
    from edgetune.utils.machine import cache_folder
    from edgetune.utils.meter import Meter, process_age_s
    from edgetune.utils.signals import StopRequest

    meter = Meter(process_age_s(_IMPORTED_AT_S, _CPU_AT_IMPORT_S))
    stop = StopRequest()
    try:
        with stop.handling_signals():
            cache = cache_dir if cache_dir is not None else cache_folder()
            view = make_view(quiet)
            common = {"cache_dir": cache, "meter": meter, "view": view, "stop": stop}
            result: dict[str, Any] = start(common).to_dict()
    except KeyboardInterrupt:  # typer would leave without a word
        raise Interrupted(f"Stopped before anything was trained; {unchanged}.") from None
    if as_json:
        print(json_text(result))
    elif not quiet:
        from edgetune.report.result_tables import summary_sections
        from edgetune.utils.tables import print_sections

        error = result["warnings"][:1] if result["worse_than_majority"] else []  # printed below
        new = [text for text in result["warnings"] if text not in {*view.warned, *error}]
        print_sections(summary_sections(result | {"warnings": new}, details=details), console())
    if result["worse_than_majority"]:
        typer.secho(f"edgetune: {on_terminal(result['warnings'][0])}", fg=typer.colors.RED, err=True)
        raise typer.Exit(WORSE_THAN_MAJORITY)
    return result


def plan(
    data: Data,
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
    escape: Escape = None,
    merge_labels: MergeLabels = None,
    multi_label: MultiLabel = None,
    max_bad_rows: MaxBadRows = None,
    max_length: Annotated[
        int | None, typer.Option(help="Maximum number of tokens per text.", show_default="planned")
    ] = None,
    model: Model = None,
    freeze: Annotated[
        str | None,
        typer.Option(help="Layers to freeze: none, embeddings, or a number.", show_default="planned"),
    ] = None,
    cache_size: CacheSize = None,
    backend: Backend = None,
    precision: Precision = None,
    method: Method = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Maximum number of passes over the training rows.", show_default="planned"),
    ] = None,
    batch_size: BatchSize = None,
    watts: Watts = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Explain the choice, and list what was rejected.")
    ] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Plan a run within a deadline, without training.

    Examples:
        edgetune plan reviews.csv --deadline 10m
        edgetune plan reviews.csv --deadline 10m --memory 2GB --explain
    """
    settings = given_settings(locals(), "explain", "cache_dir", "as_json")
    from edgetune.report.result_tables import print_plans
    from edgetune.runs.dry_run import dry_run

    plans = dry_run(settings, cache_dir, tell)
    if as_json:
        print(json_text(plans.to_dict()))
    else:
        print_plans(plans, console(), explain=explain)


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
    run_finetune(settings, None, out, overwrite, cache_dir, quiet, as_json)
    if as_json or quiet:
        return
    from edgetune.inference.predictions import predict_lines, print_predictions

    print("\nPredictions for three unseen tickets:")
    print_predictions(predict_lines(load_run(out), demo_texts()), as_json=False)
    print(f"\nThe tickets are in {tickets}. Next: edgetune finetune YOUR_FILE.csv")
