"""`edgetune export RUN`: one ONNX file that gives the run's own probabilities, with edgetune or without."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import ARCHITECTURES
from conftest import Outcome, RunCli, Trained, write_tokenizer

from edgetune import load_run
from edgetune.inference.classifier_export import Int8Report, Measured
from edgetune.inference.saved_ensemble import ENCODER, NGRAMS, SavedEnsemble
from edgetune.inference.standalone_predict import Classifier, Text
from edgetune.learners.ensemble import Ensemble
from edgetune.learners.ngrams.learner import Ngrams

TEXTS: list[Text] = [
    "My parcel never came, where is the delivery?",
    "THE INVOICE IS WRONG! the invoice is wrong",
    "nothing that it knows: zzyzx Ωmega ÉCOLE",
    "İstanbul 东京 नमस्ते 12 a_b",
    "?",
    " ",
    "the password " * 400,
]
CHINESE: list[Text] = ["今天 天气很好", "我不喜欢它!", "hello", "𠀀的", " "]
PAIRS: list[Text] = [
    ("how do I log in", "how can I log in?"),
    ("the invoice", "a parcel never came"),
    ("zzyzx", ""),
    ("same same", "SAME same"),
]
WITHOUT_EDGETUNE = """
import runpy, sys
sys.modules["edgetune"] = None
sys.argv = ["predict.py", *sys.argv[1:]]
runpy.run_path("predict.py", run_name="__main__")
"""


def difference(run: Path, exported: Path, texts: Sequence[Text]) -> float:
    """Return the largest difference between the probabilities, for all texts at once and one by one.

    An empty text has no prediction; the graph only must not fail on it.
    """
    opened = load_run(run)
    found = [one for one in opened.predict([*texts]) if one.label is not None]
    ours = np.array([[one.probabilities[name] for name in opened.label_names] for one in found])
    classifier = Classifier(exported)
    assert classifier.labels == list(opened.label_names)
    filled = [bool("".join(text).strip()) for text in texts]
    together = classifier.probabilities(texts)[filled]
    apart = np.concatenate([classifier.probabilities([text]) for text in texts])[filled]
    assert ours.shape == together.shape == apart.shape
    return float(max(np.abs(together - ours).max(), np.abs(apart - ours).max()))


def fitted(texts: Sequence[str], n_classes: int, n_seen: int, multi_label: bool = False) -> Ngrams:
    labels = np.arange(len(texts)) % n_seen
    if multi_label:
        one_hot = np.eye(n_classes, dtype=np.float32)
        labels = np.maximum(one_hot[labels], one_hot[labels // 2])
        labels[::5] = 0
    return Ngrams.fit(texts, labels, n_classes)


@pytest.fixture(scope="module")
def trained(trained: Trained, run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The run of the session, in which both learners have a weight, whatever they reached."""
    folder = tmp_path_factory.mktemp("both") / "trained"
    shutil.copytree(trained.folder, folder)
    path = folder / "ensemble" / "ensemble.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"names": [ENCODER, NGRAMS], "weights": [0.6, 0.5]}))
    done = run_cli("evaluate", folder, trained.evaluation, "--json")
    assert done.code == 0, done.err
    result = trained.result | {"accuracy": json.loads(done.out)["accuracy"]}
    return dataclasses.replace(trained, folder=folder, result=result)


@pytest.fixture
def ngrams_alone(trained: Trained, tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder that answers with n-grams alone."""

    def write(ngrams: Ngrams, bias: tuple[float, ...] = ()) -> Path:
        names = tuple(f"label {n}" for n in range(ngrams.n_classes))
        tokenizer = trained.folder / "model" / "tokenizer.json"
        thresholds = (0.4,) * ngrams.n_classes if ngrams.multi_label else ()
        saved = SavedEnsemble(Ensemble((NGRAMS,), (1.7,), 50, bias, thresholds), ngrams, names, tokenizer)
        home = tmp_path / "run"
        home.mkdir()
        saved.write(home)
        return home

    return write


SINGLE = [
    *("my parcel never came", "the invoice is wrong!", "the password is wrong", "is the parcel here?"),
    *("the invoice came twice", "école, école", "my password", "where is it"),
]
SOME_PAIRS = ["how do I log in\x1fhow can I log in", "the invoice\x1fthe parcel", "a\x1fa", "b c\x1fc b"]


@pytest.mark.parametrize(
    ("training", "n_classes", "n_seen", "texts"),
    [
        (SINGLE * 20, 4, 4, TEXTS),
        (SINGLE * 20, 2, 2, TEXTS),
        (SINGLE * 20, 5, 3, TEXTS),  # two classes without a row
        (["今天天气很好", "我不喜欢它", "很好"] * 30, 3, 3, CHINESE),
        (SOME_PAIRS * 20, 3, 3, PAIRS),
        (["今天天气\x1f天气很好", "我不喜欢它\x1f很好"] * 30, 2, 2, [("今天天气", "很好"), ("它", "")]),
        (["...", ",,,"] * 30, 2, 2, TEXTS),  # no n-gram at all
    ],
    ids=["words", "two classes", "unseen classes", "characters", "pairs", "pairs of characters", "no n-gram"],
)
def test_ngrams_alone_give_the_probabilities_of_the_run(
    training: list[str],
    n_classes: int,
    n_seen: int,
    texts: Sequence[Text],
    ngrams_alone: Callable[..., Path],
    run_cli: RunCli,
    tmp_path: Path,
) -> None:
    run = ngrams_alone(fitted(training, n_classes, n_seen))
    done = run_cli("export", run, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert difference(run, tmp_path / "out", texts) < 1e-6
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_the_correction_for_unbalanced_classes_is_in_the_graph(
    ngrams_alone: Callable[..., Path], run_cli: RunCli, tmp_path: Path
) -> None:
    run = ngrams_alone(fitted(SINGLE * 20, 4, 4), bias=(0.0, 1.5, -0.5, 3.0))
    done = run_cli("export", run, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert difference(run, tmp_path / "out", TEXTS) < 1e-6


@pytest.mark.parametrize("n_seen", [4, 2])
def test_ngrams_of_several_labels_in_the_graph(
    n_seen: int, ngrams_alone: Callable[..., Path], run_cli: RunCli, tmp_path: Path
) -> None:
    run, out = ngrams_alone(fitted(SINGLE * 20, 4, n_seen, multi_label=True)), tmp_path / "out"
    done = run_cli("export", run, "--out", out)
    assert done.code == 0, done.err
    assert difference(run, out, TEXTS) < 1e-6
    texts = ["the password is wrong", "zzyzx", " "]
    ours = [one.labels for one in load_run(run).predict(texts)]
    answers = without_edgetune(out, *texts)
    assert [set(one["labels"]) for one in answers] == [set(labels or ()) for labels in ours]
    assert len(ours[0] or ()) > 0


@pytest.fixture
def copy(trained: Trained, tmp_path: Path) -> Path:
    """A copy of a run of n-grams and a tiny encoder."""
    return Path(shutil.copytree(trained.folder, tmp_path / "copy"))


def give_ensemble(
    run: Path, names: tuple[str, ...], training: Sequence[str] | None = None, multi_label: bool = False
) -> None:
    """Let these learners answer for a run."""
    saved = load_run(run).ensemble
    assert saved is not None
    ensemble = Ensemble(names, (0.8, 1.3)[: len(names)], 50, (), (0.3,) * 4 if multi_label else ())
    ngrams = saved.ngrams if training is None else fitted(training, 4, 4, multi_label)
    shutil.rmtree(run / "ensemble")
    dataclasses.replace(saved, ensemble=ensemble, ngrams=ngrams).write(run)


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        ((ENCODER, NGRAMS), TEXTS),
        ((ENCODER,), TEXTS),  # what --single may keep
        ((NGRAMS,), TEXTS),
        ((ENCODER, NGRAMS), PAIRS),
        ((), TEXTS),  # --no-ngrams
    ],
    ids=["both", "encoder", "n-grams", "pairs", "no ensemble"],
)
def test_with_an_encoder_it_gives_the_probabilities_of_the_run(
    names: tuple[str, ...], texts: Sequence[Text], copy: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    if names:
        give_ensemble(copy, names, SOME_PAIRS * 20 if texts is PAIRS else None)
    else:
        shutil.rmtree(copy / "ensemble")
    done = run_cli("export", copy, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert difference(copy, tmp_path / "out", texts) < 1e-5


@pytest.mark.parametrize("learners", [(ENCODER, NGRAMS), ()])
def test_with_an_encoder_of_several_labels(
    learners: tuple[str, ...], copy: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    for config in copy.glob("*/config.json"):
        config.write_text(config.read_text().replace("single_label", "multi_label"))
    if learners:
        give_ensemble(copy, learners, SINGLE * 20, multi_label=True)
    else:
        shutil.rmtree(copy / "ensemble")
    rows, names = tmp_path / "rows.jsonl", list(load_run(copy).label_names)
    lines = [json.dumps({"text": text, "label": names[:n]}) for n, text in enumerate(SINGLE[:4])]
    rows.write_text("\n".join(lines))
    done = run_cli("export", copy, "--out", tmp_path / "out", "--int8", "--file", rows)
    assert done.code == 0, done.err
    assert difference(copy, tmp_path / "out", TEXTS) < 1e-5
    found = json.loads(run_cli("evaluate", copy, rows, "--json").out)
    report = json.loads((tmp_path / "out" / "int8.json").read_text())
    assert report["fp32"]["accuracy"] == pytest.approx(found["accuracy"])


def test_a_run_without_onnx_is_exported_from_its_weights(copy: Path, run_cli: RunCli, tmp_path: Path) -> None:
    shutil.rmtree(copy / "onnx")
    done = run_cli("export", copy, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert difference(copy, tmp_path / "out", TEXTS) < 1e-4


def test_an_encoder_with_branches_in_its_graph(run_cli: RunCli, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    home = tmp_path / "run" / "model"
    home.mkdir(parents=True)
    settings = {**ARCHITECTURES["deberta-v2"], "vocab_size": write_tokenizer(home), "num_labels": 3}
    torch.manual_seed(0)
    config = AutoConfig.for_model("deberta-v2", **settings)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(home)
    done = run_cli("export", tmp_path / "run", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert difference(tmp_path / "run", tmp_path / "out", ["the invoice is wrong", "?"]) < 1e-4


def without_edgetune(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EDGETUNE, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_exported_program_needs_no_edgetune(copy: Path, run_cli: RunCli, tmp_path: Path) -> None:
    give_ensemble(copy, (ENCODER, NGRAMS), SOME_PAIRS * 20)
    out = tmp_path / "out"
    done = run_cli("export", copy, "--out", out)
    assert done.code == 0, done.err
    (found,) = without_edgetune(out, "--pair", "the invoice is wrong", "is it?")
    (ours,) = load_run(copy).predict([("the invoice is wrong", "is it?")])
    assert found["label"] == ours.label
    assert found["probabilities"] == pytest.approx(list(ours.probabilities.values()), abs=1e-4)
    odd = [sys.executable, str(out / "predict.py"), "--pair", "a", "b", "c"]
    refused = subprocess.run(odd, capture_output=True, text=True, check=False, timeout=120)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "3 texts" in refused.stderr
    misused = run_cli("predict", out, "the invoice is wrong")
    assert misused.code in (1, 2)
    assert str(out / "predict.py") in " ".join(misused.err.split())


def test_int8_is_measured_beside_fp32(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("export", trained.folder, "--out", tmp_path / "out", "--int8")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "int8.json").read_text())
    assert report["fp32"]["accuracy"] == pytest.approx(trained.result["accuracy"])
    assert report["n_rows"] == 100
    assert report["machine"]["cpu"] in done.out
    for name in ("fp32", "int8"):
        assert f"{report[name]['ms_per_text']:.2f}" in done.out
    assert len(done.err.strip().splitlines()) == len(report["warnings"])
    small = Classifier(tmp_path / "out", "classifier-int8.onnx").probabilities(TEXTS)
    whole = Classifier(tmp_path / "out").probabilities(TEXTS)
    assert 0 < np.abs(small - whole).max() < 0.2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("classifier.onnx", "classifier-int8.onnx", "classifier.json", "int8.json"),
        *("tokenizer.json", "predict.py", "derived_tokens.py"),
    }


def test_int8_is_measured_on_the_rows_that_the_run_held_out(
    copy: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    config, summary = copy / "config.toml", copy / "summary.json"
    lines = config.read_text().splitlines()
    config.write_text("\n".join(line for line in lines if not line.startswith("eval =")) + "\n")
    refused(run_cli("export", copy, "--out", tmp_path / "out", "--int8"), 1, "changed", tmp_path)
    found = json.loads(summary.read_text())
    del found["n_train"]
    summary.write_text(json.dumps(found))
    done = run_cli("export", copy, "--out", tmp_path / "out", "--int8")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "out" / "int8.json").read_text())["n_rows"] in range(30, 34)


def test_int8_warns_where_it_is_slower_or_less_accurate() -> None:
    fp32 = Measured(0.900, 2.0, 100)
    assert not Int8Report(1000, "rows", fp32, Measured(0.897, 1.0, 25)).warnings
    assert len(Int8Report(1000, "rows", fp32, Measured(0.896, 1.0, 25)).warnings) == 1
    assert len(Int8Report(1000, "rows", fp32, Measured(0.950, 2.1, 25)).warnings) == 1
    assert len(Int8Report(1000, "rows", fp32, Measured(0.800, 2.1, 25)).warnings) == 2


def refused(done: Outcome, code: int, word: str, home: Path) -> None:
    """Check that a command says in one sentence what is wrong and leaves nothing."""
    assert done.code == code, done.err
    assert len(done.err.strip().splitlines()) == 1
    assert word in done.err
    assert not (home / "out").exists()
    assert not list(home.glob(".*"))


def test_mistakes(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    run, home = trained.folder, tmp_path
    refused(run_cli("export", *out), 2, "--labels", home)
    refused(run_cli("export", run, "--labels", 2, *out), 2, "--labels", home)
    refused(run_cli("export", "--labels", 2, "--int8", *out), 2, "--int8", home)
    refused(run_cli("export", run, "--freeze", "none", *out), 2, "--freeze", home)
    refused(run_cli("export", run, "--file", trained.evaluation, *out), 2, "--int8", home)
    refused(run_cli("export", run, "--int8", "--file", "nowhere.csv", *out), 1, "nowhere.csv", home)
    refused(run_cli("export", tmp_path / "nowhere", *out), 1, "nowhere", home)
    (tmp_path / "other.csv").write_text("text,label\nhello,unheard of\nthere,unheard of\n")
    refused(run_cli("export", run, "--out", run / "model"), 2, "--out", home)
    refused(run_cli("export", run, "--int8", "--file", tmp_path / "other.csv", *out), 1, "unheard of", home)


def test_damage(copy: Path, ngrams_alone: Callable[..., Path], run_cli: RunCli, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    alone = ngrams_alone(fitted(SINGLE * 20, 4, 4))
    refused(run_cli("export", alone, "--int8", *out), 2, "n-grams alone", tmp_path)
    (copy / "onnx" / "model.onnx").write_bytes(b"no graph")
    refused(run_cli("export", copy, *out), 1, "model.onnx", tmp_path)


def test_what_is_there_already_is_kept(
    ngrams_alone: Callable[..., Path], run_cli: RunCli, tmp_path: Path
) -> None:
    run, out = ngrams_alone(fitted(SINGLE * 20, 4, 4)), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    done = run_cli("export", run, "--out", out)
    assert (done.code, (out / "thesis.txt").read_text()) == (1, "years of work")
    (out / "thesis.txt").unlink()
    assert run_cli("export", run, "--out", out).code == 0  # an empty folder
    done = run_cli("export", run, "--out", out)
    assert done.code == 1
    assert "--overwrite" in done.err
    (out / "notes.txt").write_text("of the user")
    assert run_cli("export", run, "--out", out, "--overwrite").code == 0
    assert (out / "notes.txt").read_text() == "of the user"
