"""What a user may write for time, energy, battery and memory, and what is refused in which words."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.config.budget import parse_deadline, parse_energy, parse_memory, parse_share, read_budget
from edgetune.config.settings import BudgetSettings
from edgetune.energy.battery import energy_limit_j
from edgetune.utils.errors import UsageError

NOON = datetime(2026, 11, 21, 12, 0, 0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("10min", 600),
        ("1h30m", 5400),
        ("1h", 3600),
        ("1.5h", 5400),
        ("2m30s", 150),
        ("1h30", 5400),
        (" 45 s ", 45),
        ("12:30", 1800),
        ("12:00:30", 30),
        ("2026-11-21T13:00", 3600),
        ("2026-11-22 12:00", 86400),
    ],
)
def test_deadlines(text: str, seconds: float) -> None:
    assert parse_deadline(text, NOON) == seconds


def test_a_time_of_day_counts_from_the_start_of_the_process() -> None:
    assert parse_deadline("12:30", NOON, already_s=2.0) == 1802
    assert parse_deadline("30m", NOON, already_s=2.0) == 1800


def test_shortly_after_midnight_is_tomorrow() -> None:
    assert parse_deadline("00:30", datetime(2026, 11, 21, 23, 50)) == 40 * 60


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10", "has no unit"),
        ("10.5", "has no unit"),
        ("11:59", "in the past"),
        ("2020-01-01T00:00", "in the past"),
        ("0s", "leaves no time"),
        ("25:00", "is not a time"),
        ("12:61", "is not a time"),
        ("soon", "is not a time"),
        ("", "is not a time"),
        ("-5m", "is not a time"),
        ("10 parsecs", "is not a time"),
        ("2026-13-45", "is not a time"),
    ],
)
def test_refused_deadlines_show_the_forms(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        parse_deadline(text, NOON)
    assert "90s, 10m or 1h30m" in str(error.value)
    assert error.value.exit_code == 2


@given(st.text(max_size=12))
def test_any_text_is_a_time_or_a_sentence(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_deadline(text, NOON) > 0


def test_amounts() -> None:
    assert parse_energy("20kJ") == 20_000
    assert parse_energy("5 Wh") == 18_000
    assert parse_memory("2GB") == 2000
    assert parse_memory("1gib") == pytest.approx(1073.741824)
    assert parse_memory("0", "--cache-size", zero=True) == 0
    assert parse_share("5%") == 0.05
    assert parse_share("100 %") == 1


@pytest.mark.parametrize("text", ["20", "20kg", "-3kJ", "kJ", "0J"])
def test_refused_energy(text: str) -> None:
    with pytest.raises(UsageError, match="--energy"):
        parse_energy(text)


@pytest.mark.parametrize("text", ["5", "0%", "101%", "five%"])
def test_refused_shares(text: str) -> None:
    with pytest.raises(UsageError, match="--battery"):
        parse_share(text)


def test_numbers_from_python_are_in_base_units() -> None:
    assert read_budget({"deadline": 60, "energy": None, "memory": 500.0}, NOON, 0.0) == {
        "deadline_s": 60,
        "memory_mb": 500,
    }


def test_words_become_settings() -> None:
    words = {"deadline": "10m", "memory": "2GB", "cache_size": "0", "epochs": 3}
    assert read_budget(words, NOON, 0.0) == {
        "deadline_s": 600,
        "memory_mb": 2000,
        "cache_mb": 0,
        "epochs": 3,
    }


def make_battery(root: Path, status: str) -> None:
    folder = root / "sys/class/power_supply/BAT0"
    folder.mkdir(parents=True)
    for name, text in {
        "type": "Battery",
        "status": status,
        "energy_now": "20000000",
        "energy_full": "50000000",
        "power_now": "8000000",
        "present": "1",
    }.items():
        (folder / name).write_text(text + "\n")


def test_a_share_of_the_battery_is_energy(tmp_path: Path) -> None:
    make_battery(tmp_path, "Discharging")
    assert energy_limit_j(BudgetSettings(battery_rate=0.05), tmp_path) == pytest.approx(0.05 * 50 * 3600)
    both = BudgetSettings(battery_rate=0.05, energy_j=100.0)
    assert energy_limit_j(both, tmp_path) == 100
    assert energy_limit_j(BudgetSettings(energy_j=7.0), tmp_path) == 7


def test_without_a_battery_or_on_mains_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--battery 5%"):
        energy_limit_j(BudgetSettings(battery_rate=0.05), tmp_path)
    make_battery(tmp_path, "Charging")
    with pytest.raises(UsageError, match="mains power"):
        energy_limit_j(BudgetSettings(battery_rate=0.05), tmp_path)
