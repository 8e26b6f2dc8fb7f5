"""The command line: registers every command and turns errors into one sentence and an exit code."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetune.cli.cache_commands import clean
from edgetune.cli.check_command import check, init
from edgetune.cli.compare_commands import compare, inspect
from edgetune.cli.export_commands import export
from edgetune.cli.options import (
    CacheDir,
    Data,
    Delimiter,
    Encoding,
    Escape,
    Header,
    Json,
    Label,
    MaxBadRows,
    MergeLabels,
    Overwrite,
    Pair,
    PanelCommand,
    Text,
    TextsCommand,
    console,
    given_settings,
    tell,
)
from edgetune.cli.profile_commands import profile_app
from edgetune.cli.report_commands import methods, report
from edgetune.cli.serve_command import serve
from edgetune.cli.train_commands import demo, finetune, plan
from edgetune.cli.ui_command import ui
from edgetune.utils.errors import EdgetuneError, Interrupted, UsageError, is_near
from edgetune.utils.files import os_error_in
from edgetune.utils.formatting import counted
from edgetune.utils.isolation import no_telemetry
from edgetune.utils.sanitize import brief, json_text, one_line
from edgetune.utils.signals import (
    CheckedStdout,
    ClosedPipeTolerant,
    flush_stdout,
    open_missing_streams,
    remembering_interrupts,
)
from edgetune.utils.version import __version__

NOBODY_READS = 141
"""Exit code, as in a shell, if output goes into a pipe that was closed."""

app = typer.Typer(
    name="edgetune",
    help="Finetune a text classifier on your own machine, within a deadline, offline.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (check, init, finetune, plan, compare, report, methods, inspect, clean, export, serve, ui):
    app.command(cls=PanelCommand)(command)
app.add_typer(profile_app)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        print(f"edgetune {__version__}")
        raise typer.Exit


@app.command(cls=TextsCommand)
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to classify.", show_default="one per line from stdin")
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="File of texts: one per line, or a table (see --text).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write predictions to this .csv or .jsonl file.")] = None,
    overwrite: Overwrite = False,
    text: Text = None,
    pair: Pair = None,
    header: Header = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    escape: Escape = None,
    unsure: Annotated[
        float | None,
        typer.Option(
            help='Predict "unsure" where the probability is below this, such as 0.6.', show_default="never"
        ),
    ] = None,
    all_: Annotated[
        bool,
        typer.Option("--all", help="Also write a column with the probability of each class to a .csv file."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per text.")] = False,
) -> None:
    """Classify texts with a trained model.

    Examples:
        edgetune predict runs/reviews "the battery died in a day"
        edgetune predict runs/reviews --file new.csv --out predictions.csv --all
        cat texts.txt | edgetune predict runs/reviews --unsure 0.6
    """
    reading = given_settings(
        locals(), "run", "texts", "file", "out", "overwrite", "unsure", "all_", "as_json"
    )
    from edgetune.data.examples import DataOptions
    from edgetune.inference.predictions import (
        predict_file,
        predict_lines,
        print_predictions,
        stdin_lines,
        write_predictions,
    )
    from edgetune.inference.saved_run import load_run
    from edgetune.run_files.outputs import check_outputs

    if file is not None and texts:
        raise UsageError("Give texts or --file, not both.")
    if all_ and out is None and not as_json:
        raise UsageError("--all writes columns: add --out FILE.csv, or print the probabilities with --json.")
    check_outputs({"--out": out}, reads=[file], runs=[run], overwrite=overwrite)
    opened = load_run(run)
    if file is not None:
        predictions = predict_file(opened, file, DataOptions(**reading), unsure)
    else:
        predictions = predict_lines(opened, texts if texts else stdin_lines(), unsure)
    if out is not None:
        write_predictions(predictions, out, all_)
        n_predicted = predictions.n_rows - predictions.n_empty
        print(f"Wrote {counted(n_predicted, 'prediction')} to {out}.", file=sys.stderr)
    else:
        print_predictions(predictions, as_json)
    for note in predictions.notes():
        print(note, file=sys.stderr)


@app.command(cls=PanelCommand)
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: Data,
    text: Text = None,
    label: Label = None,
    pair: Pair = None,
    header: Header = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    escape: Escape = None,
    merge_labels: MergeLabels = None,
    max_bad_rows: MaxBadRows = None,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Evaluate a trained model on labelled text.

    Examples:
        edgetune evaluate runs/reviews test.csv
        edgetune evaluate runs/reviews test.tsv --text sentence --label class
    """
    reading = given_settings(locals(), "run", "data", "max_bad_rows", "cache_dir", "as_json")
    from edgetune.inference.saved_run import load_run

    opened = load_run(run)
    options = dataclasses.replace(opened.data_options(), **reading)
    share = 0.01 if max_bad_rows is None else max_bad_rows
    found = opened.evaluate(
        data,
        options,
        cache_dir=cache_dir,
        max_bad_rows=share,
        say=tell,
    )
    if as_json:
        print(json_text(found.to_dict()))
        return
    from edgetune.report.result_tables import evaluation_sections
    from edgetune.utils.tables import print_sections

    print_sections(evaluation_sections(found), console())


@app.command(cls=PanelCommand)
def doctor(as_json: Json = False) -> None:
    """Check what works on this machine, and what is missing.

    Examples:
        edgetune doctor
        edgetune doctor --json
    """
    from edgetune.maintenance.doctor import examine, print_diagnosis

    findings = examine()
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings]))
    else:
        print_diagnosis(findings, console())


app.command(cls=PanelCommand)(demo)


def main() -> None:
    """Run a command; print what went wrong as one sentence and leave with its exit code."""
    open_missing_streams()
    sys.stderr = ClosedPipeTolerant(sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a label that the terminal's encoding does not have
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout = CheckedStdout(sys.stdout)
    no_telemetry()
    code = _run()
    sys.exit(code if flush_stdout() else code or NOBODY_READS)


def _run() -> int:
    """Run a command; return its exit code."""
    try:
        with remembering_interrupts():
            code = int(app(standalone_mode=False, prog_name="edgetune") or 0)
        if code == Interrupted.exit_code:  # typer makes this of a KeyboardInterrupt
            raise KeyboardInterrupt
        sys.stdout.flush()
        return code
    except Interrupted as stop:
        print(one_line(stop), file=sys.stderr)
        return stop.exit_code
    except EdgetuneError as error:
        print(f"edgetune: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return NOBODY_READS
    except (KeyboardInterrupt, typer.Abort):
        print("edgetune: stopped.", file=sys.stderr)
        return Interrupted.exit_code
    except Exception as error:
        if hasattr(error, "format_message"):
            return _say_usage(error)
        found = os_error_in(error)
        if found is None:  # a bug keeps its traceback
            raise
        return _say_system_error(found)


def _say_system_error(error: OSError) -> int:
    """Say what the system refused and where; return the exit code."""
    name = brief(error.filename) if error.filename is not None else ""
    if error.errno == errno.ENAMETOOLONG:
        print(f"edgetune: The name {name} is too long for this disk.", file=sys.stderr)
        return 2
    where = f"{name}: " if name else ""
    print(
        f"edgetune: {where}{error.strerror}; see that the file and its folder are there and can be read and "
        "written, or choose another path.",
        file=sys.stderr,
    )
    return 1


def _say_usage(error: Any) -> int:
    """Say what is wrong with the command line in a sentence; print the help when nothing was asked."""
    if (near := getattr(error, "possibilities", None)) is not None:  # dashes make no two options similar
        asked = error.option_name.lstrip("-")
        error.possibilities = [name for name in near if is_near(asked, name.lstrip("-"))]
    text = error.format_message()
    if type(error).__name__ != "NoArgsIsHelpError":  # its message is the help, which typer has printed
        words = one_line(text).replace("Value error, ", "").rstrip(".")
        where = getattr(error, "ctx", None)
        command = where.command_path.split()[1:] if where is not None else []
        if type(error).__name__ == "NoSuchOption" and isinstance(where and where.command, TextsCommand):
            words += " (put -- before texts that begin with a dash)"
        print(f"edgetune: {words}; see `{' '.join(['edgetune', *command, '--help'])}`.", file=sys.stderr)
    return int(error.exit_code)
