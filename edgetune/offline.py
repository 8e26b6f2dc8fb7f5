"""The one place that switches off what libraries would send, and the network where nothing may need it.

Libraries read these variables when they are imported, so both functions come before that.
"""

from __future__ import annotations

import os
from typing import Any

NO_TELEMETRY = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
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
