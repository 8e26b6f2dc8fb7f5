"""The command line: registers every command and turns errors into one sentence and an exit code."""

from __future__ import annotations

import errno
import io
import sys
from typing import Annotated, Any

import typer

from edgetune.cli.compare_commands import compare, methods, report
from edgetune.cli.maintenance_commands import clean, doctor
from edgetune.cli.options import PanelCommand, TextsCommand
from edgetune.cli.profile_commands import profile_app
from edgetune.cli.run_commands import evaluate, export, inspect, predict, serve, ui
from edgetune.cli.train_commands import check, demo, finetune, init, plan
from edgetune.utils.errors import EdgetuneError, Interrupted, is_near
from edgetune.utils.files import os_error_in
from edgetune.utils.isolation import no_telemetry
from edgetune.utils.sanitize import brief, one_line
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
for command in (
    *(check, init, finetune, plan, compare, report, methods, inspect, clean, export, serve, ui),
    *(predict, evaluate, doctor, demo),
):
    app.command(cls=TextsCommand if command is predict else PanelCommand)(command)
app.add_typer(profile_app)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        print(f"edgetune {__version__}")
        raise typer.Exit


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
