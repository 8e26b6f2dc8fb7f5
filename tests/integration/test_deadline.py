"""Deadlines through the command line, timed from outside, on a tiny model and a made-up profile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT, RunCli, child_environment

from edgetune import plan
from edgetune.devices.device_profile import FixedCosts
from edgetune.inference.saved_run import load_run
from edgetune.planning.device_costs import FILE
from edgetune.run_files.history import read_history
from edgetune.utils.machine import cache_folder
from tests.profile_samples import save_guess

pytestmark = pytest.mark.alone

DEADLINE_S = 11.0

MODULE = (sys.executable, "-m", "edgetune")


@pytest.fixture(scope="module", autouse=True)
def profile(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A profile of this machine and the tiny model; the figures are guesses that the run has to correct."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETUNE_PROFILES", str(tmp_path_factory.mktemp("profiles")))
        fixed = FixedCosts(
            import_s=0.5, open_s=0.3, open_depth_s=0.4, export_s=0.0, save_s=0.4, save_model_s=0.3
        )
        save_guess(tiny_model, fixed)
        yield


@pytest.fixture(scope="module")
def exported(
    tiny_model: Path, demo_csv: Path, run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Cached artifacts at depth 0, so that a deadline is not spent on making them."""
    code, _, err = run_cli(
        *("finetune", demo_csv, "--model", tiny_model, "--backend", "ort", "--max-steps", 1, "--quiet"),
        *("--out", tmp_path_factory.mktemp("first") / "run"),
    )
    assert code == 0, err


def arguments(demo_csv: Path, tiny_model: Path, out: Path, *more: object) -> list[object]:
    fixed = ("--model", tiny_model, "--freeze", "embeddings", "--max-length", 64, "--backend", "ort")
    return ["finetune", demo_csv, *fixed, "--out", out, *more]


@pytest.mark.usefixtures("exported")
def test_a_deadline_is_kept_and_the_summary_tells_planned_and_real(
    demo_csv: Path, tiny_model: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    speeds = cache_folder() / FILE
    speeds.unlink(missing_ok=True)
    started = time.monotonic()
    code, printed, err = run_cli(
        *arguments(demo_csv, tiny_model, out, "--deadline", f"{DEADLINE_S:g}s", "--json")
    )
    wall_s = time.monotonic() - started
    assert code == 0, err
    assert wall_s < DEADLINE_S
    result = json.loads(printed)
    assert result["deadline_s"] == DEADLINE_S
    assert 0 < result["deadline_used_rate"] <= 1
    assert result["energy_j"] > 0
    assert result["energy_source"]
    assert result["n_steps"] > 0
    assert result["accuracy"] is not None
    lines = {line["line"]: line for line in result["planned"]["lines"]}
    assert list(lines) == [
        *("start", "export", "open", "ngrams", "linear_probe", "train", "save"),
        *("ensemble", "evaluate", "report", "exit", "margin"),
    ]
    assert all(line["planned_s"] >= 0 for line in lines.values())
    real = [line["real_s"] for name, line in lines.items() if name not in ("exit", "margin")]
    assert min(real) >= 0
    assert sum(real) == pytest.approx(result["elapsed_s"], abs=0.3)
    steps = [line for line in read_history(out / "history.jsonl") if line["kind"] == "step"]
    assert steps[-1]["lr"] < 0.1 * steps[0]["lr"]
    assert load_run(out).predict(["my parcel never came"])[0].label in result["label_names"]
    assert (out / "onnx" / "model.onnx").is_file()
    ((key, (ran,)),) = (
        (key, backends["ort-fp32"]) for key, backends in json.loads(speeds.read_text()).items()
    )
    assert 0 < ran[1] < 1  # the guesses were far too dear
    assert 0 < ran[2] < wall_s
    speeds.write_text(json.dumps({key: {"ort-fp32": [[ran[0], 2.0, 30.0]]}}))
    code, explained, err = run_cli("plan", demo_csv, "--model", tiny_model, "--deadline", "1m", "--explain")
    assert code == 0, err
    assert "Earlier runs on this machine" in " ".join((explained + err).split())
    without = plan(demo_csv, model=str(tiny_model), deadline="1m", use_earlier_runs=False)
    assert not any("earlier runs" in reason.lower() for reason in without.reasons)
    speeds.unlink()


SET_BACK = """
import time
real, since_s = time.time, time.monotonic()
time.time = lambda: real() - 3600.0 * (time.monotonic() - since_s > 3.0)
"""


@pytest.mark.usefixtures("exported")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
def test_neither_sleep_nor_a_clock_set_back_moves_the_deadline(
    demo_csv: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """To a process, being stopped looks as the sleep of its machine does."""
    deadline_s = 25.0
    out, watch = tmp_path / "run", tmp_path / "watch"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(SET_BACK)
    environment = child_environment() | {"PYTHONPATH": os.pathsep.join([str(watch), str(ROOT)])}
    command = [*MODULE, *map(str, arguments(demo_csv, tiny_model, out, "--deadline", f"{deadline_s}s"))]
    started_s = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as child:
        history = out / "history.jsonl"
        while time.monotonic() - started_s < 20:  # until it trains, so that steps lie on both sides
            if history.is_file() and '"step"' in history.read_text(encoding="utf-8"):
                break
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(4.0)
        os.kill(child.pid, signal.SIGCONT)
        err = child.communicate(timeout=120)[1]
    wall_s = time.monotonic() - started_s
    assert child.returncode == 0, err
    assert wall_s < deadline_s + 1.0  # beside a busy neighbour a run may be a second late
    summary = json.loads((out / "summary.json").read_text())
    assert summary["elapsed_s"] == pytest.approx(wall_s, abs=3.0)
    assert sum(summary["time_split_s"].values()) == pytest.approx(summary["elapsed_s"], abs=0.1)
    times = [line["t_s"] for line in read_history(out / "history.jsonl")]
    assert times == sorted(times)
    assert max(b - a for a, b in pairwise(times)) > 3.9


@pytest.mark.usefixtures("exported")
def test_stopped_in_the_middle_there_is_a_model(demo_csv: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = arguments(demo_csv, tiny_model, out, "--deadline", "60s", "--epochs", 10_000)
    command = [*MODULE, *map(str, given)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=child_environment()) as child:
        end = time.monotonic() + 50
        while not (out / "model" / "model.safetensors").is_file() and time.monotonic() < end:
            time.sleep(0.05)
        assert load_run(out).predict(["my parcel never came"])  # the first model, while training goes on
        time.sleep(0.5)
        os.kill(child.pid, signal.SIGINT)
        err = child.communicate(timeout=120)[1]
    assert child.returncode == 130
    assert f"--resume {out}" in err
    assert load_run(out).predict(["my parcel never came"])


def test_an_impossible_deadline_names_the_smallest_one(
    demo_csv: Path, tiny_model: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, printed, err = run_cli(*arguments(demo_csv, tiny_model, out, "--deadline", "1s"))
    assert (code, printed) == (2, "")
    assert re.search(r"deadline is about \d", err)
    assert len(err.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--deadline", "10", "has no unit"),
        ("--energy", "20", "--energy 20 is not an amount"),
        ("--energy", "1J", "smallest feasible energy budget"),
        ("--memory", "5MB", "needs"),
        ("--cache-size", "much", "--cache-size much is not an amount"),
        ("--watts", "-3", "greater than 0"),
        ("--freeze", "all", "--freeze"),
    ],
)
def test_bad_budgets_are_one_sentence(
    option: str, value: str, words: str, demo_csv: Path, tiny_model: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, printed, err = run_cli(
        "finetune", demo_csv, "--model", tiny_model, "--out", out, option, value, "--quiet"
    )
    assert (code, printed) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not out.exists()


def test_plan_ranks_and_explains(demo_csv: Path, tiny_model: Path, run_cli: RunCli) -> None:
    code, out, err = run_cli("plan", demo_csv, "--model", tiny_model, "--deadline", "60s", "--explain")
    assert code == 0, err
    for words in ("Plans, best first", "ort-fp32", "total", "Why this plan", "No filter"):
        assert words in out
    code, out, err = run_cli("plan", demo_csv, "--model", tiny_model, "--deadline", "60s", "--json")
    plans = json.loads(out)
    assert plans["profile"] == "here"
    assert len({plan["max_length"] for plan in plans["plans"]}) > 1  # nobody asked for one
    worths = [plan["expected_points"] for plan in plans["plans"]]
    assert worths[0] >= max(worths) - 0.01
    assert all(plan["total_s"] <= 60 for plan in plans["plans"])


def test_plan_without_a_budget_says_what_to_give(demo_csv: Path, tiny_model: Path, run_cli: RunCli) -> None:
    code, _, err = run_cli("plan", demo_csv, "--model", tiny_model)
    assert code == 2
    assert "--deadline 10m" in err


@pytest.mark.usefixtures("exported")
def test_a_losing_filter_is_switched_off_and_said(
    demo_csv: Path, tiny_model: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, printed, err = run_cli(
        *arguments(demo_csv, tiny_model, out, "--deadline", "11s", "--json"),
        *("--method", "fixed-threshold", "--threshold", "0", "--epochs", "400"),
    )
    assert code == 0, err
    result = json.loads(printed)
    assert "scoring cost" in result["selection"]["switched_off"]
    assert result["stages"][-1]["stage"] == "filter_off"
    assert result["n_scored"] < result["n_seen"]
