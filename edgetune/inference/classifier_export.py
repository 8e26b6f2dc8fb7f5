"""`edgetune export RUN`: the whole answer of a run, for programs that have ONNX Runtime and no edgetune.

classifier.onnx         encoder, n-grams, weights and temperature: probabilities of texts
classifier.json         labels, and how the inputs are made of a text
tokenizer.json          of the encoder, where it takes part
predict.py              makes the inputs and classifies; with derived_tokens.py
classifier-int8.onnx    with --int8: the same with the encoder's weights in 8 bits …
int8.json               … and its accuracy and speed beside those of classifier.onnx
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetune.backends.ort.ort_runtime import import_ort
from edgetune.data.token_build import most_tokenized_chars
from edgetune.data.token_format import split_text
from edgetune.data.token_store import TokenView
from edgetune.inference.saved_ensemble import ENCODER, NGRAMS, check_references
from edgetune.inference.saved_run import EXPORTED, Run
from edgetune.learners.ngrams import derived_tokens
from edgetune.run_files.outputs import export_folder, refuse_taken
from edgetune.utils.errors import ModelError, RunError, UsageError
from edgetune.utils.files import write_json
from edgetune.utils.machine import machine_info, versions
from edgetune.utils.parsing import read_json_file
from edgetune.utils.sanitize import brief
from edgetune.utils.types import FloatArray, IntArray

if TYPE_CHECKING:
    from edgetune.inference.standalone_predict import Classifier, Text

SCHEMA_VERSION = 3
ABOUT = "classifier.json"
INT8_GRAPH, INT8_REPORT = "classifier-int8.onnx", "int8.json"
OTHER_FILES = (EXPORTED, INT8_GRAPH, INT8_REPORT, "tokenizer.json", "predict.py", "derived_tokens.py")
CHECKED_TEXTS, TOLERANCE = 16, 1e-4
"""Texts on which the graph must give the run's own probabilities, but for that."""
MOST_MEASURED = 2_000
"""Rows that int8 is compared with fp32 on."""
WARMUP, BLOCK = 5, 50
"""Texts before the clock counts; texts of one model before it is the other's turn."""
MOST_LOST = 0.003
"""Accuracy that int8 may lose before a warning."""


@dataclass(frozen=True)
class ExportedClassifier:
    """What was written: by which learners, how far from the run's own probabilities, and what int8 does."""

    learners: tuple[str, ...]
    difference: float
    int8: Int8Report | None


@dataclass(frozen=True)
class Measured:
    """One model on the rows, one text at a time: the median counts, tokenization included.

    `accuracy` is in [0, 1]; where a row may have several labels, all of them must be right.
    """

    accuracy: float
    ms_per_text: float
    n_bytes: int


@dataclass(frozen=True)
class Int8Report:
    """int8 beside fp32, measured on one machine on the same rows."""

    n_rows: int
    rows_from: str
    fp32: Measured
    int8: Measured

    @property
    def speedup(self) -> float:
        """How many times faster int8 is."""
        return self.fp32.ms_per_text / self.int8.ms_per_text

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against int8 here."""
        lost, found = self.fp32.accuracy - self.int8.accuracy, []
        if lost > MOST_LOST + 1e-9:
            found.append(f"int8 loses {100 * lost:.1f} points of accuracy on these rows.")
        if self.speedup < 1:
            found.append(f"int8 is slower than fp32 on this machine ({self.speedup:.2f} times as fast).")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, with the machine."""
        more = {"speedup": self.speedup, "warnings": self.warnings, "threads": "ONNX Runtime's default"}
        return asdict(self) | more | {"machine": machine_info(), "versions": versions()}


def export_classifier(
    run: Run,
    out: Path,
    *,
    int8: bool = False,
    file: str | None = None,
    overwrite: bool = False,
    cache_dir: Path | None = None,
) -> ExportedClassifier:
    """Write the whole answer of a run into a folder that holds nothing, or an earlier export to `overwrite`.

    `int8` also quantises the encoder, and measures what that costs and gives on the labelled rows of `file`,
    by default on the run's own evaluation rows.

    Raises:
        UsageError: there is no encoder to quantise, or `out` is what the run needs.
        RunError: the run is damaged, its rows cannot be found again, or there is something at `out`.
        EdgetuneError: onnx is missing, or the rows cannot be read.
    """
    learners = (ENCODER,) if run.ensemble is None else run.ensemble.ensemble.names
    if other := next((name for name in learners if name not in (ENCODER, NGRAMS)), None):
        raise UsageError(
            f"{run.folder} answers with the learner {other}, of which there is no ONNX graph; train again "
            "without it (--learners)."
        )
    if int8 and ENCODER not in learners:
        raise UsageError(
            f"--int8 quantises the encoder, and {run.folder} answers with n-grams alone; leave it out."
        )
    if file is not None and not int8:
        raise UsageError("--file names the rows that int8 is measured on; add --int8.")
    from edgetune.inference.classifier_graph import write_classifier  # which needs onnx

    refuse_taken("--out", out, [file] if file is not None else [], [run.folder])
    with export_folder(out, "an exported classifier", _exported, overwrite) as folder:
        view = None
        if int8 and file is None:
            view = run.evaluation_rows(cache_dir)
        elif file is not None:
            view = run.labelled_rows(file, cache_dir=cache_dir)
        _write_about(run, learners, folder)
        encoder = _encoder_file(run, folder) if ENCODER in learners else None
        write_classifier(run, encoder, folder / EXPORTED)
        difference = _check(run, folder)
        report = None
        if view is not None:
            assert encoder is not None
            small = folder / "encoder-int8.onnx"
            _quantise(encoder, small)
            write_classifier(run, small, folder / INT8_GRAPH)
            small.unlink()
            source = file if file is not None else str(run.summary.get("eval_source", "the run's own rows"))
            report = _compare(folder, view, source)
            write_json(folder / INT8_REPORT, report.to_dict())
        (folder / "encoder.onnx").unlink(missing_ok=True)
    return ExportedClassifier(tuple(learners), difference, report)


def _exported(folder: Path) -> list[str]:
    """Return the files of an exported classifier in a folder; [] where there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        about = read_json_file(folder / ABOUT)
        if about["schema_version"] and about["labels"]:
            return [ABOUT, *(name for name in OTHER_FILES if (folder / name).is_file())]
    return []


def _write_about(run: Run, learners: Sequence[str], folder: Path) -> None:
    """Write the labels and how inputs are made, the program that does so, and the tokenizer."""
    about: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "labels": run.label_names,
        "learners": learners,
        "pairs": bool(run.takes_pairs),
    }
    if run.ensemble is not None and NGRAMS in learners:
        settings = run.ensemble.ngrams.vocabulary.settings
        about |= {
            "analyzer": run.ensemble.ngrams.analyzer,
            "word_pattern": settings["token_pattern"],
            "most_chars": settings["most_chars"],
            "around": settings.get("around", ""),
        }
    if ENCODER in learners:
        about |= {
            "max_length": run.max_length,
            "pad_id": run.pad_id,
            "most_tokenized_chars": most_tokenized_chars(run.max_length),
        }
        tokenizer = run.encoder_folder / "tokenizer.json"
        if not tokenizer.is_file():
            raise RunError(f"{tokenizer} is missing; copy the run folder again, or train again.")
        shutil.copyfile(tokenizer, folder / tokenizer.name)
    if run.multi_label:
        about["thresholds"] = run.thresholds
    write_json(folder / ABOUT, about)
    program = Path(__file__).with_name("standalone_predict.py").read_text(encoding="utf-8")
    program = program.replace("edgetune.learners.ngrams.derived_tokens", "derived_tokens")
    (folder / "predict.py").write_text(program, encoding="utf-8")
    shutil.copyfile(derived_tokens.__file__, folder / "derived_tokens.py")


def _encoder_file(run: Run, folder: Path) -> Path:
    """Return the encoder's ONNX file; made of its weights where the run has none."""
    path = run.encoder_file
    if path is None:
        from edgetune.backends.onnx_export import export_graph, load_classifier
        from edgetune.models.checks import check_folder

        check_folder(str(run.encoder_folder), run.encoder_folder)
        model = load_classifier(run.encoder_folder, len(run.label_names), "eager")
        path = folder / "encoder.onnx"
        export_graph(model, path)
    check_references(path)
    return path


def _open(folder: Path, name: str) -> Classifier:
    import_ort()  # before onnxruntime is imported by its name, which would import torch
    from edgetune.inference.standalone_predict import Classifier

    return Classifier(folder, name)


def _check(run: Run, folder: Path) -> float:
    """Return the largest difference between the graph's probabilities and the run's own.

    Raises:
        RunError: it is no rounding.
    """
    texts = _sample_texts(run)
    theirs: FloatArray = _open(folder, EXPORTED).probabilities(texts)
    ours = np.array([[one.probabilities[name] for name in run.label_names] for one in run.predict(texts)])
    difference = float(np.abs(theirs - ours).max())
    if not difference < TOLERANCE:
        raise RunError(
            f"The exported classifier of {run.folder} differs from the run by {difference:.1e}, which "
            "is a bug of edgetune or of this ONNX Runtime; nothing was written."
        )
    return difference


def _sample_texts(run: Run) -> list[Text]:
    """Return texts made of what the run knows."""
    rng = np.random.default_rng(0)
    known: Sequence[str] = run.ensemble.ngrams.vocabulary.ngrams if run.ensemble is not None else ()
    words = [*known] or [*run.label_names, "a", "text", "of", "no", "meaning"]

    def text() -> str:
        some = " ".join(words[n] for n in rng.integers(len(words), size=rng.integers(1, 30)))
        return some if some.strip() else run.label_names[0]

    takes_pairs = run.takes_pairs
    return [(text(), text()) if takes_pairs else text() for _ in range(CHECKED_TEXTS)]


def _quantise(source: Path, target: Path) -> None:
    """Write an encoder with its weights in 8 bits; activations are quantised as they come.

    Weights are unsigned: signed ones overflow the 16 bits that processors without VNNI add products in.

    Raises:
        ModelError: the quantiser cannot do it.
    """
    ort = import_ort()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The exporter transposes weights in the graph, and the quantiser takes only those that are constants.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    logging.disable(logging.WARNING)  # the quantiser's advice, which is logged to the root
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        quantize_dynamic(target, target, per_channel=True, weight_type=QuantType.QUInt8)
    except OSError:
        raise
    except Exception as error:  # both raise whatever they meet
        raise ModelError(f"{source} cannot be quantised ({brief(error, 200)}); leave out --int8.") from error
    finally:
        logging.disable(logging.NOTSET)


def _compare(folder: Path, view: TokenView, source: str) -> Int8Report:
    """Classify rows with both models, one text at a time, and compare accuracy and time."""
    if not len(view):
        raise UsageError(f"{source} has no rows to measure int8 on; name a file with --file.")
    chosen: IntArray = np.arange(len(view))
    if len(view) > MOST_MEASURED:
        chosen = np.sort(np.random.default_rng(0).choice(len(view), MOST_MEASURED, replace=False))
    texts = [split_text(text) for text in view.texts(chosen)]
    labels: list[list[int]] = [
        np.flatnonzero(row).tolist() if row.ndim else [int(row)] for row in view.labels[chosen]
    ]
    right: dict[str, int] = {EXPORTED: 0, INT8_GRAPH: 0}
    took_s: dict[str, list[float]] = {EXPORTED: [], INT8_GRAPH: []}
    opened = {name: _open(folder, name) for name in right}
    for model in opened.values():
        for text in texts[:WARMUP]:
            model.probabilities([text])
    # In turn, block by block: what else the machine does meets both, and the idle threads of one model have
    # stopped waiting before they could slow the other down.
    for start in range(0, len(texts), BLOCK):
        for name, model in opened.items():
            for text, label in zip(texts[start : start + BLOCK], labels[start : start + BLOCK], strict=True):
                started_s = time.perf_counter()
                found = model.probabilities([text])
                took_s[name].append(time.perf_counter() - started_s)
                right[name] += model.classes(found[0]) == label

    def measured(name: str) -> Measured:
        median_ms = 1000 * statistics.median(took_s[name])
        return Measured(right[name] / len(texts), median_ms, (folder / name).stat().st_size)

    return Int8Report(len(texts), source, measured(EXPORTED), measured(INT8_GRAPH))
