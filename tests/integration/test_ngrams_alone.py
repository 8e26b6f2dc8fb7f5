"""A deadline that leaves no time for any encoder: n-grams answer, and the run says so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli

from edgetune import load_run
from edgetune.devices.device_profile import FixedCosts
from edgetune.planning import planner
from tests.profile_samples import save_guess


@pytest.fixture(scope="module", autouse=True)
def slow_profile(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A profile by which opening the encoder takes two minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETUNE_PROFILES", str(tmp_path_factory.mktemp("profiles")))
        fixed = FixedCosts(
            import_s=0.5, open_s=120, open_depth_s=120, export_s=0, save_s=0.4, save_model_s=0.3
        )
        save_guess(tiny_model, fixed)
        yield


@pytest.fixture(scope="module")
def alone(
    demo_csv: Path,
    demo_eval_csv: Path,
    tiny_model: Path,
    run_cli: RunCli,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """The summary of such a run, where it lies, and what it said."""
    out = tmp_path_factory.mktemp("alone") / "run"
    done = run_cli(
        *("finetune", demo_csv, "--eval", demo_eval_csv, "--model", tiny_model, "--deadline", "30s"),
        *("--out", out, "--json"),
    )
    assert done.code == 0, done.err
    return {"out": out, "err": done.err, **json.loads(done.out)}


def test_the_answer_is_that_of_the_ngrams(alone: dict[str, Any]) -> None:
    (only,) = alone["ensemble"]["learners"]
    assert only["name"] == "n-grams"
    assert only["weight"] > 0
    assert alone["accuracy"] == only["accuracy"] > 0.6
    assert alone["n_trained"] == alone["n_steps"] == 0
    assert alone["elapsed_s"] < 30
    assert sum(alone["time_split_s"].values()) == pytest.approx(alone["elapsed_s"])


def test_it_says_why_and_what_an_encoder_would_need(alone: dict[str, Any]) -> None:
    (why,) = [text for text in alone["warnings"] if "no time for the encoder" in text]
    assert re.search(r"deadline is about \d", why)
    assert why in alone["err"]
    lines = {line["line"]: line for line in alone["planned"]["lines"]}
    assert lines["ngrams"]["real_s"] > 0
    assert sum(line["planned_s"] for line in alone["planned"]["lines"]) <= 30


def test_the_run_predicts_and_evaluates_without_an_encoder(
    alone: dict[str, Any], demo_eval_csv: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    assert not (alone["out"] / "model").exists()
    run = load_run(alone["out"])
    assert set(run.label_names) == set(alone["label_names"])
    (found,) = run.predict(["my parcel never came"])
    assert found.label in run.label_names
    assert sum(found.probabilities.values()) == pytest.approx(1.0, abs=1e-4)
    done = run_cli("evaluate", alone["out"], demo_eval_csv, "--json")
    assert json.loads(done.out)["accuracy"] == alone["accuracy"]
    done = run_cli("report", alone["out"], "--out", tmp_path / "report.html")
    assert done.code == 0, done.err


def test_the_plan_shows_it(demo_csv: Path, tiny_model: Path, run_cli: RunCli) -> None:
    done = run_cli("plan", demo_csv, "--model", tiny_model, "--deadline", "30s", "--explain")
    assert done.code == 0, done.err
    assert "n-grams" in done.out


@pytest.mark.parametrize(
    "settings",
    [("--deadline", "3s"), ("--deadline", "30s", "--no-ngrams"), ("--deadline", "30s", "--memory", "4GB")],
)
def test_it_is_refused_where_ngrams_are_no_answer(
    settings: tuple[str, ...], demo_csv: Path, tiny_model: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = run_cli("finetune", demo_csv, "--model", tiny_model, "--out", out, *settings)
    assert done.code == 2
    assert re.search(r"deadline is about \d", done.err)
    assert not out.exists()


def test_a_damaged_list_of_labels_is_a_sentence(alone: dict[str, Any], run_cli: RunCli) -> None:
    path = alone["out"] / "ensemble" / "ensemble.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(whole) | {"label_names": ["one"]}), encoding="utf-8")
    done = run_cli("predict", alone["out"], "hello")
    path.write_text(whole, encoding="utf-8")
    assert done.code == 1
    assert "names 1 labels" in done.err


def test_an_encoder_follows_if_the_ngrams_are_fitted_sooner_than_planned(
    demo_csv: Path,
    tiny_model: Path,
    run_cli: RunCli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGETUNE_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setattr(planner, "NGRAMS_S", 60.0)  # planned for each fit; the deadline allows a quarter
    opens_s = {"import_s": 0.5, "open_s": 14.0, "open_depth_s": 14.0}
    save_guess(tiny_model, FixedCosts(**opens_s, export_s=0, save_s=0.4, save_model_s=0.3))
    out = tmp_path / "run"
    done = run_cli(
        *("finetune", demo_csv, "--model", tiny_model, "--deadline", "40s", "--max-steps", 5),
        *("--out", out, "--json"),
    )
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert {one["name"] for one in summary["ensemble"]["learners"]} > {"n-grams"}
    assert "no time for the encoder" in done.err
    assert "there is time for the encoder" in done.err
    assert (out / "model" / "config.json").exists()
    assert load_run(out).predict(["my parcel never came"])
    lines = {line["line"]: line for line in summary["planned"]["lines"]}
    assert lines["ngrams"]["planned_s"] == pytest.approx(lines["ngrams"]["real_s"], abs=0.5)
    assert lines["start"]["planned_s"] == pytest.approx(lines["start"]["real_s"], abs=0.5)
    assert 'backend = "ort"' in (out / "config.toml").read_text(encoding="utf-8")


def test_there_is_nothing_to_resume(alone: dict[str, Any], run_cli: RunCli) -> None:
    done = run_cli("finetune", "--resume", alone["out"])
    assert done.code in (1, 2)
    assert len(done.err.strip().splitlines()) == 1
    assert "Traceback" not in done.err
