"""The commands that report on runs and describe methods: report, methods. Registered by `app.py`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgetune.cli.options import Json, Overwrite, complete_methods, console
from edgetune.utils.errors import UsageError
from edgetune.utils.formatting import counted
from edgetune.utils.sanitize import one_line

if TYPE_CHECKING:
    from edgetune.report.collect import CollectedRuns


SHOWN_LEFT_OUT = 5


Format = Literal["html", "md", "csv", "json"]
SUFFIXES: dict[str, Format] = {
    ".html": "html",
    ".htm": "html",
    ".md": "md",
    ".csv": "csv",
    ".json": "json",
}


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
        n = len(collected.runs)
        print(f"Wrote {out}: {counted(n, 'run')}.", file=sys.stderr)
    _say_left_out(collected)


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


def _say_left_out(collected: CollectedRuns) -> None:
    sentences = collected.left_out
    for sentence in sentences[:SHOWN_LEFT_OUT]:
        print(f"Left out: {one_line(sentence)}", file=sys.stderr)
    if len(sentences) > SHOWN_LEFT_OUT:
        print(f"Left out: {len(sentences) - SHOWN_LEFT_OUT} more.", file=sys.stderr)


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
    from edgetune.utils.tables import print_sections

    if name is not None:
        card = find_card(name)
        if as_json:
            print(json.dumps(asdict(card), ensure_ascii=False))
        else:
            print_sections(card_sections(card), console())
        return
    if as_json:
        blocks = {"methods": [*method_cards().values()], "baselines": [*baseline_cards().values()]}
        print(json.dumps(blocks, default=asdict))
    else:
        print_sections(list_sections(), console())
