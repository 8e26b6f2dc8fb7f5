"""Texts with several labels, or none, from the file to the answer, through the command line."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RunCli

from edgetune import load_run
from edgetune.utils import failpoints
from edgetune.utils.errors import RunError
from edgetune.utils.multi_label import MultiLabelEvaluation, evaluate_answers, micro_f1, multi_hot
from tests.integration.test_serve import serving

WORDS = {
    "price": ("costs too much", "is expensive", "was overpriced"),
    "screen": ("has a dim display", "shows dead pixels", "flickers"),
    "battery": ("dies by noon", "never charges", "drains overnight"),
}


def rows(n: int, seed: int) -> list[tuple[str, list[str]]]:
    """Return made-up complaints, each about none to three things, all of them different."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(n):
        labels = [name for name, share in zip(WORDS, (0.5, 0.35, 0.2), strict=True) if rng.random() < share]
        parts = [str(rng.choice(WORDS[name])) for name in labels] or ["arrived on a Monday"]
        found.append((f"phone {seed}{number} {' and '.join(parts)}", labels))
    return found


def write(path: Path, found: list[tuple[str, list[str]]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": labels}) + "\n" for text, labels in found))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("several") / "phones.jsonl", rows(400, 1))


@pytest.fixture(scope="module")
def test_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("several") / "test.jsonl", rows(120, 2))


@pytest.fixture(scope="module")
def trained_on(
    data: Path, test_rows: Path, tiny_model: Path, run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """Train n-grams and an encoder on a backend; the summary, and where the run lies."""

    @functools.cache
    def train(backend: str) -> dict[str, Any]:
        out = tmp_path_factory.mktemp("run") / backend
        done = run_cli(
            *("finetune", data, "--eval", test_rows, "--model", tiny_model, "--out", out),
            *("--epochs", 1, "--backend", backend, "--json"),
        )
        assert done.code == 0, done.err
        return {"out": out, **json.loads(done.out)}

    return train


@pytest.fixture(scope="module")
def trained(trained_on: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return trained_on("ort")


@pytest.mark.parametrize("backend", ["ort", "torch"])
def test_the_summary_has_the_figures_of_several_labels(
    backend: str, trained_on: Callable[[str], dict[str, Any]]
) -> None:
    trained = trained_on(backend)
    assert trained["multi_label"]
    assert trained["label_names"] == ["battery", "price", "screen"]
    assert 0.8 < trained["micro_f1"] <= 1
    assert 0 < trained["accuracy"] <= trained["micro_f1"] + 0.1
    assert trained["mcc"] is None
    assert trained["confusion"] == []
    assert len(trained["thresholds"]) == 3
    assert [one["name"] for one in trained["ensemble"]["learners"]] == ["n-grams", "encoder"]
    assert "multi_label = true" in (trained["out"] / "config.toml").read_text()
    config = json.loads((trained["out"] / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert "Micro-F1" in (trained["out"] / "model" / "README.md").read_text()


def test_each_learner_alone_is_evaluated_at_its_own_thresholds(
    trained: dict[str, Any], test_rows: Path
) -> None:
    alone = trained["ensemble"]["learners"][0]
    saved = load_run(trained["out"]).ensemble
    assert saved is not None
    found = [json.loads(line) for line in test_rows.read_text().splitlines()]
    log_p = saved.ngrams.log_proba([row["text"] for row in found])
    names = trained["label_names"]
    labels = multi_hot([[names.index(label) for label in row["label"]] for row in found], len(names))
    evaluation = evaluate_answers(log_p, labels, names, alone["held_out"]["thresholds"])
    assert alone["micro_f1"] == pytest.approx(micro_f1(evaluation))


def test_evaluate_says_the_same(trained: dict[str, Any], test_rows: Path, run_cli: RunCli) -> None:
    done = run_cli("evaluate", trained["out"], test_rows, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["micro_f1"] == pytest.approx(trained["micro_f1"], abs=0.01)
    shown = run_cli("evaluate", trained["out"], test_rows)
    assert "micro-F1" in shown.out
    assert "threshold" in shown.out


def test_evaluate_reads_single_labels_and_strange_ones(
    trained: dict[str, Any], run_cli: RunCli, tmp_path: Path
) -> None:
    path = tmp_path / "test.csv"
    path.write_text("text,label\nit is expensive,price\nit flickers and talks,voice\n")
    done = run_cli("evaluate", trained["out"], path, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["unknown_labels"] == {"voice": 1}


def test_predictions_are_lists(trained: dict[str, Any], run_cli: RunCli, tmp_path: Path) -> None:
    texts = ["phone is expensive and flickers", "phone arrived on a Monday", ""]
    found = load_run(trained["out"]).predict(texts)
    assert [None if one.labels is None else set(one.labels) for one in found] == [
        {"price", "screen"},
        set(),
        None,
    ]
    assert set(found[0].probabilities) == set(WORDS)
    path = tmp_path / "in.csv"
    path.write_text("text\n" + "\n".join(texts[:2]) + "\n")
    for suffix in (".csv", ".jsonl"):
        done = run_cli("predict", trained["out"], "--file", path, "--out", tmp_path / f"out{suffix}")
        assert done.code == 0, done.err
    with (tmp_path / "out.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [set(json.loads(row["predicted"])) for row in written] == [{"price", "screen"}, set()]
    assert float(written[0]["probability_price"]) == pytest.approx(found[0].probabilities["price"], abs=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [set(line["predicted"]) for line in lines] == [{"price", "screen"}, set()]
    shown = run_cli("predict", trained["out"], *texts[:2])
    assert "(no label)" in shown.out


def test_what_is_for_one_label_is_refused(
    trained: dict[str, Any], data: Path, tiny_model: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    out = ("--model", tiny_model, "--out", tmp_path / "run")
    for command in (
        ("inspect", trained["out"]),
        ("predict", trained["out"], "a text", "--unsure", 0.5),
        ("finetune", data, "--class-weight", "balanced", *out),
        ("finetune", data, "--metric", "macro-f1", *out),
        ("compare", data, "--methods", "train-all", "--epochs", 1, *out[2:]),
    ):
        done = run_cli(*command)
        assert done.code in (1, 2), done.out
        assert "several" in done.err
        assert "Traceback" not in done.err
    assert not (tmp_path / "run" / "summary.json").exists()


def test_bad_input_is_a_sentence(run_cli: RunCli, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    faults = {
        "No row of": [{"text": f"text {i}", "label": []} for i in range(80)],
        "at least 2 different": [{"text": f"text {i}", "label": ["a"] * (i % 2)} for i in range(80)],
        "label is not a single value": [
            {"text": f"text {i}", "label": ["a", ["b", "c"]] if i % 2 else ["a", "b"]} for i in range(80)
        ],
    }
    for says, found in faults.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        out = tmp_path / "run"
        done = run_cli("finetune", path, "--multi-label", "--model", tiny_model, "--out", out)
        assert done.code in (1, 2)
        assert says in done.err
        assert not out.exists()


def test_separated_labels_are_suggested(
    data: Path, run_cli: RunCli, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "data.csv"
    lines = [f"{text},{';'.join(labels)}" for text, labels in rows(400, 3)]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    done = run_cli("check", path, "--model", tiny_model)
    assert done.code == 3
    assert "--multi-label" in done.out
    done = run_cli("check", path, "--model", tiny_model, "--multi-label", "--json")
    found = json.loads(done.out)
    assert [one["label"] for one in found["classes"]] == ["battery", "price", "screen"]
    assert found["cross_validation"] is None


def test_several_labels_that_no_row_has_are_doubted(
    run_cli: RunCli, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(80)))
    done = run_cli("check", path, "--model", tiny_model, "--multi-label")
    assert done.code == 3
    assert "remove --multi-label" in done.out


def test_a_run_goes_on_after_a_break(
    data: Path, tiny_model: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--model", tiny_model, "--epochs", 1, "--backend", "ort", "--threads", 1, "--batch-size", 8)
    assert run_cli("finetune", data, *common, "--out", tmp_path / "whole").code == 0
    failpoints._passed.clear()
    monkeypatch.setenv(failpoints.SWITCH, "step:10:stop")
    assert run_cli("finetune", data, *common, "--out", tmp_path / "broken").code == 130
    monkeypatch.delenv(failpoints.SWITCH)
    done = run_cli("finetune", "--resume", tmp_path / "broken")
    assert done.code == 0, done.err
    whole, broken = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "broken")
    )
    for name in ("micro_f1", "accuracy", "eval_loss", "thresholds", "per_class"):
        assert whole[name] == broken[name]


def test_rows_in_memory_are_evaluated(trained: dict[str, Any]) -> None:
    found = load_run(trained["out"]).evaluate([("phone flickers", ["screen"]), ("phone arrived", [])])
    assert isinstance(found, MultiLabelEvaluation)
    assert found.n == 2


def test_the_server_answers_with_lists(trained: dict[str, Any]) -> None:
    with serving(trained["out"]) as server:
        answer = server.predict(text="phone is expensive and flickers").json
    assert set(answer) == {"labels", "probabilities"}
    assert set(answer["labels"]) == set(answer["probabilities"]) == {"price", "screen"}


def test_a_report_shows_it(trained: dict[str, Any], run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("report", trained["out"], "--out", tmp_path / "report.html")
    assert done.code == 0, done.err
    page = (tmp_path / "report.html").read_text()
    assert "micro-F1" in page
    assert "subset accuracy" in page


def test_the_page_shows_several_labels(trained: dict[str, Any]) -> None:
    pytest.importorskip("gradio")
    from edgetune.report.collect import read_run
    from edgetune.web.result_tabs import headline, labels_of
    from edgetune.web.run_answers import evaluated, open_run

    folder = Path(trained["run_dir"])
    assert "Micro-F1" in (shown := str(headline(read_run(folder, "run"))))
    assert "subset accuracy" in shown
    assert "most frequent class" not in shown
    run = open_run(folder)
    with pytest.raises(RunError, match="several labels"):
        evaluated(run)
    prediction = run.predict(["the screen"])[0]
    assert labels_of(prediction) == (", ".join(prediction.labels or ()) or "(no label)")
