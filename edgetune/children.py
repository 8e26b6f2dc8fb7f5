"""How edgetune starts a module of its own in a child process."""

from __future__ import annotations

import sys
from pathlib import Path

# `-m` would look for modules in the current folder first, so a data set that comes with a `torch.py` would be
# run. Here that folder is taken off the path, and the folder that edgetune lies in goes to its end.
_START = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + [{home!r}]; "
    "import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of edgetune's; nothing from the current folder is imported."""
    home = str(Path(__file__).resolve().parents[1])
    return [sys.executable, "-c", _START.format(home=home, module=module), *arguments]
