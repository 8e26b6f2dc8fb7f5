"""Energy: joules since a sensor was opened, and whether they were measured or estimated, and how.

    sysfs, NVML, powermetrics ─→ counters ─┐
    given watts, TDP, CPU use ──→ estimates┴─→ open_sensor (sensor_choice.py) ─→ Sensor ─→ EnergyReading

Budgets of energy are enforced elsewhere (`planning`, `runs`). May import `utils` and `config`.
"""

from edgetune.energy.battery import power_source
from edgetune.energy.sensor import EnergyReading, Sensor, SensorSum, read_energy
from edgetune.energy.sensor_choice import open_sensor

__all__ = ["EnergyReading", "Sensor", "SensorSum", "open_sensor", "power_source", "read_energy"]
