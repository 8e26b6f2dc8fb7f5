"""Libraries without telemetry or network, and child processes of edgetune's own modules.

Libraries read these environment variables when they are imported, so the functions must be called before
that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

NO_TELEMETRY = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "CODECARBON_SAVE_TO_API": "false",  # its tracker is never started here; only its table of TDPs is read
}
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
NO_CODE = {"TRUST_REMOTE_CODE": "False"}  # transformers asks it before it unpickles an old vocabulary


def no_telemetry() -> None:
    """Tell libraries to send nothing about their use, and to unpickle nothing whatever the user set."""
    os.environ.update(NO_TELEMETRY | NO_CODE)


def no_network() -> None:
    """Tell them to reach for no hub either: for processes of edgetune's own whose models are folders."""
    os.environ.update(NO_TELEMETRY | NO_CODE | OFFLINE)


def silence(runtime: Any) -> None:
    """Switch off what ONNX Runtime's builds for Windows send; the others send nothing."""
    if hasattr(runtime, "disable_telemetry_events"):
        runtime.disable_telemetry_events()


# `-m` would look for modules in the current folder first, so a data set that comes with a `torch.py` would be
# run. Here that folder is taken off the path, and the folder that edgetune lies in goes to its end.
_START = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + [{home!r}]; "
    "import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of edgetune's; nothing from the current folder is imported."""
    home = str(Path(__file__).resolve().parents[2])
    return [sys.executable, "-c", _START.format(home=home, module=module), *arguments]
