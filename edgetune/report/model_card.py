"""The model card: `model/README.md` as Hugging Face reads it. Every number comes from the run's summary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from edgetune.utils.formatting import (
    Summary,
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
    blocks = [
        _front_matter(summary),
        f"# Text classifier trained on {_code(name)}" if name else "# Text classifier",
        _about(summary),
        _results(summary),
        _training(summary),
        _cost(summary),
        _use(summary),
        _limits(summary),
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


def _front_matter(summary: Summary) -> str:
    """Return the YAML head; JSON strings are YAML strings, so quoting is JSON's."""
    base, licence = _base_model(summary)
    lines = [f"license: {json.dumps(licence)}"] if licence else []
    lines += [f"base_model: {json.dumps(base)}"] if base else []
    lines += ["pipeline_tag: text-classification", "library_name: transformers"]
    tags = ["text-classification", "edgetune", "onnx", summary.get("method")]
    lines += ["tags:", *(f"- {json.dumps(str(tag))}" for tag in tags if tag)]
    return "\n".join(["---", *lines, "---"])


def _about(summary: Summary) -> str:
    labels = summary.get("label_names") or []
    parts = []
    if summary.get("model") is not None:
        base, _ = _base_model(summary)
        shown = base or PurePath(str(summary["model"])).name or summary["model"]
        commit = _hub_name(summary["model"])[1]
        at = "" if commit is None else f" at commit {_code(commit)}"
        how = "A linear probe on the untouched encoder" if is_probe(summary) else "Finetuned from"
        parts.append(f"{how} {_code(shown)}{at}{', fitted' * is_probe(summary)} with edgetune.")
    if labels:
        parts.append(
            f"It distinguishes {len(labels)} classes: {', '.join(_code(label) for label in labels)}."
        )
    return " ".join(parts)


def _bullets(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines)]) if lines else ""


def _results(summary: Summary) -> str:
    lines = []
    accuracy, n_eval = describe_accuracy(summary), summary.get("n_eval")
    if accuracy:
        lines.append(
            f"Accuracy: {accuracy}" + (f", on {counted(n_eval, 'row')}" if n_eval is not None else "")
        )
    if (macro_f1 := describe_macro_f1(summary)) is not None:
        lines.append(f"Macro-F1: {macro_f1}")
    if summary.get("mcc") is not None:
        lines.append(f"Matthews correlation: {summary['mcc']:.4f}")
    if accuracy and summary.get("eval_source"):
        lines.append(f"Evaluated on: {in_markdown(summary['eval_source'])}")
    if (ensemble := summary.get("ensemble")) is not None:
        with_ngrams = (
            "" if ensemble["accuracy"] is None else f", with an accuracy of {percent(ensemble['accuracy'])}"
        )
        lines.append(
            "These figures are those of the encoder in this folder alone. `edgetune predict` combines it "
            f"with an n-gram classifier{with_ngrams}; `edgetune export` writes both as one ONNX file."
        )
    table = _class_table(summary.get("per_class") or [])
    return "\n\n".join(part for part in (_bullets("Results", lines), table) if part)


def _class_table(per_class: list[dict[str, Any]]) -> str:
    if not per_class:
        return ""
    head = ["| class | precision | recall | F1 | rows |", "|---|---|---|---|---|"]
    rows = [
        f"| {in_markdown(one['label'])} | {one['precision']:.3f} | {one['recall']:.3f} | {one['f1']:.3f} "
        f"| {one['support']:,} |"
        for one in per_class
    ]
    return "\n".join(head + rows)


def _training(summary: Summary) -> str:
    if summary.get("n_seen") is not None and summary.get("n_train"):
        summary = {**summary, "passes": summary["n_seen"] / summary["n_train"]}
    wanted = (
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
    left_out = TRAINING if is_probe(summary) else ()
    lines = [
        f"{name}: {words(summary[key])}"
        for key, name, words in wanted
        if key not in left_out and summary.get(key) not in (None, "")
    ]
    versions = summary.get("versions") or {}
    if versions:
        lines.append("Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    if summary.get("interrupted"):
        lines.append("The run was interrupted; this is the model trained up to that point")
    return _bullets("How it was trained", lines)


def _cost(summary: Summary) -> str:
    return _bullets("What it cost", list(_cost_lines(summary)))


def _cost_lines(summary: Summary) -> Iterator[str]:
    machine = summary.get("machine") or {}
    if machine.get("cpu"):
        cores = f", {counted(machine['cores'], 'core')}" if machine.get("cores") else ""
        yield f"Machine: {in_markdown(machine['cpu'])}{cores}"
    if summary.get("elapsed_s") is not None:
        yield f"Time: {duration(summary['elapsed_s'])}"
    parts = [
        f"{in_markdown(name)} {seconds:.1f} s" for name, seconds in time_split(summary) if seconds >= 0.05
    ]
    if parts:
        yield f"Time by phase: {', '.join(parts)}"
    if summary.get("t_norm_modelled") is not None:
        yield f"Time relative to training on everything, modelled: {summary['t_norm_modelled']:.3f}"
    if summary.get("t_norm_measured") is not None:
        yield f"Time relative to training on everything, measured: {summary['t_norm_measured']:.3f}"
    if summary.get("peak_memory_mb") is not None:
        yield f"Peak memory: {summary['peak_memory_mb']:,.0f} MB"


def _use(summary: Summary) -> str:
    longest = summary.get("max_length")
    cut = f", truncation=True, max_length={longest}" if longest is not None else ", truncation=True"
    pipeline = f'''```python
from transformers import pipeline

classify = pipeline("text-classification", model="path/to/model")
print(classify("some text"{cut}))
```'''
    example = predicted = classified = '"some text"'
    if summary.get("texts_apart"):
        pipeline, example = TEXTS_APART, '"first text", "second text"'
        predicted, classified = "--file pairs.csv", '--pair "first text" "second text"'
    return f"""## How to use it

{pipeline}

```sh
edgetune predict path/to/run {predicted}
```

With ONNX Runtime and without edgetune, {_whole_answer(summary)}:

```sh
edgetune export path/to/run --out classifier
python classifier/predict.py {classified}
```

The encoder alone with ONNX Runtime (`onnx/model.onnx` of the run folder, the tokenizer from `model/`):

```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("model/tokenizer.json")
tokenizer.no_padding()
session = onnxruntime.InferenceSession("onnx/model.onnx")
text = tokenizer.encode({example})
arrays = {{"input_ids": text.ids, "attention_mask": text.attention_mask, "token_type_ids": text.type_ids}}
wanted = {{one.name for one in session.get_inputs()}}
feed = {{name: np.array([ids], dtype=np.int64) for name, ids in arrays.items() if name in wanted}}
print(session.run(["logits"], feed)[0])
```"""


def _whole_answer(summary: Summary) -> str:
    return "the encoder" if summary.get("ensemble") is None else "the whole answer, n-grams included"


def _limits(summary: Summary) -> str:
    lines = []
    source = str(summary.get("eval_source") or "")
    if "held out" in source and summary.get("accuracy") is not None:
        lines.append(
            "The evaluation rows were held out of the same file as the training rows; expect a lower "
            "accuracy on text from other sources."
        )
    if summary.get("best_epoch_chosen_on_eval"):
        lines.append(
            "The epoch kept was the best on the evaluation rows, so the accuracy is slightly optimistic."
        )
    lines.append("It knows only the classes it was trained on and assigns one of them to any text.")
    if summary.get("max_length") is not None:
        lines.append(f"Texts longer than {summary['max_length']} tokens are truncated.")
    lines += [f"Warning: {in_markdown(text)}" for text in summary.get("warnings") or []]
    return _bullets("Limits", lines)
