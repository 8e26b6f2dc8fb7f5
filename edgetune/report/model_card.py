"""The model card: `model/README.md` as Hugging Face reads it. Every number comes from the run's summary."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from string import Template
from typing import Any

from edgetune.report.result_tables import MEASURES, known_lines
from edgetune.utils.formatting import (
    Summary,
    accuracy_name,
    counted,
    dataset_name,
    describe_accuracy,
    describe_macro_f1,
    duration,
    is_probe,
    percent,
    time_split,
)
from edgetune.utils.sanitize import in_markdown, visible

BUILT_IN_NAMES = frozenset(
    {"built-in", "builtin", "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"}
)
BUILT_IN_ID = "sentence-transformers/all-MiniLM-L6-v2"
BUILT_IN_LICENSE = "apache-2.0"

TEXTS_APART = """The two texts of a pair are encoded apart, and the classifier compares their encodings. No
class of Transformers does that: this folder holds the encoder alone, to train it further, and
`onnx/model.onnx` of the run folder is the classifier."""

TRAINING = (
    *("passes", "n_seen", "n_scored", "n_trained", "skipped_backward_rate", "skipped_both_rate", "n_steps"),
    *("batch_size", "lr", "freeze", "best_epoch"),
)
"""Keys of the summary that say nothing of an encoder that was not trained."""


def model_card(summary: Summary) -> str:
    """Return the card's Markdown with its YAML head; what the summary does not tell is left out."""
    name = dataset_name(summary)
    base, licence = _base_model(summary)
    blocks = [
        _front_matter(base, licence, summary.get("method")),
        f"# Text classifier trained on {_code(name)}" if name else "# Text classifier",
        _about(summary, base),
        _bullets("Results", _results(summary)),
        _class_table(summary.get("per_class") or []),
        _bullets("How it was trained", _training(summary)),
        _bullets("What it cost", _cost(summary)),
        _use(summary),
        _bullets("Limits", _limits(summary)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _code(text: object) -> str:
    """Quote text as code, on one line, safe from Markdown."""
    return f"`{' '.join(visible(text).replace('`', '').split())}`"


def _base_model(summary: Summary) -> tuple[str | None, str | None]:
    """Return the base model's id, if it has a public one, and its licence, if known."""
    model = summary.get("model")
    licence = summary.get("model_license")
    if model is None:
        return None, licence
    if str(model) in BUILT_IN_NAMES:
        return BUILT_IN_ID, licence or BUILT_IN_LICENSE
    name, _ = _hub_name(model)
    is_id = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name) is not None and not Path(name).exists()
    return (name if is_id else None), licence


def _hub_name(model: object) -> tuple[str, str | None]:
    """Return a model's name and the commit that was fetched, None where the name has none."""
    found = re.fullmatch(r"(.+)@([0-9a-f]{40})", str(model))
    return (found.group(1), found.group(2)) if found else (str(model), None)


def _front_matter(base: str | None, licence: str | None, method: str | None) -> str:
    """Return the YAML head; JSON strings are YAML strings, so quoting is JSON's."""
    lines = [f"license: {json.dumps(licence)}"] if licence else []
    lines += [f"base_model: {json.dumps(base)}"] if base else []
    lines += ["pipeline_tag: text-classification", "library_name: transformers"]
    tags = ["text-classification", "edgetune", "onnx", method]
    lines += ["tags:", *(f"- {json.dumps(str(tag))}" for tag in tags if tag)]
    return "\n".join(["---", *lines, "---"])


def _about(summary: Summary, base: str | None) -> str:
    labels = summary.get("label_names") or []
    parts = []
    if summary.get("model") is not None:
        shown = base or PurePath(str(summary["model"])).name or summary["model"]
        commit = _hub_name(summary["model"])[1]
        at = "" if commit is None else f" at commit {_code(commit)}"
        how = "A linear probe on the untouched encoder" if is_probe(summary) else "Finetuned from"
        parts.append(f"{how} {_code(shown)}{at}{', fitted' * is_probe(summary)} with edgetune.")
    if labels:
        what = "assigns any or none of" if summary.get("multi_label") else "distinguishes"
        parts.append(f"It {what} {len(labels)} classes: {', '.join(_code(label) for label in labels)}.")
    return " ".join(parts)


def _bullets(title: str, lines: Iterable[str]) -> str:
    told = [f"- {line}" for line in lines]
    return "\n".join([f"## {title}", "", *told]) if told else ""


def _results(summary: Summary) -> Iterator[str]:
    accuracy, n_eval = describe_accuracy(summary), summary.get("n_eval")
    yield from _known(summary, ("micro_f1", "Micro-F1", "{:.4f}".format))
    if accuracy:
        rows = f", on {counted(n_eval, 'row')}" if n_eval is not None else ""
        yield f"{accuracy_name(summary).capitalize()}: {accuracy}{rows}"
    if (macro_f1 := describe_macro_f1(summary)) is not None:
        yield f"Macro-F1: {macro_f1}"
    yield from _known(summary, ("mcc", "Matthews correlation", "{:.4f}".format))
    if accuracy and summary.get("eval_source"):
        yield f"Evaluated on: {in_markdown(summary['eval_source'])}"
    if (ensemble := summary.get("ensemble")) is not None:
        with_ngrams = ""
        if ensemble.get("micro_f1") is not None:
            with_ngrams = f", with a micro-F1 of {ensemble['micro_f1']:.4f}"
        elif ensemble["accuracy"] is not None:
            with_ngrams = f", with an accuracy of {percent(ensemble['accuracy'])}"
        yield (
            "These figures are those of the encoder in this folder alone. `edgetune predict` combines it "
            f"with an n-gram classifier{with_ngrams}; `edgetune export` writes both as one ONNX file."
        )


def _class_table(per_class: list[dict[str, Any]]) -> str:
    if not per_class:
        return ""
    lines = ["| class | precision | recall | F1 | rows |", "|---|---|---|---|---|"]
    for one in per_class:
        shares = " | ".join(f"{one[key]:.3f}" for key in MEASURES)
        lines.append(f"| {in_markdown(one['label'])} | {shares} | {one['support']:,} |")
    return "\n".join(lines)


def _training(summary: Summary) -> Iterator[str]:
    if summary.get("n_seen") is not None and summary.get("n_train"):
        summary = {**summary, "passes": summary["n_seen"] / summary["n_train"]}
    left_out = TRAINING if is_probe(summary) else ()
    yield from _known(
        {key: value for key, value in summary.items() if key not in left_out and value != ""},
        ("dataset", "Data", lambda value: _code(PurePath(str(value)).name or value)),
        ("n_train", "Training rows", "{:,}".format),
        ("n_bad_rows", "Unusable rows left out", "{:,}".format),
        ("n_unlabelled_rows", "Rows without a label left out", "{:,}".format),
        ("passes", "Passes", "{:.2f}".format),
        ("method", "Method", in_markdown),
        ("preset", "Preset", in_markdown),
        ("n_seen", "Examples seen", "{:,}".format),
        ("n_scored", "Examples scored", "{:,}".format),
        ("n_trained", "Examples trained", "{:,}".format),
        ("skipped_backward_rate", "Backward pass skipped", percent),
        ("skipped_both_rate", "Both passes skipped", percent),
        ("n_steps", "Optimizer steps", "{:,}".format),
        ("batch_size", "Batch size", str),
        ("lr", "Learning rate", "{:g}".format),
        ("max_length", "Maximum length (tokens)", str),
        ("freeze", "Frozen", in_markdown),
        ("seed", "Seed", str),
        ("backend", "Backend", in_markdown),
        ("best_epoch", "Epoch kept", str),
    )
    if versions := summary.get("versions"):
        yield "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items())
    if summary.get("interrupted"):
        yield "The run was interrupted; this is the model trained up to that point"


def _known(summary: Summary, *wanted: tuple[str, str, Callable[[Any], str]]) -> Iterator[str]:
    return (f"{name}: {words}" for name, words in known_lines(summary, *wanted))


def _cost(summary: Summary) -> Iterator[str]:
    machine = summary.get("machine") or {}
    if machine.get("cpu"):
        cores = f", {counted(machine['cores'], 'core')}" if machine.get("cores") else ""
        yield f"Machine: {in_markdown(machine['cpu'])}{cores}"
    yield from _known(summary, ("elapsed_s", "Time", duration))
    phases = [(in_markdown(name), seconds) for name, seconds in time_split(summary) if seconds >= 0.05]
    if phases:
        yield "Time by phase: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in phases)
    yield from _known(
        summary,
        ("t_norm_modelled", "Time relative to training on everything, modelled", "{:.3f}".format),
        ("t_norm_measured", "Time relative to training on everything, measured", "{:.3f}".format),
        ("peak_memory_mb", "Peak memory", "{:,.0f} MB".format),
    )


def _use(summary: Summary) -> str:
    longest = summary.get("max_length")
    every = ", top_k=None" if summary.get("multi_label") else ""
    cut = f", truncation=True, max_length={longest}" if longest is not None else ", truncation=True"
    pipeline = f'''```python
from transformers import pipeline

classify = pipeline("text-classification", model="path/to/model"{every})
print(classify("some text"{cut}))
```'''
    texts = {"example": '"some text"', "predicted": '"some text"', "classified": '"some text"'}
    if summary.get("texts_apart"):
        pipeline = TEXTS_APART
        texts = {
            "example": '"first text", "second text"',
            "predicted": "--file pairs.csv",
            "classified": '--pair "first text" "second text"',
        }
    whole = "the encoder" if summary.get("ensemble") is None else "the whole answer, n-grams included"
    template = Path(__file__).with_name("card_use.md").read_text(encoding="utf-8").rstrip()
    return Template(template).substitute(texts, pipeline=pipeline, whole=whole)


def _limits(summary: Summary) -> Iterator[str]:
    if "held out" in str(summary.get("eval_source")) and summary.get("accuracy") is not None:
        yield (
            "The evaluation rows were held out of the same file as the training rows; expect a lower "
            "accuracy on text from other sources."
        )
    if summary.get("best_epoch_chosen_on_eval"):
        yield "The epoch kept was the best on the evaluation rows, so the accuracy is slightly optimistic."
    if summary.get("multi_label"):
        yield (
            "It knows only the classes it was trained on. `edgetune predict` assigns those whose probability "
            "reaches a threshold of the class, chosen on held-out rows; with the encoder alone, use 0.5."
        )
    else:
        yield "It knows only the classes it was trained on and assigns one of them to any text."
    if summary.get("max_length") is not None:
        yield f"Texts longer than {summary['max_length']} tokens are truncated."
    yield from (f"Warning: {in_markdown(text)}" for text in summary.get("warnings") or [])
