"""A deadline that leaves no time for a training backend: the probe on the untouched encoder is fitted."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import ARCHITECTURES
from conftest import RunCli, says_mean, write_model

from edgetune import Run, load_run, plan
from edgetune.config.toml_config import group_by_section, make_config
from edgetune.data.demo import demo_rows
from edgetune.devices.device_profile import FixedCosts
from edgetune.inference.standalone_predict import Classifier, Text
from edgetune.report.live_view import View
from edgetune.runs.run import run
from edgetune.utils.errors import Interrupted, RunError
from edgetune.utils.meter import Meter
from edgetune.utils.signals import StopRequest
from tests.profile_samples import save_guess


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT that says that it was trained with mean pooling."""
    return says_mean(write_model(tmp_path_factory.mktemp("mean") / "bert", "bert", **ARCHITECTURES["bert"]))


@pytest.fixture(scope="module", autouse=True)
def slow_profile(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A profile by which opening a training backend takes two minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETUNE_PROFILES", str(tmp_path_factory.mktemp("profiles")))
        fixed = FixedCosts(
            import_s=0.5, open_s=120, open_depth_s=120, export_s=0, save_s=0.4, save_model_s=0.3
        )
        save_guess(encoder, fixed)
        yield


@pytest.fixture(scope="module")
def pairs_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of texts; the label says whether they share their words."""
    rng = np.random.default_rng(0)
    words = sorted({word for text, _ in demo_rows(100, seed=0) for word in text.split() if word.isalpha()})
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["one", "other", "label"])
        for number in range(300):
            first = rng.choice(words, 6, replace=False)
            second = rng.permutation(first)[:5] if number % 2 else rng.choice(words, 5, replace=False)
            out.writerow([" ".join(first), " ".join(second), ("differ", "alike")[number % 2]])
    return path


def finetune(run_cli: RunCli, data: Path, encoder: Path, out: Path, *more: object) -> dict[str, Any]:
    common = ("--model", encoder, "--deadline", "60s", "--out", out, "--json")
    done = run_cli("finetune", data, *common, *more)
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def probabilities(run: Run, texts: list[Text]) -> Any:
    return np.array([list(one.probabilities.values()) for one in run.predict(texts)])


def test_what_lies_in_the_folder_gives_the_accuracy_of_the_summary(
    run_cli: RunCli, demo_csv: Path, demo_eval_csv: Path, encoder: Path, tmp_path: Path
) -> None:
    summary = finetune(run_cli, demo_csv, encoder, tmp_path / "run", "--eval", demo_eval_csv)
    assert (summary["method"], summary["backend"]) == ("linear-probe", "onnx")
    assert summary["n_steps"] == summary["n_trained"] == 0
    names = [learner["name"] for learner in summary["ensemble"]["learners"]]
    assert names == ["n-grams", "linear probe"]
    run = load_run(tmp_path / "run")
    assert run.config is not None
    assert run.config.model.backend == "auto"  # more time would train
    assert run.evaluate(str(demo_eval_csv)).accuracy == pytest.approx(summary["accuracy"])
    assert "transformers" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_the_texts_of_pairs_are_told_apart_in_the_saved_model(
    run_cli: RunCli, pairs_csv: Path, encoder: Path, tmp_path: Path
) -> None:
    columns = ("--text", "one,other", "--pair", "--learners", "probe", "--eval", pairs_csv)
    summary = finetune(run_cli, pairs_csv, encoder, tmp_path / "run", *columns)
    assert summary["texts_apart"]
    assert summary["ensemble"] is None
    # An encoder that reads a pair together and was never trained does not know what its texts share.
    assert summary["accuracy"] > 0.8
    run = load_run(tmp_path / "run")
    assert run.evaluate(str(pairs_csv)).accuracy == pytest.approx(summary["accuracy"])
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "from transformers import pipeline" not in card
    assert 'predict.py --pair "first text"' in card
    assert "Preset" not in card
    done = run_cli("export", tmp_path / "run", "--out", tmp_path / "out", "--int8")
    assert done.code == 0, done.err
    pairs: list[Text] = [("the invoice is wrong", "wrong is the"), ("where is it", "my password"), ("a", "")]
    exported = Classifier(tmp_path / "out").probabilities(pairs)
    assert exported == pytest.approx(probabilities(run, pairs), abs=1e-5)
    report = json.loads((tmp_path / "out" / "int8.json").read_text())
    assert report["fp32"]["accuracy"] == pytest.approx(summary["accuracy"])
    assert report["int8"]["accuracy"] == pytest.approx(summary["accuracy"], abs=0.1)
    (tmp_path / "run" / "onnx" / "model.onnx").unlink()
    with pytest.raises(RunError):  # model/ would read the texts together
        load_run(tmp_path / "run")


@pytest.mark.parametrize(("wish", "method"), [((), "linear-probe"), (("--epochs", 1), "train-all")])
def test_few_pairs_without_a_deadline_are_compared_by_a_probe(
    wish: tuple[object, ...], method: str, run_cli: RunCli, pairs_csv: Path, encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    how = ("--model", encoder, "--text", "one,other", "--pair", "--out", out, "--json")
    done = run_cli("finetune", pairs_csv, *how, *wish)
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert (summary["method"], summary["deadline_s"]) == (method, None)
    names = [learner["name"] for learner in summary["ensemble"]["learners"]]
    assert names == ["n-grams", "linear probe" if method == "linear-probe" else "encoder"]
    assert load_run(out).predict([("the invoice is wrong", "wrong is the")])


def test_few_rows_are_trained_by_a_backend_that_was_not_profiled(
    run_cli: RunCli, demo_csv: Path, encoder: Path, tmp_path: Path
) -> None:
    how = ("--model", encoder, "--backend", "torch", "--epochs", 1, "--out", tmp_path / "run", "--json")
    done = run_cli("finetune", demo_csv, *how)
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert (summary["backend"], summary["method"]) == ("torch", "train-all")
    assert summary["n_trained"] == summary["n_train"]


def test_the_whole_answer_about_pairs_is_exported(
    run_cli: RunCli, pairs_csv: Path, encoder: Path, tmp_path: Path
) -> None:
    columns = ("--text", "one,other", "--pair", "--eval", pairs_csv)
    summary = finetune(run_cli, pairs_csv, encoder, tmp_path / "run", *columns)
    assert summary["texts_apart"]
    done = run_cli("export", tmp_path / "run", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    pairs: list[Text] = [("the invoice is wrong", "wrong is the"), ("where is it", "my password")]
    exported = Classifier(tmp_path / "out").probabilities(pairs)
    assert exported == pytest.approx(probabilities(load_run(tmp_path / "run"), pairs), abs=1e-5)


def test_learners_that_are_left_out_take_no_part(
    run_cli: RunCli, demo_csv: Path, encoder: Path, tmp_path: Path
) -> None:
    summary = finetune(run_cli, demo_csv, encoder, tmp_path / "run", "--learners", "ngrams")
    assert summary["method"] == "n-grams"
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("learners", "words"),
    [("ngram", "ngrams"), ("nope", "probe"), (" , ", "encoder"), ("probe", "--deadline")],
)
def test_bad_learners_are_one_sentence(
    run_cli: RunCli, demo_csv: Path, encoder: Path, tmp_path: Path, learners: str, words: str
) -> None:
    out = tmp_path / "run"
    done = run_cli("finetune", demo_csv, "--model", encoder, "--out", out, "--learners", learners)
    assert done.code in (1, 2)
    assert words in done.err
    assert "Traceback" not in done.err
    assert not out.exists()


@pytest.mark.parametrize(
    "more",
    [("--precision", "bf16"), ("--no-onnx",), ("--pooling", "cls"), ("--learners", "encoder")],
)
def test_what_a_backend_that_trains_nothing_cannot_do_is_one_sentence(
    run_cli: RunCli, demo_csv: Path, encoder: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    common = ("--model", encoder, "--out", tmp_path / "run", "--backend", "onnx", "--deadline", "5h")
    done = run_cli("finetune", demo_csv, *common, *more)
    assert done.code in (1, 2)
    assert "--backend" in done.err
    assert not (tmp_path / "run").exists()


def test_texts_of_a_pair_that_the_tokenizer_does_not_tell_apart_are_read_together(
    pairs_csv: Path, encoder: Path, tmp_path: Path
) -> None:
    untyped = tmp_path / "untyped"
    shutil.copytree(encoder, untyped)
    settings = json.loads((untyped / "tokenizer.json").read_text())
    for part in settings["post_processor"]["pair"]:  # as XLM-RoBERTa's tokenizer, which MiniLM has too
        for one in part.values():
            one["type_id"] = 0
    (untyped / "tokenizer.json").write_text(json.dumps(settings))
    for model, has_probe in ((encoder, True), (untyped, False)):
        found = plan(pairs_csv, model=str(model), deadline="10m", text="one,other", pair=True)
        assert any(one.backend == "onnx" for one in found.ranked) == has_probe


def test_a_run_that_is_stopped_says_that_its_encoder_is_a_probe(
    demo_csv: Path, encoder: Path, tmp_path: Path
) -> None:
    stop = StopRequest()
    stop.requested = True
    settings = {"train": str(demo_csv), "model": str(encoder), "deadline_s": 60.0}
    with pytest.raises(Interrupted):
        run(
            make_config(group_by_section(settings)),
            tmp_path / "run",
            overwrite=False,
            cache_dir=tmp_path / "cache",
            meter=Meter(),
            view=View(),
            stop=stop,
        )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [one["name"] for one in summary["ensemble"]["learners"]] == ["n-grams", "linear probe"]
    assert load_run(tmp_path / "run").predict(["the invoice is wrong"])[0].label is not None


def test_a_backend_that_trains_nothing_needs_a_deadline(
    run_cli: RunCli, demo_csv: Path, encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = run_cli("finetune", demo_csv, "--model", encoder, "--out", out, "--backend", "onnx")
    assert done.code in (1, 2)
    assert "--deadline" in done.err
    assert not out.exists()
