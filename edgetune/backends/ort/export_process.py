"""The child process that makes training artifacts: reads one JSON job from stdin, answers with one line.

It imports torch and the exporter before it reads the job, so that the parent can tokenize meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.model_loader import convert_tokenizer
from edgetune.backends.onnx_export import export_graph, load_torch_model, native_stderr_to, quiet
from edgetune.backends.ort.artifacts import CUT_FOLDER, PREFIX, ort_version
from edgetune.backends.ort.graph_cut import HIDDEN, Halves, cut_graph
from edgetune.backends.ort.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Cut,
    ParityCheck,
    checksums_of,
    with_checksum,
)
from edgetune.backends.ort.training_graphs import (
    Reference,
    compare_first_step,
    float_initializers,
    generate_training_graphs,
    head_input,
    run_prefix,
)
from edgetune.config.settings import frozen_depth
from edgetune.models.source import is_position_table, max_positions, trainable_names
from edgetune.run_files.run_folder import disk_is_full
from edgetune.utils.errors import ArtifactsError, EdgetuneError
from edgetune.utils.isolation import no_network


def build_artifacts(job: dict[str, Any]) -> None:
    """Export, repair, cut, generate, check, and describe one set of artifacts.

    Args:
        job: `folder` of the model, its `name` and `fingerprint`, `n_labels`, `multi_label`, `freeze`,
            `pools_mean`, `target` folder.
    """
    target = Path(job["target"])
    model, missing = load_torch_model(Path(job["folder"]), job["n_labels"], "eager", job["pools_mean"])
    names = [name for name, _ in model.named_parameters()]
    notes: list[str] = []
    trainable = trainable_names(names, job["freeze"], job["pools_mean"])
    tables = {name for name in trainable if is_position_table(name)}
    trainable = _without(tables, trainable, "training it on ONNX Runtime corrupts memory", notes)
    depth = frozen_depth(job["freeze"])
    with tempfile.TemporaryDirectory(dir=target) as scratch:  # on the target's disk
        graph = export_graph(model, Path(scratch) / "forward.onnx")
    in_graph = float_initializers(graph)
    reference = Reference(model, [item.name for item in graph.graph.input], job["multi_label"])
    # What the graph does not use has no gradient; any other absence is an exporter's fault.
    lost = [name for name in trainable if name not in in_graph and reference.gradient(name).any()]
    if lost:
        raise ArtifactsError(
            f"Exporting {job['name']} merged or dropped {len(lost)} trainable parameters ({lost[0]}…); "
            "train it with --backend torch."
        )
    trainable = [name for name in trainable if name in in_graph]
    halves = cut_graph(graph, depth, names) if depth > 0 else None
    if halves is not None:
        trainable = _without(halves.prefix_weights, trainable, "the frozen layers use it too", notes)
    linear = head_input(graph)
    with tempfile.TemporaryDirectory() as scratch, native_stderr_to(Path(scratch) / "log.txt"):
        inputs, check = _train_graphs(graph, trainable, target, reference)
        if not check.passes:
            raise ArtifactsError(
                f"The exported graph of {model.config.model_type} does not reproduce PyTorch training "
                f"(differences: {check.model_dump()}); use --backend torch."
            )
        cut = None if halves is None else _build_cut(halves, depth, trainable, reference, target / CUT_FOLDER)
    if depth > 0 and cut is None:
        notes.append(
            f"{job['name']} cannot be split above layer {depth}: its frozen layers are computed in every step"
        )
    _save_rest(model, in_graph, target)
    convert_tokenizer(Path(job["folder"]), target)
    model.config.architectures = [type(model).__name__]  # as transformers writes it beside the weights
    model.config.save_pretrained(target)
    manifest = _describe(job, model, missing)
    manifest |= {"inputs": inputs, "trainable": trainable, "notes": notes, "check": check.model_dump()}
    manifest["linear"] = None if linear is None else linear[1].model_dump()
    manifest["cut"] = None if cut is None else cut.model_dump()
    manifest["files"] = checksums_of(target)
    (target / MANIFEST).write_text(json.dumps(with_checksum(manifest), indent=1), encoding="utf-8")


def _without(frozen: set[str], trainable: list[str], why: str, notes: list[str]) -> list[str]:
    """Leave out parameters that stay frozen, and note it."""
    left_out = [name for name in trainable if name in frozen]
    if left_out:
        notes.append(f"{', '.join(left_out)} stays frozen: {why}")
    return [name for name in trainable if name not in frozen]


def _train_graphs(
    graph: Any, trainable: list[str], folder: Path, reference: Reference
) -> tuple[list[str], ParityCheck]:
    """Write training graphs and compare them; the last layer computes the first token only where it may."""
    import onnx

    from edgetune.backends.ort.onnx_first_token import push_first_token

    short = onnx.ModelProto()
    short.CopyFrom(graph)
    if push_first_token(short):
        with contextlib.suppress(Exception):  # of the gradient builder; the plain graph has yet to be tried
            generate_training_graphs(short, trainable, folder, reference.multi_label)
            inputs, check = compare_first_step(folder, reference, trainable)
            if check.passes:
                return inputs, check
    generate_training_graphs(graph, trainable, folder, reference.multi_label)
    return compare_first_step(folder, reference, trainable)


def _build_cut(
    halves: Halves, depth: int, trainable: list[str], reference: Reference, folder: Path
) -> Cut | None:
    """Write the prefix and the suffix's training graphs; None (and no folder) where they are off."""
    import onnx

    folder.mkdir()
    onnx.save(halves.prefix, folder / PREFIX)
    prefix_inputs = [item.name for item in halves.prefix.graph.input]
    reference.batch[HIDDEN] = run_prefix(folder / PREFIX, reference)
    inputs, check = _train_graphs(halves.suffix, trainable, folder, reference)
    if check.passes:
        return Cut(depth=depth, prefix_inputs=prefix_inputs, inputs=inputs, check=check)
    shutil.rmtree(folder)
    return None


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
    names = {
        name: first.setdefault(id(value), name) for name, value in model.state_dict(keep_vars=True).items()
    }
    return {name: other for name, other in names.items() if other != name}


def _describe(job: dict[str, Any], model: Any, missing: list[str]) -> dict[str, Any]:
    """Return what the manifest says of the job and of the model."""
    from edgetune.utils.version import __version__

    config = model.config.to_dict()
    parameters = dict(model.named_parameters())
    said = ("fingerprint", "n_labels", "multi_label", "freeze", "pools_mean")
    return {
        "schema_version": SCHEMA_VERSION,
        "edgetune": __version__,
        "onnxruntime": ort_version(),
        "model": job["name"],
        **{name: job[name] for name in said},
        "pad_id": int(config.get("pad_token_id") or 0),
        "max_positions": max_positions(config),
        "hidden_size": int(config.get("hidden_size") or config.get("dim") or 768),
        "initializer_range": float(config.get("initializer_range") or 0.02),
        "head": {name: list(parameters[name].shape) for name in missing},
        "parameters": sorted(parameters),
        "tied": _tied(model),
    }


def main() -> int:
    """Import, read the job, build, and answer with one JSON line."""
    answer: dict[str, Any]
    out = sys.stdout
    no_network()
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
            build_artifacts(json.loads(text))
        answer = {"ok": True}
    except EdgetuneError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        full = disk_is_full(error, Path(json.loads(text)["target"]))
        if not full and not isinstance(error, OSError):
            raise
        why = "no space left on the disk" if full else error
        answer = {
            "error": "MissingDependencyError",
            "message": f"Cannot write the artifacts: {why}; choose another folder with --cache-dir "
            "or EDGETUNE_CACHE.",
        }
    print(json.dumps(answer), file=out)
    return 0 if "ok" in answer else 1


if __name__ == "__main__":
    sys.exit(main())
