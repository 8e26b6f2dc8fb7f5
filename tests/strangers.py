"""Files that a stranger could send: a pickle and a module that leave a mark when they are run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def write_bomb(path: Path, mark: Path) -> None:
    """Write a pickle whose reading leaves `mark`."""
    path.write_bytes(pickle.dumps(Bomb(mark)))


def write_module(path: Path, mark: Path, more: str = "") -> None:
    """Write a Python module whose import leaves `mark`."""
    path.write_text(f"import os\nos.mkdir({str(mark)!r})\n{more}", encoding="utf-8")
