"""The answer of `edgetune finetune --deadline` beside what else could be had in the same time.

    shared/data → the same rows as JSONL for every system → one child process each → answers to the test rows

Every system gets the same files and the same deadline, from the start of its process to a fitted model.
Predicting the test rows is outside the deadline for all of them. A linear SVM stops when it has converged,
whenever that is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import finetune
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from edgetune import load_run
from edgetune.data.examples import DataOptions, read_examples
from edgetune.data.token_format import PAIR_SEPARATOR
from edgetune.inference.saved_run import Run
from edgetune.utils.machine import machine_info
from edgetune.utils.metrics import expected_calibration_error
from edgetune.utils.types import FloatArray

Answer = dict[str, Any]

HERE = Path(__file__).parent
TIMED_TEXTS = 512


@dataclass(frozen=True)
class DataSet:
    """A labelled set below the data folder.

    Attributes:
        train: file to learn from.
        test: file to answer.
        options: how both are read.
    """

    train: str
    test: str
    options: DataOptions = field(default_factory=DataOptions)


SETS = {
    "clinc150": DataSet("clinc150/train.jsonl", "clinc150/test.jsonl"),
    "ohsumed23": DataSet("ohsumed23/train.jsonl", "ohsumed23/test.jsonl"),
    "r8": DataSet("r8/train.jsonl", "r8/test.jsonl"),
    "chnsenticorp": DataSet("chnsenticorp/train.jsonl", "chnsenticorp/test.jsonl"),
    "sst2": DataSet("sst2/train.tsv", "sst2/dev.tsv"),
    "qnli": DataSet(
        "qnli/train.tsv", "qnli/dev.tsv", DataOptions(("question", "sentence"), "label", pair=True)
    ),
    "qqp": DataSet(
        "qqp/train.tsv", "qqp/dev.tsv", DataOptions(("question1", "question2"), "is_duplicate", pair=True)
    ),
    "ag_news": DataSet("ag_news/train.csv", "ag_news/test.csv", DataOptions(("2", "3"), "1", header=False)),
    "amazon_polarity": DataSet("amazon_polarity/train.parquet", "amazon_polarity/test.parquet"),
}
BASELINES = ("encoder-logreg", "hf-trainer", "setfit")
OUTSIDE = ("linear-svm", "fasttext", "autogluon")
SYSTEMS = ("edgetune", *OUTSIDE, *BASELINES)


@dataclass(frozen=True)
class Task:
    """One set as every system sees it.

    Attributes:
        train: JSONL with `text`, `label` and, for pairs, `text_pair`.
        test: the same.
        pair: whether rows have two texts.
        texts: of the test rows.
        gold: labels of the test rows.
        out_of_scope: texts that fit no class, where the set has some.
    """

    train: Path
    test: Path
    pair: bool
    texts: list[str | tuple[str, str]]
    gold: list[str]
    out_of_scope: list[str]


def main(arguments: argparse.Namespace) -> None:
    """Measure every wanted system on every wanted set; append one line of JSON a run."""
    pythons = dict(item.split("=", 1) for item in arguments.python)
    machine = machine_info()
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / "frontier.jsonl"
    for name in arguments.sets or SETS:
        with tempfile.TemporaryDirectory() as scratch:
            for seed in arguments.seeds:
                task = _write(Path(arguments.shared), SETS[name], Path(scratch), arguments, seed)
                for deadline_s in arguments.deadlines or (60.0,):
                    for system in arguments.systems or SYSTEMS:
                        out = Path(scratch) / f"{system}-{deadline_s:g}-{seed}"
                        out.mkdir()
                        python = pythons.get(system, sys.executable)
                        answer = measure(system, task, deadline_s, seed, out, python)
                        row = {
                            "set": name,
                            "system": system,
                            "deadline_s": deadline_s,
                            "seed": seed,
                            **answer,
                            "n_test": len(task.gold),
                            "n_rows": arguments.train_rows,
                            "cpu": f"{machine['cpu']}, {machine['cores']} cores",
                            "features": machine.get("features"),
                            "date": time.strftime("%Y-%m-%d"),
                        }
                        line = json.dumps(row).replace(f"{scratch}/", "")  # a path of this machine
                        print(line, flush=True)
                        with target.open("a", encoding="utf-8") as file:
                            file.write(f"{line}\n")


def _write(shared: Path, data: DataSet, scratch: Path, arguments: argparse.Namespace, seed: int) -> Task:
    """Write a set's two files as JSONL; `arguments` say how many rows, which the seed then draws."""
    pair, read, n_rows, most_test = data.options.pair, {}, arguments.train_rows, arguments.most_test
    for part, source in (("train", data.train), ("test", data.test)):
        rows = list(read_examples(str(shared / source), data.options, lambda bad: None))
        if part == "train" and n_rows is not None:
            order = np.random.default_rng(seed).permutation(len(rows))[:n_rows]
            rows = [rows[i] for i in order.tolist()]
        read[part] = rows = rows[:most_test] if part == "test" else rows
        with (scratch / f"{part}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                second = {"text_pair": row.text_pair or ""} if pair else {}
                file.write(json.dumps({"text": row.text, **second, "label": row.label}) + "\n")
    test, others = read["test"], (shared / data.train).parent / "out_of_scope.jsonl"
    outside = others.read_text(encoding="utf-8").splitlines() if others.is_file() else []
    return Task(
        train=scratch / "train.jsonl",
        test=scratch / "test.jsonl",
        pair=pair,
        texts=[(row.text, row.text_pair or "") if pair else row.text for row in test],
        gold=[row.label for row in test],
        out_of_scope=[json.loads(line)["text"] for line in outside],
    )


def measure(system: str, task: Task, deadline_s: float, seed: int, out: Path, python: str) -> Answer:
    """Run one system; return seconds, accuracy and macro-F1, or what went wrong."""
    run = _edgetune if system == "edgetune" else _baseline if system in BASELINES else _outside
    started = time.time()
    try:
        return run(system, task, deadline_s, seed, out, python)
    except (subprocess.CalledProcessError, SystemExit) as error:
        said = str(error) if isinstance(error, SystemExit) else error.stderr
        lines = (said or "").strip().splitlines()
        return {"seconds": round(time.time() - started, 1), "error": lines[-1] if lines else str(error)}


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True)


def _scores(predicted: Sequence[str], gold: Sequence[str]) -> Answer:
    """Return accuracy and macro-F1 over the classes of the test rows."""
    return {
        "accuracy": round(float(accuracy_score(gold, predicted)), 4),
        "macro_f1": round(
            float(f1_score(gold, predicted, labels=sorted(set(gold)), average="macro", zero_division=0)), 4
        ),
    }


def _edgetune(system: str, task: Task, deadline_s: float, seed: int, out: Path, python: str) -> Answer:
    """Run the command line with empty caches; answer with the whole run, its encoder, its n-grams."""
    run = out / "run"
    columns = ["--text", "text,text_pair", "--pair"] if task.pair else ["--text", "text"]
    arguments = [str(task.train), "--eval", str(task.test), *columns, "--label", "label"]
    arguments += ["--deadline", f"{deadline_s:g}s", "--seed", str(seed), "--out", str(run)]
    summary, seconds = finetune(*arguments, cache=out / "cache")
    whole = load_run(run)
    timed = task.texts[:TIMED_TEXTS]
    times: dict[str, float | None] = {"ms_a_text": _ms_a_text(whole, timed), "ms_a_text_encoder": None}
    members: dict[str, Answer] = {}
    log_p = None
    if whole.needs_encoder:
        encoder = load_run(run / "onnx")
        times["ms_a_text_encoder"] = _ms_a_text(encoder, timed)
        log_p = np.log([[*one.probabilities.values()] for one in encoder.predict_all(task.texts)])
        members["encoder"] = _scores(_labels(whole, log_p), task.gold)
    if whole.ensemble is not None:
        joined = [text if isinstance(text, str) else PAIR_SEPARATOR.join(text) for text in task.texts]
        members["n-grams"] = _scores(_labels(whole, whole.ensemble.ngrams.log_proba(joined)), task.gold)
        log_p = whole.ensemble.log_proba(joined, log_p)
    assert log_p is not None
    labels = _labels(whole, log_p)
    probabilities = np.exp(log_p)
    largest = probabilities.max(axis=1)
    numbers = {name: number for number, name in enumerate(whole.label_names)}
    gold = np.array([numbers.get(name, -1) for name in task.gold])  # a class that no training row has
    if task.out_of_scope:
        others = [one.probability for one in whole.predict_all(task.out_of_scope)]
        inside = np.repeat([1, 0], [len(largest), len(others)])
        members["out of scope"] = {"auroc": round(float(roc_auc_score(inside, [*largest, *others])), 4)}
    return {
        "seconds": round(seconds, 1),
        **_scores(labels, task.gold),
        "ece": round(expected_calibration_error(probabilities, gold), 4),
        "members": members,
        "weights": {
            one["name"]: one.get("weight") for one in (summary.get("ensemble") or {}).get("learners", [])
        },
        **times,
        "lines": {line["line"]: line["real_s"] for line in (summary["planned"] or {}).get("lines", [])},
        "n_trained": summary["n_trained"],
        "notes": summary["warnings"],
    }


def _labels(run: Run, log_p: FloatArray) -> list[str]:
    return [run.label_names[number] for number in log_p.argmax(axis=1).tolist()]


def _ms_a_text(run: Run, texts: Sequence[str | tuple[str, str]]) -> float:
    """Return milliseconds a text of predicting, the runtime being ready."""
    run.predict(texts[:64])
    started = time.perf_counter()
    run.predict(texts)
    return round(1e3 * (time.perf_counter() - started) / len(texts), 3)


def _baseline(system: str, task: Task, deadline_s: float, seed: int, out: Path, python: str) -> Answer:
    """Run one of `edgetune.compare.baselines`, which know the deadline."""
    columns = ["text", "text_pair"] if task.pair else ["text"]
    given = {
        "data": {"train": str(task.train), "text": columns, "label": "label", "pair": task.pair},
        "eval": str(task.test),
        "out": str(out),
        "seed": seed,
        "deadline_s": deadline_s,
    }
    (out / "task.json").write_text(json.dumps(given), encoding="utf-8")
    _run([python, "-m", "edgetune.compare.baselines", system, str(out / "task.json")])
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    predicted = json.loads((out / "predicted.json").read_text(encoding="utf-8"))
    return {
        "seconds": round(result["elapsed_s"], 1),
        **_scores(predicted, task.gold),
        "notes": result["notes"],
    }


def _outside(system: str, task: Task, deadline_s: float, seed: int, out: Path, python: str) -> Answer:
    """Run `frontier_rivals.py`, in an environment of the system's own."""
    command = [python, str(HERE / "frontier_rivals.py"), system, str(task.train), str(task.test), str(out)]
    _run([*command, str(deadline_s), str(seed)])
    result = json.loads((out / "answer.json").read_text(encoding="utf-8"))
    return {
        "seconds": round(result["seconds"], 1),
        **_scores(result["predicted"], task.gold),
        "notes": result["notes"],
    }
