"""Energy of an NVIDIA GPU through NVML: its own counter, or on older ones its power, integrated.

The figure is the whole card's, other programs included.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path
from typing import Any

from edgetune.energy.sensor import Counter, PowerIntegral, SensorLost, TimeSource


class Nvml(Counter):
    """Joules of one GPU since opening; lost when the driver answers no more, or its counter goes back."""

    covers = "gpu"

    def __init__(self, module: Any, handle: Any, clock: TimeSource) -> None:
        """Start counting; `module` is pynvml, started, and `handle` a device of it.

        Raises:
            SensorLost: the GPU tells neither its energy nor its power.
        """
        self._nvml, self._handle, self._clock = module, handle, clock
        name = module.nvmlDeviceGetName(handle)
        self.name = f"NVML {name.decode(errors='replace') if isinstance(name, bytes) else name}"
        self._closed = False
        self._power = PowerIntegral()
        self._start_mj: int | None = None
        self._last_mj = 0
        try:
            self._start_mj = self._last_mj = int(module.nvmlDeviceGetTotalEnergyConsumption(handle))
        except module.NVMLError:
            self.joules()  # the first power reading: the sum starts here

    @classmethod
    def find(cls, root: Path, clock: TimeSource) -> Nvml | None:
        """Return the GPU that CUDA calls 0; None without the package `nvidia-ml-py`, a driver or a sensor."""
        try:
            module = importlib.import_module("pynvml")
        except ImportError:
            return None
        try:
            module.nvmlInit()
        except module.NVMLError:
            return None
        # The first one that CUDA_VISIBLE_DEVICES lets CUDA see.
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        try:
            if first.startswith(("GPU-", "MIG-")):
                return cls(module, module.nvmlDeviceGetHandleByUUID(first), clock)
            return cls(module, module.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0), clock)
        except (module.NVMLError, SensorLost):
            module.nvmlShutdown()
            return None

    def joules(self) -> float:
        try:
            if self._start_mj is None:
                power_w = float(self._nvml.nvmlDeviceGetPowerUsage(self._handle)) / 1e3
                return self._power.add(self._clock(), power_w)
            now_mj = int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            raise SensorLost(f"NVML: {error}") from error
        if now_mj < self._last_mj:
            raise SensorLost("its counter was reset")
        self._last_mj = now_mj
        return (now_mj - self._start_mj) / 1e3

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(self._nvml.NVMLError):  # the driver is gone already
                self._nvml.nvmlShutdown()
