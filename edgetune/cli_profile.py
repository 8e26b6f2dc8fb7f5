"""`edgetune profile`: measure this machine, show, compare and check profiles. Nothing heavy at import."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetune.cli_options import CacheDir, Json, Quiet
from edgetune.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from edgetune.profiles.device_profile import DeviceProfile
    from edgetune.profiles.match import Match
    from edgetune.report.tables import Section

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"

profile_app = typer.Typer(
    name="profile",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str | None, typer.Option(help="Model folder, run folder or hub:NAME.", show_default="built-in")
]
ProfileName = Annotated[
    str | None, typer.Argument(help="Name or file of a profile.", show_default="this machine's")
]


@profile_app.callback(invoke_without_command=True)
def measure_profile(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer points, in less than a minute.")] = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the profile.", show_default="after the processor")
    ] = None,
    model: Model = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Measure only this one, such as ort-fp32; may be repeated.", show_default="all"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the profile to this file.", show_default="user's folder")
    ] = None,
    watts: Annotated[
        float | None, typer.Option(help="What this machine draws, for want of a sensor (W).")
    ] = None,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure what operations cost on this machine, in about five minutes.

    Example: edgetune profile --quick
    """
    if context.invoked_subcommand is not None:
        return
    from edgetune.profiles.measure import Measurement, Request
    from edgetune.profiles.store import save

    if name is None and out is not None:
        name = out.stem
    if name is not None and re.fullmatch(NAME_PATTERN, name) is None:
        raise UsageError(f"--name {name}: use letters, digits, dots, dashes and underscores only.")
    if watts is not None and not 0 < watts < float("inf"):
        raise UsageError(f"--watts {watts:g} is no power; give the watts that this device draws, above 0.")
    request = Request(name, model, tuple(backend or ()), quick, watts, cache_dir)
    with _stoppable("no profile was written"):
        from edgetune.profiles.progress import showing

        with showing(quiet) as tell:
            profile = Measurement(request, tell).run()
    path = save(profile, out)
    if as_json:
        print(profile.model_dump_json())
        return
    if not quiet:
        _print_profile(profile)
    print(f"Wrote {path}")


@profile_app.command()
def show(name: ProfileName = None, as_json: Json = False) -> None:
    """Print a profile as tables.

    Example: edgetune profile show laptop
    """
    profile = _open(name).profile
    if as_json:
        print(profile.model_dump_json())
    else:
        _print_profile(profile)


@profile_app.command()
def compare(
    a: Annotated[str, typer.Argument(help="Name or file of a profile.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    as_json: Json = False,
) -> None:
    """Say how many times as long operations take on B as on A.

    Example: edgetune profile compare laptop workstation
    """
    from edgetune.profiles.compare import compare as ratios
    from edgetune.profiles.compare import compare_sections
    from edgetune.profiles.store import load

    one, other = load(a), load(b)
    if as_json:
        print(json.dumps([ratio.to_dict() for ratio in ratios(one, other)]))
    else:
        _print(compare_sections(one, other))


@profile_app.command()
def check(
    name: ProfileName = None,
    model: Model = None,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a few points again and say how far the profile has drifted.

    Example: edgetune profile check
    """
    match = _open(name)
    with _stoppable("nothing was changed"):
        from edgetune.profiles.check import Check
        from edgetune.profiles.progress import showing

        with showing(quiet) as tell:
            drift = Check(match.profile, model, cache_dir, tell).run()
    if as_json:
        print(json.dumps(drift.to_dict() | {"profile": match.profile.name, "fit": match.fit}))
        return
    from edgetune.profiles.check import drift_sections

    _print(drift_sections(match, drift))


def _open(name: str | None) -> Match:
    """Find a profile by name, or this machine's."""
    from edgetune.machine import versions
    from edgetune.profiles.here import this_machine
    from edgetune.profiles.match import find_for_this_machine, match
    from edgetune.profiles.store import load

    here = this_machine()
    if name is not None:
        return match(load(name), here, versions())
    found = find_for_this_machine(None, here)
    if found is None:
        raise UsageError("There is no device profile yet; `edgetune profile` measures this machine.")
    return found


@contextlib.contextmanager
def _stoppable(what_was_left: str) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into one sentence; the workers are killed on the way out."""
    from edgetune.stopping import StopRequest

    try:
        with StopRequest().listening():
            yield
    except KeyboardInterrupt:
        raise Interrupted(f"Stopped; {what_was_left}.") from None


def _print_profile(profile: DeviceProfile) -> None:
    from edgetune.profiles.table import profile_sections

    _print(profile_sections(profile))
    if profile.noisy:
        print(
            "This machine was busy while it was measured; measure again when nothing else runs.",
            file=sys.stderr,
        )


def _print(sections: list[Section]) -> None:
    from rich.console import Console

    from edgetune.report.tables import print_sections

    console: Any = Console()
    print_sections(sections, console)
