"""`edgetune serve`: a finished run over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetune.utils.errors import requires_extra


def serve(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines reach needs --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="EDGETUNE_TOKEN",
            help="Token that clients must send as `Authorization: Bearer TOKEN`.",
            show_default="none",
        ),
    ] = None,
    queue: Annotated[
        int,
        typer.Option(
            min=1, help="Texts that may wait; more are refused with status 503 until there is room."
        ),
    ] = 256,
) -> None:
    """Answer predictions over HTTP.

    Examples:
        edgetune serve runs/reviews --port 8000
        edgetune serve runs/reviews --host 0.0.0.0 --token SECRET
    """
    with requires_extra("serve", "serving"):
        from edgetune.inference.server import serve as serve_run
    serve_run(run, host, port, token, queue)
