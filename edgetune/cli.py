"""The commands: parse → one library call → print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetune import __version__
from edgetune.cli_options import (
    BackendName,
    BatteryShare,
    CacheDir,
    CacheSize,
    Deadline,
    Delimiter,
    Device,
    Encoding,
    Energy,
    Header,
    Json,
    Label,
    MaxBadRows,
    Memory,
    Method,
    Pair,
    Precision,
    Preset,
    Quiet,
    Text,
    Watts,
)
from edgetune.cli_profile import profile_app
from edgetune.errors import EdgetuneError, Interrupted, UsageError

if TYPE_CHECKING:
    from edgetune.data.dataset import DataOptions

_IMPORTED_AT_S, _CPU_AT_IMPORT_S = time.perf_counter(), time.process_time()

app = typer.Typer(
    name="edgetune",
    help="Finetune a text classifier on the machine you have, in the time you have, offline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(profile_app)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(f"edgetune {__version__}")
        raise typer.Exit


@app.command()
def finetune(
    data: Annotated[str | None, typer.Argument(help="Labelled text: a file, a folder, or hub:NAME.")] = None,
    eval_: Annotated[
        str | None, typer.Option("--eval", help="Labelled text to evaluate on.", show_default="held out")
    ] = None,
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
            help="Model folder, run folder or hub name (with --artifacts: weights to start from).",
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
    device: Annotated[Device | None, typer.Option(help="Where it trains.", show_default="cpu")] = None,
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
        Method | None, typer.Option(help="Which examples are trained.", show_default="train-all")
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
    settings = _given(
        locals(), "data", "config", "out", "overwrite", "cache_dir", "quiet", "as_json", "eval_"
    )
    if data is not None:
        settings["train"] = data
    if eval_ is not None:
        settings["eval"] = eval_
    if text is not None:
        settings["text"] = _columns(text)
    _finetune(settings, config, out, overwrite, cache_dir, quiet, as_json)


def _finetune(
    settings: dict[str, Any],
    config_file: Path | None,
    out: Path | None,
    overwrite: bool,
    cache_dir: Path | None,
    quiet: bool,
    as_json: bool,
) -> dict[str, Any]:
    from edgetune.budget import read_budget
    from edgetune.config import by_section, load_config, merged
    from edgetune.meter import Meter, process_age_s
    from edgetune.stopping import StopRequest

    meter = Meter(process_age_s(_IMPORTED_AT_S, _CPU_AT_IMPORT_S))
    stop = StopRequest()
    settings = read_budget(settings, datetime.now(), meter.elapsed_s())
    try:
        with stop.listening():
            from edgetune.machine import cache_folder
            from edgetune.report.live import make_view
            from edgetune.run import default_out, run

            base = load_config(config_file) if config_file is not None else {}
            if "train" not in settings and "train" not in base.get("data", {}):
                raise UsageError(
                    "Give the labelled text to train on: edgetune finetune FILE (or --config FILE)."
                )
            config = merged(base, by_section(settings))
            result = run(
                config,
                out if out is not None else default_out(config.data.train),
                overwrite=overwrite,
                cache_dir=cache_dir if cache_dir is not None else cache_folder(),
                meter=meter,
                view=make_view(quiet),
                stop=stop,
            ).to_dict()
    except KeyboardInterrupt:  # typer would leave without a word
        raise Interrupted("Stopped before anything was trained; nothing was written.") from None
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    elif not quiet:
        from edgetune.report.tables import print_summary

        print_summary(result, _console())
    return result


@app.command()
def plan(
    data: Annotated[str, typer.Argument(help="Labelled text: a file, a folder, or hub:NAME.")],
    deadline: Deadline = None,
    energy: Energy = None,
    battery: BatteryShare = None,
    memory: Memory = None,
    eval_: Annotated[
        str | None, typer.Option("--eval", help="Labelled text to evaluate on.", show_default="held out")
    ] = None,
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
        str | None, typer.Option(help="Model folder or hub name.", show_default="built-in")
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
        Method | None, typer.Option(help="Which examples are trained.", show_default="train-all")
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
    settings = _given(locals(), "data", "eval_", "explain", "cache_dir", "as_json")
    from edgetune.planning.ahead import plan_ahead
    from edgetune.report.plan_tables import print_plans

    settings["train"] = data
    if eval_ is not None:
        settings["eval"] = eval_
    if text is not None:
        settings["text"] = _columns(text)
    plans = plan_ahead(settings, cache_dir)
    if as_json:
        print(json.dumps(plans.to_dict(), ensure_ascii=False))
    else:
        print_plans(plans, _console(), explain=explain)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to classify.", show_default="read from stdin")
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="Texts in a file: one a line, or a table with --text.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write .csv or .jsonl instead of printing.")] = None,
    text: Text = None,
    pair: Pair = None,
    header: Header = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per text.")] = False,
) -> None:
    """Label texts with a trained model.

    Example: edgetune predict runs/reviews "the battery died in a day"
    """
    from edgetune.predicting import predict_file, predict_lines, print_predictions, write_predictions
    from edgetune.saved import load_run

    opened = load_run(run)
    if file is not None and texts:
        raise UsageError("Give texts or --file, not both.")
    if file is not None:
        options = _options(text, pair, header, encoding, delimiter)
        rows = predict_file(opened, file, options)
    else:
        rows = predict_lines(opened, texts if texts else (line.rstrip("\n") for line in sys.stdin))
    if out is not None:
        n_written = write_predictions(rows, out)
        print(f"Wrote {n_written:,} predictions to {out}.", file=sys.stderr)
    else:
        print_predictions(rows, as_json)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[str, typer.Argument(help="Labelled text.")],
    text: Text = None,
    label: Label = None,
    pair: Pair = None,
    header: Header = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    max_bad_rows: MaxBadRows = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Measure a trained model on labelled text.

    Example: edgetune evaluate runs/reviews test.csv
    """
    from edgetune.saved import load_run

    opened = load_run(run)
    given: dict[str, Any] = {
        "text": _columns(text) if text else None,
        "label": label,
        "pair": pair,
        "header": header,
        "encoding": encoding,
        "delimiter": delimiter,
    }
    options = dataclasses.replace(
        opened.data_options(), **{name: value for name, value in given.items() if value is not None}
    )
    share = 0.01 if max_bad_rows is None else max_bad_rows
    found = opened.evaluate(data, options, cache_dir=cache_dir, max_bad_rows=share)
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    from edgetune.report.tables import print_evaluation

    print_evaluation(found, _console())


@app.command()
def export(
    labels: Annotated[int, typer.Option(help="How many labels the classifier has.")],
    out: Annotated[Path, typer.Option(help="Folder for the artifacts.")],
    model: Annotated[
        str | None, typer.Option(help="Model folder or hub name.", show_default="built-in")
    ] = None,
    freeze: Annotated[
        str, typer.Option(help="none, embeddings, or how many lowest layers too.")
    ] = "embeddings",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace artifacts there.")] = False,
    cache_dir: CacheDir = None,
) -> None:
    """Make training artifacts, to be carried to a device without torch.

    Example: edgetune export --labels 2 --out artifacts/
    """
    from edgetune.backends.ort_runtime import import_training
    from edgetune.exporting import export_artifacts

    import_training()
    done = export_artifacts(model, labels, out, freeze=freeze, overwrite=overwrite, cache_dir=cache_dir)
    check = done.manifest.check
    print(
        f"Wrote training artifacts of {done.manifest.model} ({labels} labels, frozen: {freeze}) to {out}.\n"
        f"Checked against torch: logits differ by {check.logits:.1e}, gradients by {check.gradients:.1e}.\n"
        f"Train from them with: edgetune finetune FILE --artifacts {out}"
    )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has, what is missing, and the command that gets it.

    Example: edgetune doctor
    """
    from edgetune.doctor import examine, print_findings

    findings = examine()
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    else:
        print_findings(findings, _console())


@app.command()
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
    from edgetune.demo_data import demo_texts, write_demo
    from edgetune.runfolder import RunFolder, disk_errors
    from edgetune.saved import load_run

    RunFolder(out, overwrite)
    tickets = out.parent / f"{out.name}-tickets.csv"
    with disk_errors(tickets):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_demo(tickets, n_rows=rows, seed=seed)
    if not quiet and not as_json:
        print(f"Wrote {rows:,} generated support tickets to {tickets}", file=sys.stderr)
    _finetune({"train": str(tickets), "seed": seed}, None, out, overwrite, cache_dir, quiet, as_json)
    if as_json or quiet:
        return
    from edgetune.predicting import predict_lines, print_predictions

    print("\nThree tickets that it has not seen:")
    print_predictions(predict_lines(load_run(out), demo_texts()), as_json=False)
    print(
        f"\nThe tickets are in {tickets}, the model in {out / 'model'} (Hugging Face) and "
        f"{out / 'onnx'} (ONNX),\n"
        f"the picture of the run in {out / 'run.png'}. Next: edgetune finetune YOUR_FILE.csv"
    )


def _given(values: dict[str, Any], *without: str) -> dict[str, Any]:
    """Return the options that were given, enums as their values."""
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in values.items()
        if value is not None and name not in without
    }


def _columns(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _options(
    text: str | None,
    pair: bool | None,
    header: bool | None,
    encoding: str | None,
    delimiter: str | None,
) -> DataOptions:
    from edgetune.data.dataset import DataOptions

    return DataOptions(
        text=_columns(text) if text else (),
        header=header,
        encoding=encoding or "utf-8",
        delimiter=delimiter,
        pair=bool(pair),
    )


def _console() -> Any:
    from rich.console import Console

    return Console()


def main() -> None:
    """Run a command; print what went wrong as one sentence and leave with its exit code."""
    try:
        sys.exit(app(standalone_mode=False, prog_name="edgetune"))
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except EdgetuneError as error:
        print(f"edgetune: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(141)
    except (KeyboardInterrupt, typer.Abort):
        print("edgetune: stopped.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not hasattr(error, "format_message"):  # a bug keeps its traceback
            raise
        _say_usage(error)


def _say_usage(error: Any) -> None:
    """Say what is wrong with the command line in a sentence; print the help when nothing was asked."""
    text = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(text)
    else:
        words = text.replace("Value error, ", "").rstrip(".")
        where = getattr(error, "ctx", None)
        command = where.command_path.split()[1:] if where is not None else []
        print(f"edgetune: {words}; see `{' '.join(['edgetune', *command, '--help'])}`.", file=sys.stderr)
    sys.exit(error.exit_code)
