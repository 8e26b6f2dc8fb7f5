"""What is shown while a profile is measured: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

PLAIN_EVERY_S = 10.0
Tell = Callable[[str, float], None]
"""Is told what is done, and the share of the time that has passed."""


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
