from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Trained

from edgetune import load_run
from edgetune.data.examples import DataOptions
from edgetune.inference.saved_run import CHUNK
from edgetune.utils.errors import DataError, RunError, UsageError

TEXTS = [
    "I was charged twice for the kettle",
    "the parcel never came",
    "?",
    "my password does not work " * 40,
]


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A run that a test may damage."""
    return Path(shutil.copytree(trained.folder, tmp_path / "run"))


def test_predicts_labels_with_probabilities(trained: Trained) -> None:
    run = load_run(trained.folder)
    *found_all, empty = run.predict([*TEXTS, " "])
    assert (empty.label, empty.probabilities) == (None, {})
    for found in found_all:
        assert tuple(found.probabilities) == run.label_names == ("billing", "defect", "delivery", "login")
        assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert found.probability == max(found.probabilities.values()) == found.probabilities[found.label]


def test_order_and_company_do_not_matter(trained: Trained) -> None:
    run = load_run(str(trained.folder))
    texts = [f"{TEXTS[n % 4]} {n}" for n in range(CHUNK + 7)]
    together = run.predict(texts)
    assert len(together) == len(texts)
    for number in (0, 1, 3, CHUNK - 1, CHUNK, CHUNK + 6):
        alone = run.predict([texts[number]])[0]
        assert alone.label == together[number].label
        assert alone.probability == pytest.approx(together[number].probability, abs=1e-5)


def test_nothing_in_nothing_out(trained: Trained) -> None:
    assert load_run(trained.folder).predict([]) == []


def test_a_path_that_is_not_utf8_is_told_as_such(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    with pytest.raises(RunError, match="not UTF-8"):
        load_run(folder)


def test_an_encoder_without_labels_is_told_as_such(tiny_model: Path) -> None:
    with pytest.raises(RunError, match=r"labels"):
        load_run(tiny_model)


def test_a_lone_string_is_a_slip(trained: Trained) -> None:
    with pytest.raises(UsageError, match="list of texts"):
        load_run(trained.folder).predict("text")


def test_knows_its_settings_and_summary(trained: Trained) -> None:
    run = load_run(trained.folder)
    assert run.config is not None
    assert run.config.train.epochs == 2
    assert run.summary == json.loads((trained.folder / "summary.json").read_text())
    assert run.max_length == trained.result["max_length"]
    assert run.pad_id == 0


@pytest.mark.parametrize("part", ["model", "onnx"])
def test_opens_a_model_folder_alone(trained: Trained, copied: Path, part: str) -> None:
    shutil.rmtree(copied / "ensemble")
    expected = load_run(copied).predict(TEXTS[:2])
    alone = load_run(trained.folder / part)
    assert alone.config is None
    assert alone.data_options() == DataOptions()
    for one, other in zip(alone.predict(TEXTS[:2]), expected, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


def test_falls_back_on_the_torch_weights(copied: Path, trained: Trained) -> None:
    shutil.rmtree(copied / "ensemble")
    expected = load_run(copied).predict(TEXTS)
    shutil.rmtree(copied / "onnx")
    for one, other in zip(load_run(copied).predict(TEXTS), expected, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


def test_evaluates_as_the_run_read_its_data(trained: Trained) -> None:
    found = load_run(trained.folder).evaluate(str(trained.evaluation))
    assert found.accuracy == trained.result["accuracy"]
    assert found.n == 100
    assert np.sum(found.confusion) == 100


def test_rows_with_a_label_it_does_not_know_are_wrong(trained: Trained, tmp_path: Path) -> None:
    rows = trained.evaluation.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "other.csv"
    path.write_text("\n".join([*rows, *["good bye,gardening"] * 100]) + "\n", encoding="utf-8")
    run, known = load_run(trained.folder), load_run(trained.folder).evaluate(str(trained.evaluation))
    found = run.evaluate(str(path))
    assert (found.n, found.accuracy) == (200, known.accuracy / 2)
    assert found.unknown_labels == {"gardening": 100}
    assert found.loss == pytest.approx(known.loss)
    predicted, true = run.answers(str(path))
    assert np.mean(predicted == true) == found.accuracy


def test_an_evaluation_without_a_label_that_it_knows(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("text,label\nhello there,cooking\ngood bye,gardening\n" * 20)
    with pytest.raises(DataError, match="gardening"):
        load_run(trained.folder).evaluate(str(path))


def test_no_such_folder(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"contains the runs .*{trained.folder.name}"):
        load_run(trained.folder.with_name("nope"))
    with pytest.raises(RunError, match="edgetune finetune"):
        load_run(tmp_path / "not" / "there")


def test_folders_without_a_model(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(RunError, match="model"):
        load_run(tmp_path)
    shutil.rmtree(copied / "ensemble")  # else the encoder may not be asked at all
    (copied / "onnx" / "model.onnx").unlink()
    (copied / "model" / "model.safetensors").unlink()
    with pytest.raises(RunError, match="no weights"):
        load_run(copied)


def test_a_folder_without_its_tokenizer(copied: Path) -> None:
    shutil.rmtree(copied / "ensemble")  # else the encoder may not be asked at all
    for part in ("onnx", "model"):
        (copied / part / "tokenizer.json").unlink()
    with pytest.raises(RunError, match=r"no tokenizer\.json"):
        load_run(copied).predict(TEXTS)


@pytest.mark.parametrize("name", ["model.onnx", "config.json", "tokenizer.json", "../summary.json"])
def test_damaged_files_are_named(copied: Path, name: str) -> None:
    shutil.rmtree(copied / "ensemble")  # else the encoder may not be asked at all
    path = copied / "onnx" / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RunError, match=rf"{path.name} is damaged"):
        load_run(copied).predict(TEXTS)
