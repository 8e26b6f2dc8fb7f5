"""The main job through the command line, on a tiny model: every method, both backends, again and again."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RunCli, Trained

from edgetune.config.toml_config import load_config
from edgetune.run_files.history import read_history
from edgetune.selection import METHODS
from edgetune.utils.formatting import duration

PROMISED = {
    *("method", "backend", "accuracy", "macro_f1", "mcc", "n_eval", "elapsed_s", "time_split_s", "n_train"),
    *("n_seen", "n_scored", "n_trained", "n_steps", "skipped_backward_rate", "skipped_both_rate", "stages"),
    *("threshold", "peak_memory_mb", "run_dir"),
}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_history(run / "history.jsonl") if line["kind"] == "step"]


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("backend", "method"),
    # What a method asks of a backend is the backends' contract (tests/conformance), whichever asks it.
    [
        *(("ort", method) for method in METHODS),
        *(("torch", name) for name in ("train-all", "three-stage", "svp")),
    ],
)
def test_every_method(
    backend: str, method: str, tiny_model: Path, demo_csv: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    onnx = ["--no-onnx"] if backend == "torch" and method != "three-stage" else []
    ngrams = [] if method == "train-all" else ["--no-ngrams"]
    at_once = ["--set", "warmup_gain=0"] if method in ("auto-threshold", "three-stage") else []
    code, printed, err = run_cli(
        *("finetune", demo_csv, "--model", tiny_model, "--backend", backend, "--method", method, *onnx),
        *at_once,
        *ngrams,
        *("--epochs", 2, "--batch-size", 16, "--lr", 0.002, "--out", out, "--json"),
    )
    assert code == 0, err
    result = json.loads(printed)
    assert result.keys() >= PROMISED
    assert (result["method"], result["backend"], result["run_dir"]) == (method, backend, str(out))
    n_held_out = 0 if ngrams else result["ensemble"]["n_held_out"]
    assert result["n_train"] + n_held_out + result["n_eval"] == 300
    assert result["n_seen"] == 2 * result["n_train"]
    n_right = sum(row[i] for i, row in enumerate(result["confusion"]))
    assert sum(map(sum, result["confusion"])) == result["n_eval"]
    assert result["accuracy"] == pytest.approx(n_right / result["n_eval"])
    assert sum(result["time_split_s"].values()) == pytest.approx(result["elapsed_s"], rel=0.01)
    assert min(result["time_split_s"].values()) >= 0
    trained_rate = result["n_trained"] / result["n_seen"]
    skipped = result["skipped_backward_rate"] + result["skipped_both_rate"]
    left_rate = result["n_left"] / result["n_seen"]
    assert trained_rate + skipped + left_rate == pytest.approx(1)
    assert left_rate == 0 or "reference" in {stage["stage"] for stage in result["stages"]}
    assert sum(one["n_seen"] for one in result["by_label"]) == result["n_seen"]
    assert sum(one["n_seen"] for one in result["by_length"]) == result["n_seen"]
    assert len(losses(out)) == result["n_steps"]
    assert result == json.loads((out / "summary.json").read_text())
    if method == "train-all":
        assert skipped == 0
    if method in ("auto-threshold", "three-stage"):
        assert result["threshold"] > 0
    folders = {"model"} | ({"onnx"} if not onnx else set()) | ({"ensemble"} if not ngrams else set())
    files = {"config.toml", "history.jsonl", "summary.json", "metrics.json", "rows.npz", "run.png", ".lock"}
    assert names(out) == files | folders
    assert names(out / "model") >= {"config.json", "model.safetensors", "README.md"} | TOKENIZER
    if not onnx:
        assert names(out / "onnx") >= {"config.json", "model.onnx"} | TOKENIZER
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "billing", "1": "defect", "2": "delivery", "3": "login"}


@pytest.mark.parametrize("method", ["auto-threshold", "three-stage"])
def test_a_filter_leaves_a_model_alone_that_has_learned_nothing(
    method: str, tiny_model: Path, demo_csv: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    code, out, err = run_cli(
        *("finetune", demo_csv, "--model", tiny_model, "--backend", "ort", "--method", method, "--epochs", 2),
        *("--lr", 1e-9, "--no-ngrams", "--out", tmp_path / "run", "--json"),
    )
    assert code == 0, err
    result = json.loads(out)
    assert (result["n_trained"], result["n_scored"], result["threshold"]) == (result["n_seen"], 0, None)
    assert [stage["stage"] for stage in result["stages"]] == ["warmup"]
    why = json.loads((tmp_path / "run" / "summary.json").read_text())["selection"]["why"]
    most = float(why.split("; ")[1].split()[0])
    assert most == pytest.approx(math.log(4) / 2, rel=0.02)  # four labels, nearly as many rows of each


def encoder_accuracy(result: dict[str, Any]) -> float:
    """Of the encoder alone."""
    return next(float(one["accuracy"]) for one in result["ensemble"]["learners"] if one["name"] == "encoder")


def test_history_tells_the_whole_run(trained: Trained) -> None:
    lines = read_history(trained.folder / "history.jsonl")
    kinds = [line["kind"] for line in lines]
    assert kinds.count("eval") == 2
    assert kinds.count("stage") == len(trained.result["stages"])
    steps = [line for line in lines if line["kind"] == "step"]
    assert steps[-1]["n_trained"] == trained.result["n_trained"]
    assert [line["t_s"] for line in lines] == sorted(line["t_s"] for line in lines)
    assert max(line["lr"] for line in steps) == pytest.approx(0.003)
    by_epoch = {line["epoch"]: line["accuracy"] for line in lines if line["kind"] == "eval"}
    assert encoder_accuracy(trained.result) == by_epoch[trained.result["best_epoch"]]
    assert not trained.result["best_epoch_chosen_on_eval"]  # held-out rows chose it


def test_model_card_tells_what_it_is(trained: Trained) -> None:
    card = (trained.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert "billing" in card
    assert f"{100 * trained.result['accuracy']:.1f}" in card or f"{trained.result['accuracy']:.3f}" in card


def test_card_and_summary_tell_one_time(trained: Trained) -> None:
    card = (trained.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert f"Time: {duration(trained.result['elapsed_s'])}\n" in card
    assert f"Peak memory: {trained.result['peak_memory_mb']:,.0f} MB" in card


def test_the_config_names_the_class_that_was_trained(trained: Trained) -> None:
    config = json.loads((trained.folder / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_config_is_whole_and_repeats_the_run_bit_for_bit(
    trained: Trained, run_cli: RunCli, tmp_path: Path
) -> None:
    settings = load_config(trained.folder / "config.toml")
    assert settings["model"]["backend"] == "ort"
    assert settings["train"] == {**settings["train"], "epochs": 2, "lr": 0.003, "seed": 3}
    again = tmp_path / "again"
    code, out, err = run_cli("finetune", "--config", trained.folder / "config.toml", "--out", again, "--json")
    assert code == 0, err
    assert weights(again) == weights(trained.folder)
    assert losses(again) == losses(trained.folder)
    assert json.loads(out)["accuracy"] == trained.result["accuracy"]
    assert (again / "config.toml").read_bytes() == (trained.folder / "config.toml").read_bytes()


def test_the_last_pass_can_be_kept(tiny_model: Path, demo_csv: Path, run_cli: RunCli, tmp_path: Path) -> None:
    code, out, err = run_cli(
        *("finetune", demo_csv, "--model", tiny_model, "--backend", "ort", "--epochs", 3, "--batch-size", 16),
        *("--set", "keep=last", "--no-ngrams", "--out", tmp_path / "run", "--json"),
    )
    assert code == 0, err
    evaluations = [
        line for line in read_history(tmp_path / "run" / "history.jsonl") if line["kind"] == "eval"
    ]
    assert [line["epoch"] for line in evaluations] == [3]
    assert json.loads(out)["best_epoch_chosen_on_eval"] is False


def test_same_seed_same_run(tiny_model: Path, demo_csv: Path, run_cli: RunCli, tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        code, _, err = run_cli(
            *("finetune", demo_csv, "--model", tiny_model, "--backend", "ort", "--method", "random"),
            *("--batch-size", 16, "--seed", seed, "--out", tmp_path / name, "--quiet", "--no-ngrams"),
        )
        assert code == 0, err
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    assert losses(tmp_path / "one") != losses(tmp_path / "other")


def test_second_run_reads_caches(
    trained: Trained, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edgetune.data.tokens as tokens
    from edgetune.backends.ort.artifacts import ArtifactBuilder

    monkeypatch.setattr(tokens, "build_tokens", lambda *_: pytest.fail("tokenized again"))
    monkeypatch.setattr(ArtifactBuilder, "warm_up", lambda _: pytest.fail("exported again"))
    code, _, err = run_cli(
        *("finetune", trained.train, "--eval", trained.evaluation, "--model", trained.model),
        *("--backend", "ort", "--max-steps", 2, "--no-ngrams", "--out", tmp_path / "run"),
    )
    assert code == 0, err
    assert "Exporting" not in err


def test_freezing_a_layer(tiny_model: Path, demo_csv: Path, run_cli: RunCli, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    start = load_file(tiny_model / "model.safetensors")
    for backend in ("ort", "torch"):
        out = tmp_path / backend
        code, printed, err = run_cli(
            *("finetune", demo_csv, "--model", tiny_model, "--backend", backend, "--freeze", 1),
            *("--out", out, "--json", "--max-steps", 3, "--no-ngrams"),
        )
        assert code == 0, err
        assert json.loads(printed)["freeze"] == "1"
        end = load_file(out / "model" / "model.safetensors")
        for name, value in start.items():
            changed = (end[f"bert.{name}"] != value).any()
            assert changed == (name.startswith(("encoder.layer.1.", "pooler."))), name


def test_pairs_of_sentences(tiny_model: Path, demo_csv: Path, run_cli: RunCli, tmp_path: Path) -> None:
    with demo_csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    path = tmp_path / "pairs.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["question", "sentence", "label"])
        for one, other in zip(rows[:100], rows[100:200], strict=True):
            same = "same" if one["label"] == other["label"] else "different"
            writer.writerow([one["text"], other["text"], same])
    found: dict[str, list[float]] = {}
    for backend in ("ort", "torch"):
        out = tmp_path / backend
        code, _, err = run_cli(
            *("finetune", path, "--text", "question,sentence", "--label", "label", "--pair"),
            *("--model", tiny_model, "--backend", backend, "--out", out, "--max-length", 64),
            *("--json", "--no-ngrams"),
        )
        assert code == 0, err
        found[backend] = losses(out)
        code, printed, err = run_cli("evaluate", out, path, "--json")
        assert code == 0, err
        assert json.loads(printed)["n_eval"] == 100
        code, printed, err = run_cli("predict", out, "--file", path, "--json")
        assert code == 0, err
        lines = [json.loads(line) for line in printed.splitlines()]
        assert len(lines) == 100
        assert (lines[0]["question"], lines[0]["sentence"]) == (rows[0]["text"], rows[100]["text"])
    np.testing.assert_allclose(found["ort"], found["torch"], atol=1e-4)


def test_python_in_three_lines(trained: Trained, tmp_path: Path) -> None:
    from edgetune import finetune, load_run

    result = finetune(trained.train, model=str(trained.model), out=tmp_path / "run", max_steps=3, seed=1)
    found = load_run(result.run_dir).predict(["the invoice is wrong", "it never came"])
    assert [item.label in result.label_names for item in found] == [True, True]
    assert result.n_steps == 3
    assert sum(result.time_split_s.values()) == pytest.approx(result.elapsed_s, rel=0.01)
    assert result.elapsed_s < 60


def test_overwrite_replaces_a_run(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    steps = ("--max-steps", 1, "--no-ngrams")
    command = ("finetune", trained.train, "--model", trained.model, *steps, "--out", out)
    assert run_cli(*command).code in (0, 3)
    (out / "notes.txt").write_text("mine")
    first = weights(out)
    code, _, err = run_cli(*command, "--seed", 1, "--overwrite")
    assert code in (0, 3), err
    assert weights(out) != first
    assert (out / "notes.txt").read_text() == "mine"
    assert len(losses(out)) == 1


def test_goes_on_from_a_run(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    code, printed, err = run_cli(
        *("finetune", trained.train, "--eval", trained.evaluation, "--model", trained.folder),
        *("--lr", 1e-9, "--max-steps", 1, "--out", tmp_path / "run", "--json"),
    )
    assert code == 0, err
    assert encoder_accuracy(json.loads(printed)) == pytest.approx(encoder_accuracy(trained.result))


def test_plain_lines_and_table(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    code, out, err = run_cli(
        *("finetune", trained.train, "--model", trained.model, "--max-steps", 2, "--out", tmp_path / "run")
    )
    assert code == 0, err
    assert "accuracy" in out.lower()
    assert str(tmp_path / "run") in out.replace("\n", "")
    assert "\x1b" not in out + err


def test_quiet_says_nothing(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    code, out, err = run_cli(
        *("finetune", trained.train, "--model", trained.model, "--max-steps", 1, "--quiet"),
        *("--out", tmp_path / "run"),
    )
    assert (code, out, err) == (0, "", "")


def test_bad_rows_are_listed(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    """And so are rows without a label, which are not bad; the columns that were guessed are kept."""
    path = tmp_path / "holes.csv"
    rows = trained.train.read_text(encoding="utf-8").splitlines()[1:]
    unlabelled = [f"ticket number {n},nan" for n in range(20)]
    path.write_text("\n".join(["Customer message,Art", *rows, ",billing", *unlabelled]), encoding="utf-8")
    code, printed, err = run_cli(
        *("finetune", path, "--model", trained.model, "--max-steps", 1, "--no-ngrams"),
        *("--out", tmp_path / "run", "--json"),
    )
    assert code == 0, err
    found = json.loads(printed)
    assert (found["n_bad_rows"], found["n_unlabelled_rows"]) == (1, 20)
    lines = (tmp_path / "run" / "bad_rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in lines] == list(range(302, 323))
    assert "bad_rows.jsonl" in err
    assert '"Customer message"' in err
    config = load_config(tmp_path / "run" / "config.toml")["data"]
    assert (config["text"], config["label"]) == (["Customer message"], "Art")
    code, _, err = run_cli("evaluate", tmp_path / "run", path, "--max-bad-rows", 0.1)
    assert code == 0, err
    assert "20 rows" in err
    code, printed, err = run_cli("predict", tmp_path / "run", "--file", path, "--json")
    assert code == 0, err
    predicted = [json.loads(line) for line in printed.splitlines()]
    assert [row["line"] for row in predicted] == list(range(2, 323))
    assert [row["predicted"] is None for row in predicted[299:302]] == [False, True, False]


def test_model_without_a_fast_tokenizer(
    trained: Trained, model_copy: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    """An older model brings only vocab.txt; what is saved must be whole all the same."""
    vocab = json.loads((model_copy / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (model_copy / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)), encoding="utf-8")
    for path in model_copy.glob("tokenizer*.json"):
        path.unlink()
    for backend in ("ort", "torch"):
        out = tmp_path / backend
        code, _, err = run_cli(
            *("finetune", trained.train, "--model", model_copy, "--backend", backend, "--max-steps", 1),
            *("--out", out, "--no-ngrams"),
        )
        assert code == 0, err
        code, printed, err = run_cli("predict", out, "the invoice is wrong")
        assert code == 0, err
        assert "the invoice is wrong" in printed


def test_hub_model(
    tiny_model: Path, demo_csv: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tiny_model))
    code, printed, err = run_cli(
        *("finetune", demo_csv, "--model", "org/tiny", "--backend", "ort", "--max-steps", 1, "--no-ngrams"),
        *("--out", tmp_path / "run", "--json"),
    )
    assert code == 0, err
    result: dict[str, Any] = json.loads(printed)
    assert result["model"] == "org/tiny"


def test_other_labels_than_the_model_had(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    """A head of another size is drawn anew, from the seed, the same on both backends."""
    path = tmp_path / "two.csv"
    lines = trained.train.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.endswith((",label", ",login", ",billing"))]
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    for backend in ("ort", "torch"):
        code, _, err = run_cli(
            *("finetune", path, "--model", trained.folder, "--backend", backend),
            *("--batch-size", 8, "--max-steps", 5, "--no-ngrams", "--out", tmp_path / backend),
        )
        assert code == 0, err
    np.testing.assert_allclose(losses(tmp_path / "ort"), losses(tmp_path / "torch"), atol=1e-4)
