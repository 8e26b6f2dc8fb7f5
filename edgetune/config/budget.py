"""What a run may use: time, energy, a share of the battery, memory; read from what a user writes.

    10m  90s  1h30m  18:30  2026-11-21T18:30        a deadline
    20kJ  500J  5Wh  0.01kWh                        energy
    5%                                              of the battery
    2GB  800MB                                      memory

Anything else is refused with a `UsageError` whose sentence shows these forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from edgetune.utils.errors import UsageError

_SPAN = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")
_AGE_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_JOULES = {"j": 1.0, "kj": 1e3, "mj": 1e6, "wh": 3.6e3, "kwh": 3.6e6}
_MEGABYTES = {"mb": 1.0, "gb": 1e3, "mib": 2**20 / 1e6, "gib": 2**30 / 1e6}
_FAR_AHEAD = timedelta(hours=12)


def parse_deadline(text: str, now: datetime, already_s: float = 0.0) -> float:
    """Return a deadline in seconds, counted from the start of the process.

    Args:
        text: a span such as `10m` or `1h30m`, a time of day such as `18:30`, or an ISO date and time.
        now: local time now; a time of day that has just passed is refused, one that passed more than
            twelve hours ago is tomorrow's.
        already_s: how long the process has run.

    Raises:
        UsageError: it is none of these, or lies in the past.
    """
    forms = "give a duration such as 90s, 10m or 1h30m, or a time such as 18:30 or 2026-11-21T18:30"
    wanted = text.strip()
    span_s = _span_s(wanted)
    if span_s is not None:
        if span_s <= 0:
            raise UsageError(f"--deadline {wanted} leaves no time; {forms}.")
        return span_s
    if re.fullmatch(r"\d+(\.\d+)?", wanted):
        raise UsageError(f"--deadline {wanted} has no unit; {forms} (did you mean {wanted}m or {wanted}s?).")
    end = _moment(wanted, now)
    if end is None:
        raise UsageError(f"--deadline {wanted or repr(wanted)} is not a time; {forms}.")
    ahead_s = (end - now).total_seconds()
    if ahead_s <= 0:
        raise UsageError(
            f"--deadline {wanted} is in the past (it is {now:%H:%M:%S} on {now:%Y-%m-%d}); {forms}."
        )
    return ahead_s + already_s


def parse_interval(text: str) -> float:
    """Return seconds between two checkpoints; 0 for none but the one when the run is stopped."""
    span_s = 0.0 if text.strip() == "0" else _span_s(text)
    if span_s is None:
        raise UsageError(
            f"--checkpoint-every {text.strip() or repr(text)} is not a duration; give one such as 60s, or 0."
        )
    return span_s


def _span_s(text: str) -> float | None:
    """Return the seconds of `90s`, `10m`, `1h30m` or `1h30`; None for anything else."""
    short = text.strip().lower().replace(" ", "")
    found = _SPAN.fullmatch(short + "m" if re.fullmatch(r"\d+h\d+", short) else short)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def _moment(text: str, now: datetime) -> datetime | None:
    """Return the local time a text names, None if it names none."""
    of_day = re.fullmatch(r"(\d{1,2}):(\d{2})(?::(\d{2}))?", text)
    try:
        if of_day:
            hour, minute, second = (int(part or 0) for part in of_day.groups())
            end = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
            return end + timedelta(days=1) if now - end > _FAR_AHEAD else end
        if not re.match(r"\d{4}-\d{2}-\d{2}", text):
            return None
        end = datetime.fromisoformat(text)
    except ValueError:
        return None
    return end.astimezone().replace(tzinfo=now.tzinfo) if end.tzinfo is not None else end


def _number(text: str, units: dict[str, float]) -> float | None:
    """Return a number in its unit, times what the unit stands for; None if it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z%]+)", text.strip().lower())
    return float(found[1]) * units[found[2]] if found and found[2] in units else None


def _amount(option: str, text: str, units: dict[str, float], forms: str) -> float:
    value = _number(text, units)
    if value is None:
        raise UsageError(f"{option} {text.strip()} is not an amount with a unit; give one such as {forms}.")
    if value <= 0:
        raise UsageError(f"{option} {text.strip()} is not greater than zero; give an amount such as {forms}.")
    return value


def parse_energy(text: str) -> float:
    """Return joules, given a number with a unit of energy."""
    return _amount("--energy", text, _JOULES, "20kJ or 5Wh")


def parse_memory(text: str, option: str = "--memory", *, zero: bool = False) -> float:
    """Return megabytes (10^6 bytes), given a number with a unit of memory; `zero` allows a bare 0."""
    if zero and text.strip() == "0":
        return 0.0
    return _amount(option, text, _MEGABYTES, "2GB or 800MB")


def parse_share(text: str) -> float:
    """Return a percentage of the battery, above 0 and up to 100, as a share in (0, 1]."""
    percent = _number(text, {"%": 1.0})
    if percent is None or not 0 < percent <= 100:
        raise UsageError(
            f"--battery {text.strip()} is not a valid share of the battery; give a percentage such as 5%."
        )
    return percent / 100


def parse_age(text: str) -> float:
    """Return seconds, given a number with a unit of time."""
    seconds = _number(text, _AGE_SECONDS)
    if seconds is None:
        raise UsageError(f"--older-than {text.strip()} is not an age; give one such as 30d, 12h or 2w.")
    return seconds


def read_budget(settings: dict[str, Any], now: datetime, already_s: float) -> dict[str, Any]:
    """Replace a budget in a user's words by settings of `settings.BudgetSettings`.

    A number means seconds, joules, a share, or megabytes. Other arguments are as of `parse_deadline`.

    Raises:
        UsageError: one of them cannot be read.
    """
    read: dict[str, tuple[str, Callable[[str], float]]] = {
        "deadline": ("deadline_s", lambda text: parse_deadline(text, now, already_s)),
        "energy": ("energy_j", parse_energy),
        "battery": ("battery_rate", parse_share),
        "memory": ("memory_mb", parse_memory),
        "checkpoint_every": ("checkpoint_s", parse_interval),
        "cache_size": ("cache_mb", lambda text: parse_memory(text, "--cache-size", zero=True)),
    }
    found = {}
    for name, value in settings.items():
        if name not in read:
            found[name] = value
        elif value is not None:
            target, parse = read[name]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            found[target] = float(value) if number else parse(str(value))
    return found
