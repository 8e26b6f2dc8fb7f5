"""Import ONNX Runtime's training build without torch.

`import onnxruntime` of that build imports torch where it is installed (2-3 s), and fails to give its
training API where it is not: `onnxruntime.training` imports `optim`, which needs torch. Neither is
needed to train from artifacts, so the package's own `__init__` is stood in for by an empty one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from typing import Any

from edgetune.errors import EnvironmentError_
from edgetune.offline import silence

INSTALL_HINT = (
    '`pip install "edgetune[cpu]"` (or "edgetune[device]" to train from carried artifacts); '
    "where there is no build for this machine (Linux on ARM, Python 3.13+), use --backend torch"
)


def import_ort() -> Any:
    """Return the `onnxruntime` module, imported without torch.

    Raises:
        EnvironmentError_: it is not installed.
    """
    if "onnxruntime" in sys.modules:
        return sys.modules["onnxruntime"]
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentError_(f"ONNX Runtime is not installed: {INSTALL_HINT}.")
    training = os.path.join(next(iter(spec.submodule_search_locations)), "training")
    if not os.path.isdir(training):
        return _quiet(importlib.import_module("onnxruntime"))
    sys.modules["onnxruntime.training"] = None  # type: ignore[assignment]  # makes its import fail at once
    try:
        ort = importlib.import_module("onnxruntime")
    finally:
        del sys.modules["onnxruntime.training"]
    package = types.ModuleType("onnxruntime.training")
    package.__path__ = [training]
    sys.modules["onnxruntime.training"] = package
    ort.training = package  # type: ignore[attr-defined]
    return _quiet(ort)


def _quiet(ort: Any) -> Any:
    ort.set_default_logger_severity(3)
    silence(ort)
    return ort


def has_training_build() -> bool:
    """Return whether a training build of ONNX Runtime is installed, without importing it."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        return False
    return os.path.isdir(os.path.join(next(iter(spec.submodule_search_locations)), "training", "api"))


def import_training() -> Any:
    """Return `onnxruntime.training.api`.

    Raises:
        EnvironmentError_: only an inference build is installed, or none.
    """
    import_ort()
    if not has_training_build():
        raise EnvironmentError_(f"The installed ONNX Runtime cannot train: {INSTALL_HINT}.")
    return importlib.import_module("onnxruntime.training.api")
