"""`edgetune profile`: measure this machine; show, compare and check profiles."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetune.cli.options import (
    CacheDir,
    Json,
    Overwrite,
    PanelCommand,
    PanelGroup,
    Quiet,
)
from edgetune.utils.errors import Interrupted, UsageError
from edgetune.utils.tables import print_sections

if TYPE_CHECKING:
    from edgetune.devices.device_profile import DeviceProfile
    from edgetune.devices.profile_store import Match
    from edgetune.utils.types import Tell


PLAIN_EVERY_S = 10.0


@contextlib.contextmanager
def showing(quiet: bool) -> Iterator[Tell]:
    """Show progress on stderr while inside."""
    if quiet:
        yield lambda text, share: None
    elif not sys.stderr.isatty():
        yield _lines()
    else:
        with _bar() as tell:
            yield tell


def _lines() -> Tell:
    last_s, last = -PLAIN_EVERY_S, ""

    def tell(text: str, share: float) -> None:
        nonlocal last_s, last
        now_s, kind = time.monotonic(), text.split(":")[0]
        if now_s - last_s >= PLAIN_EVERY_S or kind != last:
            last_s, last = now_s, kind
            print(f"{share:4.0%}  {text}", file=sys.stderr, flush=True)

    return tell


@contextlib.contextmanager
def _bar() -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, text="")
        yield lambda text, share: bar.update(task, completed=share, text=text)


NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"

profile_app = typer.Typer(
    name="profile",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    cls=PanelGroup,
)

Model = Annotated[
    str | None,
    typer.Option(
        help="Model to measure with: model folder, run folder, or hub:NAME.", show_default="built-in"
    ),
]
ProfileName = Annotated[
    str | None, typer.Argument(help="Name or file of a profile.", show_default="this machine's")
]


@profile_app.callback(invoke_without_command=True)
def measure_profile(
    context: typer.Context,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Measure fewer points (about a minute when idle, plus exports that are not cached).",
        ),
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the profile.", show_default="from the processor")
    ] = None,
    model: Model = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Backend to measure, such as ort-fp32; may be repeated.", show_default="all"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the profile to this file.", show_default="the user's profile folder"),
    ] = None,
    overwrite: Overwrite = False,
    watts: Annotated[
        float | None, typer.Option(help="Power draw of this machine (W), if it has no sensor.")
    ] = None,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure the speed of this machine (about five minutes).

    Examples:
        edgetune profile --quick
        edgetune profile --name laptop --watts 25
        edgetune profile show
    """
    if context.invoked_subcommand is not None:
        return
    from edgetune.devices.profile_store import own_file, save_profile
    from edgetune.profiling.measure import Measurement
    from edgetune.run_files.outputs import check_outputs

    check_outputs({"--out": out}, overwrite=overwrite)
    if name is None and out is not None:
        name = out.stem
    if name is not None and re.fullmatch(NAME_PATTERN, name) is None:
        raise UsageError(f"--name {name}: use letters, digits, dots, dashes and underscores only.")
    if watts is not None and not 0 < watts < float("inf"):
        raise UsageError(
            f"--watts {watts:g} is not a valid power; give the watts that this device draws, above 0."
        )
    if out is None:  # asked now: after the measurement it would be too late
        own = own_file(name or "profile")
        check_outputs({"--name": own if name is not None else None}, overwrite=overwrite)
    with _stoppable("no profile was written"), showing(quiet) as tell:
        profile = Measurement(
            tell,
            name=name,
            model=model,
            backends=backend or (),
            quick=quick,
            watts=watts,
            cache_dir=cache_dir,
        ).run()
    path = save_profile(profile, out)
    if as_json:
        print(profile.model_dump_json())
        return
    if not quiet:
        _print_profile(profile)
    print(f"Wrote {path}")


@profile_app.command(cls=PanelCommand)
def show(name: ProfileName = None, as_json: Json = False) -> None:
    """Print a profile as tables.

    Examples:
        edgetune profile show
        edgetune profile show laptop
    """
    profile = _open(name).profile
    if as_json:
        print(profile.model_dump_json())
    else:
        _print_profile(profile)


@profile_app.command(cls=PanelCommand)
def compare(
    a: Annotated[str, typer.Argument(help="Name or file of a profile.")],
    b: Annotated[str, typer.Argument(help="Name or file of another profile.")],
    as_json: Json = False,
) -> None:
    """Compare two profiles: duration on B relative to A.

    Examples:
        edgetune profile compare laptop workstation
        edgetune profile compare laptop.json workstation.json --json
    """
    from edgetune.devices.profile_store import load_profile
    from edgetune.profiling.profile_tables import compare_profiles as ratios
    from edgetune.profiling.profile_tables import compare_sections

    one, other = load_profile(a), load_profile(b)
    if as_json:
        print(json.dumps([ratio.to_dict() for ratio in ratios(one, other)]))
    else:
        print_sections(compare_sections(one, other))


@profile_app.command(cls=PanelCommand)
def check(
    name: ProfileName = None,
    model: Model = None,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a few points again and report the drift.

    Examples:
        edgetune profile check
        edgetune profile check laptop
    """
    match = _open(name)
    with _stoppable("nothing was changed"):
        from edgetune.profiling.measure import check_drift

        with showing(quiet) as tell:
            drift = check_drift(match.profile, model, cache_dir, tell)
    if as_json:
        print(json.dumps(drift.to_dict() | {"profile": match.profile.name, "fit": match.fit}))
        return
    from edgetune.profiling.profile_tables import drift_sections

    print_sections(drift_sections(match, drift))


def _open(name: str | None) -> Match:
    """Find a profile by name, or this machine's."""
    from edgetune.devices.device_profile import this_machine
    from edgetune.devices.profile_store import find_for_this_machine, load_profile, match_profile
    from edgetune.utils.machine import versions

    here = this_machine()
    if name is not None:
        return match_profile(load_profile(name), here, versions())
    found = find_for_this_machine(None, here)
    if found is None:
        raise UsageError("There is no device profile yet. Run `edgetune profile` to measure this machine.")
    return found


@contextlib.contextmanager
def _stoppable(what_was_left: str) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into one sentence; the workers are killed on the way out."""
    from edgetune.utils.signals import StopRequest

    try:
        with StopRequest().handling_signals():
            yield
    except KeyboardInterrupt:
        raise Interrupted(f"Stopped; {what_was_left}.") from None


def _print_profile(profile: DeviceProfile) -> None:
    from edgetune.profiling.profile_tables import profile_sections

    print_sections(profile_sections(profile))
    if profile.noisy:
        print(
            "This machine was busy during the measurement; measure again when nothing else is running.",
            file=sys.stderr,
        )
