"""Energy: joules since a sensor was opened, and whether they were measured or estimated, and how.

sysfs, NVML, powermetrics ─→ counters ─┐
watts told, TDP, CPU use ──→ estimates ┴─→ open_sensor (ladder.py) ─→ Sensor ─→ EnergyReading
"""

from edgetune.energy.base import CarriedOn, Sensor
from edgetune.energy.battery import Battery, find_battery, power_source
from edgetune.energy.estimate import Equation6, equation_6, tdp_w
from edgetune.energy.ladder import open_sensor
from edgetune.energy.reading import EnergyReading, read_energy

__all__ = [
    "Battery",
    "CarriedOn",
    "EnergyReading",
    "Equation6",
    "Sensor",
    "equation_6",
    "find_battery",
    "open_sensor",
    "power_source",
    "read_energy",
    "tdp_w",
]
