"""What an outside program is shown of a model folder: links to files that are neither pickles nor code."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgetune.errors import ModelError
from edgetune.model_files import read_json, safe_files

OWN_MODULES = "sentence_transformers."


@contextlib.contextmanager
def shown_to(folder: Path) -> Iterator[Path]:
    """Give a temporary folder with a model's safe files.

    Raises:
        ModelError: its `modules.json` names a class that does not come with sentence-transformers.
    """
    modules = folder / "modules.json"
    if modules.is_file():
        named = read_json(modules)
        for one in named if isinstance(named, list) else [named]:
            kind = one.get("type") if isinstance(one, dict) else None
            if not isinstance(kind, str) or not kind.startswith(OWN_MODULES):
                raise ModelError(f"{modules} needs code of its own ({kind}), which edgetune never runs.")
    with tempfile.TemporaryDirectory(prefix="edgetune-model-") as scratch:
        for path in safe_files(folder):
            target = Path(scratch) / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path.resolve(), target)
        yield Path(scratch)


def _link(path: Path, target: Path) -> None:
    try:
        os.symlink(path, target)
    except OSError:  # Windows asks for a right
        shutil.copyfile(path, target)
