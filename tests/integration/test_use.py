"""What is done with a finished run: predict, evaluate, carry artifacts, open the model elsewhere."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import RunCli, Trained

TEXTS = [
    "I was charged twice for the kettle",
    "the parcel never came to Leeds",
    "the handle of my blender is broken, I want another one please",
]


def labels_of(printed: str) -> list[str]:
    return [line.split()[0] for line in printed.splitlines()]


def test_predicts_arguments_and_stdin_alike(trained: Trained, run_cli: RunCli) -> None:
    code, out, err = run_cli("predict", trained.folder, *TEXTS)
    assert code == 0, err
    assert set(labels_of(out)) <= set(trained.result["label_names"])
    assert len(out.splitlines()) == 3
    piped = run_cli("predict", trained.folder, stdin="\n".join(TEXTS) + "\n")
    assert piped.out == out


def test_an_empty_text_has_a_row_and_no_label(trained: Trained, run_cli: RunCli) -> None:
    for given in ({"stdin": f"{TEXTS[0]}\n\n{TEXTS[1]}\n"}, {}):
        texts = () if given else (TEXTS[0], "", TEXTS[1])
        code, out, err = run_cli("predict", trained.folder, *texts, **given)
        assert code == 0, err
        assert labels_of(out)[1] == "(empty)"
        assert len(out.splitlines()) == 3
        assert "1 of 3" in err


def test_predicts_a_list_of_lines(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    expected = run_cli("predict", trained.folder, *TEXTS).out
    assert run_cli("predict", trained.folder, "--file", path).out == expected


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_predicts_a_table_into_a_file(trained: Trained, run_cli: RunCli, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"predictions{suffix}"
    code, printed, err = run_cli("predict", trained.folder, "--file", trained.evaluation, "--out", out)
    assert (code, printed) == (0, ""), err
    assert "100 predictions" in err
    text = out.read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text))) if suffix == ".csv" else None
    found = rows if rows is not None else [json.loads(line) for line in text.splitlines()]
    with trained.evaluation.open(encoding="utf-8", newline="") as file:
        truth = list(csv.DictReader(file))
    assert [row["text"] for row in found] == [row["text"] for row in truth]
    assert all(row.items() <= out_row.items() for row, out_row in zip(truth, found, strict=True))
    right = sum(row["predicted"] == row["label"] for row in found)
    assert right / 100 == pytest.approx(trained.result["accuracy"])


def test_unsure_and_a_column_per_class(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    command = ("predict", trained.folder, *TEXTS, "--out", out, "--all")
    code, _, err = run_cli(*command, "--unsure", 1)
    assert code == 0, err
    assert "3 of 3" in err
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == ["unsure"] * 3
    for row in rows:
        shares = [float(row[f"probability_{name}"]) for name in trained.result["label_names"]]
        assert max(shares) == float(row["probability"])
    assert run_cli("predict", trained.folder, *TEXTS, "--unsure", 2).code == 2
    assert run_cli("predict", trained.folder, *TEXTS, "--all").code == 2


def test_prints_json_lines(trained: Trained, run_cli: RunCli) -> None:
    lines = run_cli("predict", trained.folder, *TEXTS, "--json").out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == TEXTS


def test_evaluates_like_the_run(trained: Trained, run_cli: RunCli) -> None:
    code, out, err = run_cli("evaluate", trained.folder, trained.evaluation, "--json")
    assert code == 0, err
    found = json.loads(out)
    for name in ("accuracy", "macro_f1", "mcc", "n_eval", "confusion"):
        assert found[name] == trained.result[name]
    code, out, err = run_cli("evaluate", trained.folder, trained.evaluation)
    assert code == 0, err
    assert "billing" in out


def test_labels_that_no_training_row_has(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    """Their rows count as wrong, and both commands say how many there are."""
    with trained.evaluation.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    label_at = rows[0].index("label")
    for row in rows[1:11]:
        row[label_at] = "gardening"
    path = tmp_path / "other.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    code, out, err = run_cli("evaluate", trained.folder, path)
    assert code == 0, err
    assert "10 of 100" in out
    assert '"gardening" (10 rows)' in out
    code, out, err = run_cli(
        *("finetune", trained.train, "--eval", path, "--model", trained.model, "--max-steps", 2),
        *("--out", tmp_path / "run", "--json"),
    )
    assert code in (0, 3), err
    result = json.loads(out)
    assert result["n_eval"] == 100
    assert result["accuracy"] <= 0.9
    assert any('"gardening" (10 rows)' in warning for warning in result["warnings"])
    assert "gardening" not in result["label_names"]
    (unknown,) = [one for one in result["per_class"] if one["label"] == "gardening"]
    assert (unknown["recall"], unknown["support"]) == (0.0, 10)


def test_one_reading_option_keeps_the_others_of_the_run(
    trained: Trained, run_cli: RunCli, tmp_path: Path
) -> None:
    """The columns are remembered from training even where another option is given."""
    tables = {}
    for name, delimiter in (("train", ","), ("test", ";")):
        with trained.train.open(encoding="utf-8", newline="") as file:
            rows = [[row["label"], "x", row["text"]] for row in csv.DictReader(file)]
        tables[name] = tmp_path / f"{name}.csv"
        with tables[name].open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([["kind", "spare", "words"], *rows])
    code, _, err = run_cli(
        *("finetune", tables["train"], "--text", "words", "--label", "kind", "--model", trained.model),
        *("--max-steps", 1, "--no-ngrams", "--out", tmp_path / "run"),
    )
    assert code == 0, err
    code, _, err = run_cli("evaluate", tmp_path / "run", tables["test"], "--delimiter", ";")
    assert code == 0, err


def test_carried_artifacts_train_the_same(
    trained: Trained, run_cli: RunCli, tmp_path: Path, cache_dir: Path
) -> None:
    artifacts = tmp_path / "artifacts"
    code, out, err = run_cli("export", "--model", trained.model, "--labels", 4, "--out", artifacts)
    assert code == 0, err
    code, out, err = run_cli(
        *("finetune", trained.train, "--eval", trained.evaluation, "--artifacts", artifacts),
        *("--epochs", 2, "--lr", 0.003, "--seed", 3, "--out", tmp_path / "run", "--json"),
    )
    assert code == 0, err
    assert json.loads(out)["accuracy"] == trained.result["accuracy"]
    ours, theirs = (f / "model" / "model.safetensors" for f in (tmp_path / "run", trained.folder))
    assert ours.read_bytes() == theirs.read_bytes()
    code, _, err = run_cli("export", "--model", trained.model, "--labels", 4, "--out", artifacts)
    assert code == 1
    assert "--overwrite" in err
    code, _, err = run_cli(
        "export", "--model", trained.model, "--labels", 4, "--out", artifacts, "--overwrite"
    )
    assert code == 0, err


def expected_probabilities(trained: Trained, run_cli: RunCli) -> list[dict[str, float]]:
    """What edgetune says of the encoder's folder, which is what other programs open."""
    lines = run_cli("predict", trained.folder / "onnx", *TEXTS, "--json").out.splitlines()
    return [json.loads(line)["probabilities"] for line in lines]


def test_transformers_pipeline_agrees(trained: Trained, run_cli: RunCli) -> None:
    from transformers import pipeline

    ask = pipeline("text-classification", model=str(trained.folder / "model"), top_k=None, device="cpu")
    for found, expected in zip(ask(TEXTS), expected_probabilities(trained, run_cli), strict=True):
        assert {item["label"]: item["score"] for item in found} == pytest.approx(expected, abs=1e-4)


def test_bare_session_agrees(trained: Trained, run_cli: RunCli) -> None:
    from tokenizers import Tokenizer

    from edgetune.backends.ort.ort_runtime import import_ort
    from edgetune.utils.metrics import softmax

    home = trained.folder / "onnx"
    tokenizer = Tokenizer.from_file(str(home / "tokenizer.json"))
    session = import_ort().InferenceSession(str(home / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs = {item.name for item in session.get_inputs()}
    labels = json.loads((home / "config.json").read_text())["id2label"]
    for text, expected in zip(TEXTS, expected_probabilities(trained, run_cli), strict=True):
        encoded = tokenizer.encode(text)
        given = {
            "input_ids": encoded.ids,
            "attention_mask": encoded.attention_mask,
            "token_type_ids": encoded.type_ids,
        }
        feeds = {name: np.array([given[name]], dtype=np.int64) for name in inputs}
        found = softmax(session.run(["logits"], feeds)[0])[0]
        assert {labels[str(n)]: p for n, p in enumerate(found)} == pytest.approx(expected, abs=1e-4)


OPTIMUM = """
import json, sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
model = ORTModelForSequenceClassification.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
batch = tokenizer(json.load(sys.stdin), padding=True, truncation=True, return_tensors="pt")
rows = model(**batch).logits.softmax(-1).tolist()
print(json.dumps([{model.config.id2label[n]: p for n, p in enumerate(row)} for row in rows]))
"""


def test_optimum_agrees(trained: Trained, run_cli: RunCli, run_process: RunCli, tmp_path: Path) -> None:
    done = run_process("-c", OPTIMUM, trained.folder / "onnx", cwd=tmp_path, stdin=json.dumps(TEXTS))
    assert done.code == 0, done.err[-2000:]
    found = json.loads(done.out.splitlines()[-1])
    for row, expected in zip(found, expected_probabilities(trained, run_cli), strict=True):
        assert row == pytest.approx(expected, abs=1e-4)


def test_cli_runs_as_a_module(run_process: RunCli, tmp_path: Path) -> None:
    done = run_process("-m", "edgetune", "--version", cwd=tmp_path)
    assert done.code == 0
    assert done.out.startswith("edgetune ")
    assert sys.version_info >= (3, 10)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (("-5% today",), ["-5% today"]),
        (("first", "-5%", "--json", "third"), ["first", "-5%", "third"]),
        (("--json", "-- never again", "- no", "-not good"), ["-- never again", "- no", "-not good"]),
        (("--", "-meh", "--json"), ["-meh", "--json"]),
        (("-5", "--", "--json"), ["-5", "--json"]),
    ],
)
def test_texts_may_begin_with_a_dash(
    monkeypatch: pytest.MonkeyPatch, run_cli: RunCli, words: tuple[str, ...], texts: list[str]
) -> None:
    import edgetune.inference.saved_run as saved_run

    found: list[str] = []

    class Listener:
        label_names = ("a", "b")
        multi_label = False

        def predict_all(self, given: Iterable[str]) -> Iterator[saved_run.Prediction]:
            for text in given:
                found.append(text)
                yield saved_run.NO_PREDICTION

    monkeypatch.setattr(saved_run, "load_run", lambda folder: Listener())
    outcome = run_cli("predict", "runs/r", *words)
    assert outcome.code == 0, outcome.err
    assert found == texts


@pytest.mark.parametrize("word", ["-meh", "--fiel", "--fiel=x.csv"])
def test_what_looks_like_an_option_is_none_of_the_texts(run_cli: RunCli, word: str) -> None:
    outcome = run_cli("predict", "runs/r", "good", word)
    assert (outcome.code, outcome.out) == (2, "")
    assert " -- " in outcome.err
    assert outcome.err.count("\n") == 1


def test_option_values_may_begin_with_a_dash(run_cli: RunCli) -> None:
    assert "no-such-run" in run_cli("predict", "no-such-run", "--file", "-1 file.csv").err
