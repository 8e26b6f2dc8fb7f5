"""Precision of `edgetune inspect`: 5 % of the labels are flipped, and the same number of rows is suspected.

The rival is `cleanlab.filter.find_label_issues` on the same out-of-fold probabilities, in an interpreter of
its own (`--python cleanlab=PATH`). Every seed flips other labels, each to one of the other classes at random.
A suspected row counts as wrong unless its label was flipped, though real data have wrong labels of their own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from frontier import SETS

from edgetune.backends.ort.forward_only import ForwardOnly
from edgetune.data.examples import read_examples
from edgetune.data.labels import label_order
from edgetune.inference.inspection import encoder_features
from edgetune.inference.label_errors import find_label_errors, out_of_fold_probabilities
from edgetune.models.checks import open_tokenizer
from edgetune.models.source import resolve_model
from edgetune.utils.machine import machine_info

FLIPPED_RATE, MAX_LENGTH = 0.05, 128
CLEANLAB = """
import sys, numpy
from cleanlab.filter import find_label_issues
found = numpy.load(sys.argv[1])
ranked = find_label_issues(
    found["labels"], found["probabilities"], return_indices_ranked_by="self_confidence", n_jobs=1
)
print(*ranked)
"""


def main(arguments: argparse.Namespace) -> None:
    interpreters = dict(one.split("=", 1) for one in arguments.python)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "label-errors.jsonl").open("a", encoding="utf-8") as file:
        for name in arguments.sets or ("ag_news", "clinc150"):
            for row in _measured(name, arguments, interpreters.get("cleanlab")):
                print(json.dumps(row))
                file.write(json.dumps(row) + "\n")


def _measured(name: str, arguments: argparse.Namespace, cleanlab: str | None) -> list[dict[str, Any]]:
    texts, true, n_classes = _rows(name, arguments)
    source = resolve_model(None)
    tokenizer = open_tokenizer(source.tokenizer_file)
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)
    features = encoder_features(ForwardOnly(source, 1), tokenizer, texts)
    n_flipped, measured = round(FLIPPED_RATE * len(texts)), []
    for seed in arguments.seeds:
        rng = np.random.default_rng([seed, 3])
        labels = true.copy()
        flipped = rng.choice(len(texts), n_flipped, replace=False)
        labels[flipped] = (true[flipped] + rng.integers(1, n_classes, n_flipped)) % n_classes
        probabilities = out_of_fold_probabilities(texts, labels, n_classes, features, seed)
        errors = find_label_errors(probabilities, labels)
        ranked = errors.ranked
        systems = {"edgetune": (ranked, ranked[errors.is_error[ranked]])}
        if cleanlab is not None:
            listed = _of_cleanlab(cleanlab, probabilities, labels)
            systems["cleanlab"] = (listed, listed)
        for system, (order, suspects) in systems.items():
            is_flipped = labels != true
            measured.append(
                {
                    "set": name,
                    "system": system,
                    "seed": seed,
                    "n_rows": len(texts),
                    "n_flipped": n_flipped,
                    "precision": float(is_flipped[order[:n_flipped]].sum() / n_flipped),
                    "n_suspects": len(suspects),
                    "suspects_precision": float(is_flipped[suspects].mean()),
                    "suspects_recall": float(is_flipped[suspects].sum() / n_flipped),
                    "cpu": machine_info()["cpu"],
                    "date": datetime.date.today().isoformat(),
                }
            )
    return measured


def _rows(name: str, arguments: argparse.Namespace) -> tuple[list[str], Any, int]:
    """Return texts, class ids and the number of classes of a random sample of a set."""
    data = SETS[name]
    path = Path(arguments.shared) / data.train
    examples = list(read_examples(str(path), data.options, lambda bad: None))
    chosen = np.random.default_rng(0).permutation(len(examples))[: arguments.rows]
    sample = [examples[i] for i in np.sort(chosen)]
    names = label_order({one.label for one in sample})
    return [one.text for one in sample], np.array([names.index(one.label) for one in sample]), len(names)


def _of_cleanlab(python: str, probabilities: Any, labels: Any) -> Any:
    """Return the rows that cleanlab suspects, the surest first."""
    known = np.flatnonzero(~np.isnan(probabilities[:, 0]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        np.savez(path, probabilities=probabilities[known], labels=labels[known])
        done = subprocess.run([python, "-c", CLEANLAB, str(path)], capture_output=True, text=True, check=True)
    return known[np.array(done.stdout.split(), dtype=np.int64)]
