"""Loaders that break in every way that `tools/fuzz` must notice: a file's content says how."""

from __future__ import annotations

import os
import time
from pathlib import Path

from edgetune.utils.errors import DataError


def warm_up() -> None:
    """Nothing to prepare."""


def feed(path: Path, kind: str, seed: int) -> None:
    """Do what the file says."""
    what = path.read_text()
    if what == "refused":
        raise DataError(f"{path} has a fault that is told; put it right.")
    if what == "unclear":
        raise DataError("no")
    if what == "traceback":
        raise KeyError(what)
    if what == "hang":
        time.sleep(60)
    if what == "memory":
        assert bytearray(os.urandom(1) * 1_200_000_000)
    if what == "too much memory":
        assert bytearray(100 << 30)
    if what == "died":
        os.abort()
