"""The commands that read labelled text before training: check, init. Registered by `app.py`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.options import (
    CacheDir,
    Data,
    Delimiter,
    Encoding,
    Escape,
    Eval,
    Header,
    Json,
    Label,
    MaxLength,
    MergeLabels,
    Model,
    MultiLabel,
    Overwrite,
    Pair,
    Text,
    console,
    given_settings,
    tell,
)
from edgetune.utils.errors import NEEDS_MENDING, UsageError
from edgetune.utils.sanitize import json_text


def check(
    data: Data,
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
    max_length: MaxLength = None,
    model: Model = None,
    out: Annotated[Path | None, typer.Option(help="Also write a page to this .html file.")] = None,
    overwrite: Overwrite = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Check labelled text before training (exit code 3: needs mending).

    Examples:
        edgetune check reviews.csv
        edgetune check reviews.csv --eval test.csv --out check.html
    """
    settings = given_settings(locals(), "out", "overwrite", "cache_dir", "as_json")
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: the page is HTML; use a name that ends in .html.")
    from edgetune.report.check_tables import check_page, print_check
    from edgetune.run_files.outputs import check_outputs, write_output
    from edgetune.runs.dry_run import run_check

    check_outputs({"--out": out}, reads=[data, settings.get("eval")], overwrite=overwrite)
    found = run_check(settings, cache_dir, tell)
    if as_json:
        print(json_text(found.to_dict()))
    else:
        print_check(found, console())
    if out is not None:
        write_output(out, check_page(found, datetime.now().astimezone()))
        print(f"Wrote {out}.", file=sys.stderr)
    if found.needs_mending:
        raise typer.Exit(NEEDS_MENDING)


def init(
    data: Data,
    text: Text = None,
    label: Label = None,
    pair: Pair = None,
    header: Header = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    escape: Escape = None,
    merge_labels: MergeLabels = None,
    multi_label: MultiLabel = None,
) -> None:
    """Print a commented config for a file, with what was detected.

    Examples:
        edgetune init reviews.csv > config.toml
        edgetune init reviews.csv --text title,body --label topic > config.toml
    """
    settings = {"encoding": "auto"} | given_settings(locals())
    from edgetune.checking.config_draft import draft_config
    from edgetune.config.toml_config import group_by_section, make_config

    print(draft_config(make_config(group_by_section(settings)).data), end="")
