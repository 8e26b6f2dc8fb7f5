"""Milliseconds a text: the encoder alone, the whole answer with n-grams, and the whole answer in int8.

One run of a few steps, as speed does not depend on training; then the texts of its evaluation rows one at a
time, tokenization included. Each text is classified several times and the fastest counts, as other processes
slow down the rest.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common import finetune, rows_file

from edgetune.inference.classifier_export import export_classifier
from edgetune.inference.saved_ensemble import ENCODER, NGRAMS
from edgetune.inference.saved_run import Run, load_run
from edgetune.inference.standalone_predict import Classifier, Text
from edgetune.learners.ensemble import Ensemble

STEPS, BLOCK = 10, 20


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = arguments.data or str(rows_file(None, arguments.rows, scratch))
        command = [data, "--max-steps", str(STEPS), "--out", str(scratch / "run")]
        if arguments.pair:
            command += ["--pair", "--text", arguments.pair]
        if arguments.eval:
            command += ["--eval", arguments.eval]
        finetune(*command, cache=scratch / "cache")
        run = _with_both(scratch / "run")
        export_classifier(run, scratch / "whole", int8=True, cache_dir=scratch / "cache")
        shutil.rmtree(scratch / "run" / "ensemble")
        export_classifier(load_run(scratch / "run"), scratch / "alone")
        view = run.evaluation_rows(scratch / "cache")
        texts = [_as_given(text) for text in view.texts()[: arguments.rows]]
        _print(run, _medians(scratch, texts, arguments.repeats), len(texts))


def _with_both(folder: Path) -> Run:
    """Let encoder and n-grams take part, whatever the weights on the held-out rows were."""
    run = load_run(folder)
    assert run.ensemble is not None
    if set(run.ensemble.ensemble.names) != {ENCODER, NGRAMS}:
        ensemble = Ensemble((ENCODER, NGRAMS), (0.5, 0.5), 1)
        shutil.rmtree(folder / "ensemble")
        replace(run.ensemble, ensemble=ensemble).write(folder)
        print("# one learner had no weight; both have 0.5 here")
    return load_run(folder)


def _as_given(text: str) -> Text:
    first, separator, second = text.partition("\x1f")
    return (first, second) if separator else text


def _medians(scratch: Path, texts: list[Text], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of a text by model, measured in turn."""
    models = {
        "encoder alone": Classifier(scratch / "alone"),
        "whole answer": Classifier(scratch / "whole"),
        "whole answer, int8": Classifier(scratch / "whole", "classifier-int8.onnx"),
    }
    fastest = {name: [math.inf] * len(texts) for name in models}
    for start in range(0, len(texts), BLOCK):
        for _ in range(repeats):
            for name, model in models.items():
                for at in range(start, min(start + BLOCK, len(texts))):
                    started_s = time.perf_counter()
                    model.probabilities([texts[at]])
                    took_ms = 1000 * (time.perf_counter() - started_s)
                    fastest[name][at] = min(fastest[name][at], took_ms)
    return {name: statistics.median(values) for name, values in fastest.items()}


def _print(run: Run, medians: dict[str, float], n_texts: int) -> None:
    assert run.ensemble is not None
    base = medians["encoder alone"]
    print(
        f"{len(run.ensemble.ngrams.vocabulary):,} n-grams, {len(run.label_names)} classes, {n_texts:,} texts"
    )
    for name, ms in medians.items():
        print(f"  {name:<20} {ms:6.2f} ms a text, {ms / base:.2f} of the encoder alone")
