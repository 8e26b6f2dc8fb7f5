"""A deadline where no device profile is stored: the machine's speed is measured, and a model comes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import RunCli, says_mean

from edgetune.profiling import sampling, speed_probe
from edgetune.profiling.speed_probe import FILE

MEASURED = "measured for"


@pytest.fixture(scope="module", autouse=True)
def no_profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither shipped profiles nor the user's own, and a machine that counts as calm whatever else runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgetune.devices.profile_store.shipped_folder", lambda: None)
        patch.setenv("EDGETUNE_PROFILES", str(tmp_path_factory.mktemp("profiles")))
        patch.setattr(sampling, "OTHERS_TOO_BUSY", 2.0)
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which nothing is kept yet."""
    monkeypatch.setenv("EDGETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def mean_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT, trained with mean pooling as it says, which needs no training backend for a probe."""
    return says_mean(Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("mean") / "bert")))


def finetune(
    run_cli: RunCli, data: Path, model: Path, out: Path, deadline: str
) -> tuple[dict[str, Any], str]:
    done = run_cli("finetune", data, "--model", model, "--deadline", deadline, "--out", out, "--json")
    assert done.code == 0, done.err
    summary = dict(json.loads(done.out))
    assert summary["elapsed_s"] < summary["deadline_s"]
    assert run_cli("predict", out, "my invoice is wrong").code == 0
    return summary, done.err


def test_the_first_run_measures_and_the_second_uses_what_was_kept(
    run_cli: RunCli, demo_csv: Path, mean_model: Path, cache: Path, tmp_path: Path
) -> None:
    first, said = finetune(run_cli, demo_csv, mean_model, tmp_path / "one", "20s")
    assert MEASURED in said
    assert first["planned"]["profile"] == "nominal"
    assert "measurement" in first["planned"]["profile_note"]
    assert first["ensemble"] is not None
    kept = (cache / FILE).read_bytes()
    second, said = finetune(run_cli, demo_csv, mean_model, tmp_path / "two", "20s")
    assert MEASURED not in said
    assert second["planned"]["profile_note"] == first["planned"]["profile_note"]
    assert (cache / FILE).read_bytes() == kept


def test_a_deadline_too_short_for_the_encoder_gets_ngrams_alone(
    run_cli: RunCli, demo_csv: Path, tiny_model: Path, cache: Path, tmp_path: Path
) -> None:
    summary, said = finetune(run_cli, demo_csv, tiny_model, tmp_path / "run", "12s")
    assert summary["method"] == "n-grams"
    assert "encoder" in said


def test_plan_says_where_the_costs_come_from(
    run_cli: RunCli, demo_csv: Path, mean_model: Path, cache: Path
) -> None:
    done = run_cli("plan", demo_csv, "--model", mean_model, "--deadline", "2m", "--explain")
    assert done.code == 0, done.err
    assert "nominal" in done.out
    assert "measurement" in " ".join(done.out.split())


def test_an_encoder_that_cannot_read_the_language_is_not_trained(
    run_cli: RunCli, mean_model: Path, cache: Path, tmp_path: Path
) -> None:
    topics = {"food": "餐館菜酒茶魚", "travel": "車船路山海島"}
    rows = [
        {"text": f"{chars[i % 6]}{chars[i // 6 % 6]}很好{i}", "label": label}
        for label, chars in topics.items()
        for i in range(600)
    ]
    data = tmp_path / "chinese.jsonl"
    data.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    summary, said = finetune(run_cli, data, mean_model, tmp_path / "run", "60s")
    assert summary["method"] == "linear-probe"
    assert summary["ensemble"]["accuracy"] == 1.0
    assert "--model" in said
    done = run_cli("finetune", data, "--model", mean_model, "--out", tmp_path / "unhurried", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["method"] == "linear-probe"
    assert "--model" in done.err


def test_a_measurement_beside_other_work_is_not_kept(
    run_cli: RunCli, demo_csv: Path, mean_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_probe, "BusyWatch", lambda pids: SimpleNamespace(others=lambda: (0.5, True)))
    done = run_cli("plan", demo_csv, "--model", mean_model, "--deadline", "60s")
    assert (done.code, MEASURED in done.err) == (0, True)
    assert not (cache / FILE).exists()


@pytest.mark.parametrize("damage", ["[]", '{"a": {"ort-fp32": "fast"}}'])
def test_a_damaged_file_of_measurements_is_measured_anew(
    run_cli: RunCli, demo_csv: Path, mean_model: Path, cache: Path, damage: str
) -> None:
    cache.mkdir()
    (cache / FILE).write_text(damage)
    done = run_cli("plan", demo_csv, "--model", mean_model, "--deadline", "60s")
    assert (done.code, MEASURED in done.err) == (0, True)
    assert json.loads((cache / FILE).read_text())
