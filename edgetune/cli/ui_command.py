"""`edgetune ui`: a page in the browser for all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.options import CacheDir
from edgetune.utils.errors import requires_extra


def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 7860,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
    cache_dir: CacheDir = None,
) -> None:
    """Serve a local page: check data, train, mend labels, try a model.

    Examples:
        edgetune ui
        edgetune ui --port 8080 --runs experiments
    """
    with requires_extra("ui", "the page"):
        from edgetune.web.ui_server import run_page
    run_page(runs, port, cache_dir)
