"""The child process that makes training artifacts: reads one JSON job from stdin, answers with one line.

It imports torch and the exporter before it reads the job, so that the parent can tokenize meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.base import ADAM_BETAS, ADAM_EPS, WEIGHT_DECAY
from edgetune.backends.hf_folder import convert_tokenizer
from edgetune.backends.onnx_export import (
    IR_VERSION,
    export_graph,
    initializer_names,
    load_torch_model,
    native_stderr_to,
    quiet,
)
from edgetune.errors import ArtifactsError, EdgetuneError
from edgetune.models import is_position_table, max_positions, trainable_names
from edgetune.runfolder import disk_is_full
from edgetune.types import FloatArray

CHECK_TOLERANCE = 1e-3
TORCH_ADAM = 0  # epsilon after the bias correction, as torch has it; the generator sets 1, epsilon before it


def build(job: dict[str, Any]) -> None:
    """Export, repair, generate, check, and describe one set of artifacts.

    Args:
        job: `folder` of the model, its `name` and `fingerprint`, `n_labels`, `freeze`, `target` folder.
    """
    target = Path(job["target"])
    model, missing = load_torch_model(Path(job["folder"]), job["n_labels"], "eager")
    names = [name for name, _ in model.named_parameters()]
    trainable = trainable_names(names, job["freeze"])
    notes = []
    tables = [name for name in trainable if is_position_table(name)]
    if tables:
        notes.append(f"{', '.join(tables)} stays frozen: training it on ONNX Runtime corrupts memory")
        trainable = [name for name in trainable if name not in tables]
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        graph = Path(scratch) / "forward.onnx"
        export_graph(model, graph)
        in_graph = initializer_names(graph)
        lost = [name for name in trainable if name not in in_graph]
        trainable = [name for name in trainable if name in in_graph]
        _refuse_lost(model, lost, job["name"])
        with native_stderr_to(Path(scratch) / "log.txt"):
            _generate(graph, in_graph, trainable, target)
            inputs, check = _check(target, model, trainable)
    _save_rest(model, in_graph, target)
    convert_tokenizer(Path(job["folder"]), target)
    model.config.save_pretrained(target)
    manifest = _describe(job, model, missing, trainable, inputs)
    manifest |= {"notes": notes, "check": check}
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _refuse_lost(model: Any, lost: list[str], name: str) -> None:
    """Parameters that the graph does not use have no gradient; any other absence is an exporter's fault."""
    import torch

    if not lost:
        return
    ids = torch.tensor([[5, 6, 7, 8]])
    model.zero_grad()
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.tensor([0])).loss.backward()
    used = [
        n for n, p in model.named_parameters() if n in lost and p.grad is not None and p.grad.abs().sum() > 0
    ]
    if used:
        raise ArtifactsError(
            f"Exporting {name} merged or dropped {len(used)} trainable parameters ({used[0]}…); "
            "train it with --backend torch."
        )


def _generate(graph: Path, in_graph: set[str], trainable: list[str], target: Path) -> None:
    from edgetune.backends.ort_runtime import import_training

    import_training()
    import onnx
    from onnxruntime.training import artifacts
    from onnxruntime.training.onnxblock import optim

    artifacts.generate_artifacts(
        onnx.load(graph),
        requires_grad=trainable,
        frozen_params=sorted(in_graph.difference(trainable)),
        loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=optim.AdamW(betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=WEIGHT_DECAY),
        artifact_directory=target,
        additional_output_names=["logits"],
    )
    for name in ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx"):
        model = onnx.load(target / name)
        model.ir_version = min(model.ir_version, IR_VERSION)
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "adam_mode":
                    attribute.i = TORCH_ADAM
        onnx.save(model, target / name)


def _probe(model: Any) -> dict[str, FloatArray]:
    """Make a small batch with two lengths, as the training graph takes it (2 rows, 8 tokens)."""
    rng = np.random.default_rng(0)
    n_ids = model.get_input_embeddings().num_embeddings
    pad_id = model.config.pad_token_id or 0
    ids = rng.integers(min(5, n_ids - 2), n_ids - 1, (2, 8))
    mask = np.ones((2, 8), dtype=np.int64)
    ids[1, 5:], mask[1, 5:] = pad_id, 0
    labels = np.array([0, model.config.num_labels - 1])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": np.zeros((2, 8), dtype=np.int64),
        "labels": labels,
    }


def _check(target: Path, model: Any, trainable: list[str]) -> tuple[list[str], dict[str, float]]:
    """Compare the first step's logits, loss and gradients with torch's."""
    import torch
    from onnxruntime import InferenceSession
    from onnxruntime.training.api import CheckpointState

    batch = _probe(model)
    state = CheckpointState.load_checkpoint(str(target / "checkpoint"))
    session = InferenceSession(str(target / "training_model.onnx"), providers=["CPUExecutionProvider"])
    suffix = "_grad.accumulation.buffer"
    feeds: dict[str, Any] = {}
    for item in session.get_inputs():
        if item.name in batch:
            feeds[item.name] = batch[item.name]
        elif item.name.endswith(suffix):
            feeds[item.name] = np.zeros(
                state.parameters[item.name.removesuffix(suffix)].data.shape, np.float32
            )
        elif item.name == "lazy_reset_grad":
            feeds[item.name] = np.array([True])
        else:
            feeds[item.name] = state.parameters[item.name].data
    inputs = [item.name for item in session.get_inputs() if item.name in batch and item.name != "labels"]
    loss_name = session.get_outputs()[0].name
    loss, logits = session.run([loss_name, "logits"], feeds)  # gradients are added into the buffers fed

    model.zero_grad()
    torch_inputs = {name: torch.from_numpy(batch[name]) for name in inputs}
    expected = model(**torch_inputs).logits
    expected_loss = torch.nn.functional.cross_entropy(expected, torch.from_numpy(batch["labels"]))
    expected_loss.backward()
    worst = 0.0
    gradients = {name: p.grad for name, p in model.named_parameters()}
    total = float(
        torch.sqrt(sum((g**2).sum() for n, g in gradients.items() if n in trainable and g is not None))
    )
    for name in trainable:
        want = np.zeros(1, np.float32) if gradients[name] is None else gradients[name].numpy()
        difference = float(np.linalg.norm(feeds[name + suffix] - want))
        worst = max(worst, difference / max(float(np.linalg.norm(want)), 1e-4 * total, 1e-12))
    check = {
        "logits": float(np.abs(logits - expected.detach().numpy()).max()),
        "loss": float(abs(float(loss) - float(expected_loss.detach()))),
        "gradients": worst,
    }
    if not max(check.values()) <= CHECK_TOLERANCE:
        raise ArtifactsError(
            f"The exported graph of {model.config.model_type} does not train like torch "
            f"(differences: {check}); use --backend torch."
        )
    return inputs, check


def _save_rest(model: Any, in_graph: set[str], target: Path) -> None:
    """Keep the weights that the graph does not use, so that the saved Hugging Face folder is whole."""
    from safetensors.numpy import save_file

    rest = {
        name: np.ascontiguousarray(value.detach().numpy())
        for name, value in model.state_dict().items()
        if name not in in_graph and name not in _tied(model)
    }
    if rest:
        save_file(rest, target / "rest.safetensors")


def _tied(model: Any) -> dict[str, str]:
    """Return state-dict names that are another name's tensor, and which."""
    first: dict[int, str] = {}
    tied = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in first:
            tied[name] = first[id(value)]
        else:
            first[id(value)] = name
    return tied


def _describe(
    job: dict[str, Any], model: Any, missing: list[str], trainable: list[str], inputs: list[str]
) -> dict[str, Any]:
    from edgetune import __version__
    from edgetune.backends.ort_artifacts import SCHEMA_VERSION, ort_version

    config = model.config.to_dict()
    parameters = dict(model.named_parameters())
    return {
        "schema_version": SCHEMA_VERSION,
        "edgetune": __version__,
        "onnxruntime": ort_version(),
        "model": job["name"],
        "fingerprint": job["fingerprint"],
        "n_labels": job["n_labels"],
        "freeze": job["freeze"],
        "pad_id": int(config.get("pad_token_id") or 0),
        "max_positions": max_positions(config),
        "hidden_size": int(config.get("hidden_size") or config.get("dim") or 768),
        "initializer_range": float(config.get("initializer_range") or 0.02),
        "inputs": inputs,
        "trainable": trainable,
        "head": {name: list(parameters[name].shape) for name in missing},
        "parameters": sorted(parameters),
        "tied": _tied(model),
    }


def main() -> int:
    """Import, read the job, build, and answer with one JSON line."""
    answer: dict[str, Any]
    out = sys.stdout
    try:
        with quiet():
            import optimum.exporters.onnx  # noqa: F401
            import torch  # noqa: F401
            from transformers import AutoModelForSequenceClassification  # noqa: F401
    except ImportError:
        pass  # said when it is used, with the extra that brings it
    text = sys.stdin.read()
    if not text:
        return 1
    try:
        with contextlib.redirect_stdout(sys.stderr):
            build(json.loads(text))
        answer = {"ok": True}
    except EdgetuneError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        full = disk_is_full(error, Path(json.loads(text)["target"]))
        if not full and not isinstance(error, OSError):
            raise
        why = "no space left on the disk" if full else error
        answer = {
            "error": "EnvironmentError_",
            "message": f"Cannot write the artifacts: {why}; use --cache-dir.",
        }
    print(json.dumps(answer), file=out)
    return 0 if "ok" in answer else 1


if __name__ == "__main__":
    sys.exit(main())
