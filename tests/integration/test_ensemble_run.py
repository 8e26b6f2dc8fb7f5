"""A run with several learners: what it fits on which rows, what it leaves, and what answers afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RunCli

from edgetune import load_run
from edgetune.inference.saved_ensemble import ENCODER, NGRAMS

HOW = ("--epochs", 2, "--batch-size", 16, "--lr", 0.002, "--threads", 1, "--backend", "ort")


@pytest.fixture(scope="module")
def combined(
    demo_csv: Path,
    demo_eval_csv: Path,
    tiny_model: Path,
    run_cli: RunCli,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """A run of n-grams and a tiny encoder; its summary, and where it lies."""
    out = tmp_path_factory.mktemp("ensemble") / "run"
    done = run_cli(
        "finetune", demo_csv, "--eval", demo_eval_csv, "--model", tiny_model, "--out", out, "--json", *HOW
    )
    assert done.code == 0, done.err
    return {"out": out, **json.loads(done.out)}


def learner(summary: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in summary["ensemble"]["learners"] if one["name"] == name]
    return dict(found)


def test_the_ensemble_is_as_good_as_its_best_learner_on_held_out_rows(combined: dict[str, Any]) -> None:
    ensemble = combined["ensemble"]
    assert ensemble["n_held_out"] + combined["n_train"] == 300
    assert 0 < ensemble["n_held_out"] <= 83  # a quarter of few rows, and a tenth more of near-duplicates
    used = [one for one in ensemble["learners"] if one["weight"]]
    assert used
    # The random encoder of two layers has learned little; words tell the demo's labels apart.
    assert learner(combined, NGRAMS)["weight"] > 0
    assert combined["accuracy"] == ensemble["accuracy"] >= learner(combined, NGRAMS)["accuracy"] - 0.02
    assert combined["accuracy"] > learner(combined, ENCODER)["accuracy"] + 0.2
    assert 0 <= ensemble["calibration_error"] <= 1
    assert 1 / len(combined["label_names"]) <= ensemble["threshold"] <= 1


def test_evaluate_and_predict_give_the_answer_of_the_summary(
    combined: dict[str, Any], demo_eval_csv: Path, run_cli: RunCli
) -> None:
    done = run_cli("evaluate", combined["out"], demo_eval_csv, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["accuracy"] == combined["accuracy"]
    assert json.loads((combined["out"] / "metrics.json").read_text())["accuracy"] == combined["accuracy"]
    (found,) = load_run(combined["out"]).predict(["my parcel never came, where is the delivery"])
    assert found.label in combined["label_names"]
    assert sum(found.probabilities.values()) == pytest.approx(1)


def test_the_model_card_has_the_figures_of_the_encoder_alone(combined: dict[str, Any]) -> None:
    card = (combined["out"] / "model" / "README.md").read_text(encoding="utf-8")
    assert (
        f"{100 * learner(combined, ENCODER)['accuracy']:.1f}" in card.split("## Results")[1].split("\n- ")[1]
    )
    assert "n-gram classifier" in card


def test_the_learners_are_in_the_closing_table(combined: dict[str, Any], run_cli: RunCli) -> None:
    from edgetune.report.result_tables import summary_sections
    from edgetune.utils.tables import sections_text

    text = sections_text(summary_sections(combined))
    assert NGRAMS in text
    assert ENCODER in text
    assert "ensemble" in text


def test_without_ngrams_the_encoder_answers_alone(
    demo_csv: Path, tiny_model: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    done = run_cli(
        *("finetune", demo_csv, "--model", tiny_model, "--out", tmp_path / "run"),
        *HOW,
        "--no-ngrams",
        "--json",
    )
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert summary["ensemble"] is None
    assert summary["n_train"] + summary["n_eval"] == 300
    assert not (tmp_path / "run" / "ensemble").exists()


def test_single_keeps_one_learner_and_the_metric_is_the_one_asked_for(
    demo_csv: Path, tiny_model: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetune.runs import ensembling

    asked: list[Any] = []
    fit = ensembling.fit_ensemble
    monkeypatch.setattr(ensembling, "fit_ensemble", lambda *a, **k: asked.append(k) or fit(*a, **k))
    how = ("--single", "--metric", "macro-f1", "--class-weight", "none", "--json")
    done = run_cli("finetune", demo_csv, "--model", tiny_model, "--out", tmp_path / "run", *HOW, *how)
    assert done.code == 0, done.err
    assert {one["metric"] for one in asked} == {"macro-f1"}
    summary = json.loads(done.out)
    (used,) = [one for one in summary["ensemble"]["learners"] if one["weight"]]
    assert used["name"] == NGRAMS  # the random encoder of two layers has learned little
    assert summary["accuracy"] == used["accuracy"]


def test_a_damaged_ensemble_is_a_sentence(combined: dict[str, Any], run_cli: RunCli, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(combined["out"], tmp_path / "copy"))
    (copy / "ensemble" / "ensemble.json").write_text('{"schema_version": 1, "names": [], "weights": []}')
    done = run_cli("predict", copy, "a text")
    assert (done.code, done.out) == (1, "")
    assert "Traceback" not in done.err
    assert "ensemble" in done.err


def test_equal_texts_are_held_out_together(tmp_path: Path, tiny_model: Path) -> None:
    from edgetune.config.toml_config import make_config
    from edgetune.data.splits import open_splits
    from edgetune.data.token_format import TokenizerSpec

    texts = [f"the invoice number {i} is wrong" for i in range(100)]
    rows = "".join(f"{text},{'a' if i % 2 else 'b'}\n" for i, text in enumerate(texts) for _ in range(3))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    (tmp_path / "dev.csv").write_text("text,label\nfine,a\nbad,b\n")
    data = {"train": str(tmp_path / "rows.csv"), "eval": str(tmp_path / "dev.csv")}
    config = make_config({"data": data, "model": {}, "selection": {}, "train": {}, "budget": {}})
    spec = TokenizerSpec(tiny_model / "tokenizer.json", 32, 0)
    splits = open_splits(config, spec, tmp_path / "cache", (), lambda text: None)
    assert splits.held_out is not None
    assert len(splits.train) + len(splits.held_out) == 300
    assert 60 <= len(splits.held_out) <= 90  # a quarter of the texts, three rows each
    assert not set(splits.train.texts()) & set(splits.held_out.texts())
    assert not np.intersect1d(splits.train.rows, splits.held_out.rows).size


def test_balanced_class_weights_move_the_answer_to_rare_classes(
    tiny_model: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    rows = []  # one word in four tells the class, and nine in ten rows are of one class
    for _ in range(600):
        label = "rare" if rng.random() < 0.1 else "usual"
        word = label if rng.random() < 0.25 else "word"
        rows.append(f"{word} number {rng.integers(50)},{label}\n")
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(rows))
    recall = {}
    for weight in ("none", "balanced"):
        done = run_cli(
            *("finetune", tmp_path / "rows.csv", "--model", tiny_model, "--out", tmp_path / weight, *HOW),
            *("--class-weight", weight, "--json"),
        )
        assert done.code in (0, 3), done.err
        confusion = np.array(json.loads(done.out)["confusion"])
        recall[weight] = confusion.diagonal() / confusion.sum(axis=1)
        bias = json.loads((tmp_path / weight / "ensemble" / "ensemble.json").read_text())["bias"]
        assert len(bias) == (2 if weight == "balanced" else 0)
    rare = json.loads(done.out)["label_names"].index("rare")
    assert recall["balanced"][rare] > recall["none"][rare]
    refused = run_cli(
        *("finetune", tmp_path / "rows.csv", "--model", tiny_model, "--no-ngrams"),
        *("--class-weight", "balanced", "--out", tmp_path / "refused"),
    )
    assert refused.code == 2
    assert "--no-ngrams" in refused.err
