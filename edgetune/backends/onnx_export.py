"""A torch classifier → an ONNX graph whose initializers are its parameters, one each, by name.

Runs only where torch, transformers, optimum-onnx and onnx are. Works around what torch's exporter does:

1. It merges initializers with equal contents (fresh zero biases). Every parameter is given distinct
   values while the graph is traced, and its own values back afterwards, so nothing is ever merged.
2. `LayerNormalization` nodes come with one output; the gradient builder needs all three.
3. The IR version is newer than the runtime reads.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.models.mean_pooling import CONFIG_KEY, MEAN, is_pooled, write_pooling
from edgetune.models.source import is_embedding, layer_number, takes_segments
from edgetune.models.vocabulary import pad_token_id
from edgetune.utils.errors import MissingDependencyError, ModelError, requires_extra
from edgetune.utils.isolation import no_telemetry
from edgetune.utils.machine import return_memory
from edgetune.utils.sanitize import brief
from edgetune.utils.types import IntArray

IR_VERSION = 10
OPSET = 17
PROBE_TOKENS = 8
LOADING_ERRORS = (OSError, ValueError, RuntimeError, LookupError, AttributeError, TypeError, AssertionError)
"""What transformers and torch raise where a config asks for a model that cannot be."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings, log lines and progress bars from the user."""
    for name in ("transformers", "optimum", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def load_torch_model(
    folder: Path, n_labels: int, attention: str, pools_mean: bool = False
) -> tuple[Any, list[str]]:
    """Load a sequence classifier in eval mode.

    Args:
        folder: Hugging Face folder.
        n_labels: outputs of the head; a head of another size is drawn anew.
        attention: `eager` for export, `sdpa` for training by torch.
        pools_mean: whether its head is to read the mean; a layer is added for that where there is none yet.

    Returns:
        The model, and the names of the parameters that the weights did not have.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        ModelError: the weights do not fit, or the architecture is no classifier.
    """
    no_telemetry()
    try:
        from transformers import AutoConfig, AutoModelForSequenceClassification
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise MissingDependencyError(
            f"{error.name or 'transformers'} cannot be imported ({brief(error)}); run `pip install "
            '"edgetune[cpu]"`.'
        ) from error
    transformers_logging.set_verbosity_error()
    try:
        with quiet():
            config = AutoConfig.from_pretrained(
                folder, num_labels=n_labels, local_files_only=True, trust_remote_code=False
            )
            config.problem_type = "single_label_classification"
            config.pad_token_id = pad_token_id(config.to_dict(), folder)
            adds_layer = pools_mean and not is_pooled(config.to_dict())
            if adds_layer:
                config.num_hidden_layers += 1
                setattr(config, CONFIG_KEY, MEAN)
            if hasattr(config, "reference_compile"):  # ModernBERT compiles itself otherwise
                config.reference_compile = False
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                attn_implementation=attention,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                torch_dtype="float32",
            )
    except LOADING_ERRORS as error:
        if attention == "sdpa" and "attention" in str(error).lower():
            return load_torch_model(folder, n_labels, "eager", pools_mean)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{folder} cannot be loaded as a text classifier: {first[:300]}") from error
    names = {name for name, _ in model.named_parameters()}
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    strange = [name for name in mismatched if is_embedding(name) or layer_number(name) is not None]
    if strange:
        raise ModelError(
            f"{folder} cannot be loaded as a text classifier: {strange[0]} has another size than config.json "
            "says; download or save the model again."
        )
    written = write_pooling(model) if adds_layer else set()
    missing = sorted(names.intersection([*info["missing_keys"], *mismatched]) - written)
    if len(missing) > max(8, len(names) // 2):
        raise ModelError(
            f"The weights in {folder} cover only {len(names) - len(missing)} of the model's {len(names)} "
            "parameters; they belong to a different architecture."
        )
    return model.eval(), missing


def load_classifier(folder: Path, n_labels: int, attention: str) -> Any:
    """Load a trained classifier; arguments and errors as of `load_torch_model`.

    Raises:
        ModelError: there is an encoder alone, whose head would be drawn at random.
    """
    model, missing = load_torch_model(folder, n_labels, attention)
    head = [name for name in missing if not is_embedding(name) and layer_number(name) is None]
    if head:
        raise ModelError(
            f"{folder} holds an encoder without a trained classifier ({head[0]} is missing); pass the run "
            f"folder that it belongs to, or train one with `edgetune finetune FILE --model {folder}`."
        )
    return model


def export_graph(model: Any, target: Path) -> Any:
    """Write the classifier's ONNX graph, weights inside, and return it.

    Raises:
        MissingDependencyError: optimum-onnx is not installed.
        ModelError: the exporter does not know the architecture.
    """
    with requires_extra("cpu", "exporting"):
        from optimum.exporters.onnx import export
        from optimum.exporters.tasks import TasksManager
    import onnx

    try:
        constructor = TasksManager.get_exporter_config_constructor(
            exporter="onnx", model=model, task="text-classification", library_name="transformers"
        )
        onnx_config = constructor(model.config)
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"The ONNX exporter does not support {model.config.model_type} classifiers ({error}); "
            "train with --backend torch --no-onnx."
        ) from error
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, _distinct_parameters(model), quiet():
        raw = Path(scratch) / "raw.onnx"
        export(model, onnx_config, raw, opset=OPSET, do_constant_folding=False, disable_dynamic_axes_fix=True)
        return_memory()  # what tracing needed, before the graph is loaded
        graph = onnx.load(raw)
    _repair(graph, model)
    onnx.save(graph, target)
    return graph


@contextlib.contextmanager
def _distinct_parameters(model: Any) -> Iterator[None]:
    """Give every parameter contents of its own while the graph is traced."""
    import torch

    generator = torch.Generator().manual_seed(0)
    kept = []
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1 or parameter.numel() <= 4096 or float(parameter.abs().max()) == 0.0:
                kept.append((parameter, parameter.detach().clone()))
                noise = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(0.01 + noise.to(parameter.device))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)


def _repair(graph: Any, model: Any) -> None:
    """Put the true weights back, complete LayerNormalization, and set the IR version."""
    from onnx import numpy_helper

    parameters = dict(model.named_parameters())
    for initializer in graph.graph.initializer:
        value = parameters.get(initializer.name)
        if value is not None:
            array = np.ascontiguousarray(value.detach().cpu().numpy(), dtype=np.float32)
            # protobuf frees a replaced tensor only with the whole graph; most have their true values already
            if not np.array_equal(numpy_helper.to_array(initializer), array):
                initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    for node in graph.graph.node:
        if node.op_type == "LayerNormalization":
            for suffix in ("mean", "inv_std")[len(node.output) - 1 :]:
                node.output.append(f"{node.output[0]}_{suffix}")
    graph.ir_version = IR_VERSION


@contextlib.contextmanager
def native_stderr_to(path: Path) -> Iterator[None]:
    """Send what native code writes to stderr (hundreds of INFO lines) into a file instead."""
    saved = os.dup(2)
    with path.open("wb") as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def probe_batch(model: Any) -> dict[str, IntArray]:
    """Make a batch as a torch classifier takes it: 2 rows of 8 and 5 tokens, padded, with `labels`."""
    rng = np.random.default_rng(0)
    n_ids = model.get_input_embeddings().num_embeddings
    ids = rng.integers(min(5, n_ids - 2), n_ids - 1, (2, PROBE_TOKENS))
    mask = np.ones((2, PROBE_TOKENS), dtype=np.int64)
    ids[1, 5:], mask[1, 5:] = model.config.pad_token_id or 0, 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": np.zeros((2, PROBE_TOKENS), dtype=np.int64),
        "labels": np.array([0, model.config.num_labels - 1]),
    }


def torch_probe(model: Any) -> dict[str, Any]:
    """Return the probe as tensors where a torch classifier is: what it takes of it, without labels."""
    import torch

    batch = probe_batch(model)
    names = ["input_ids", "attention_mask"]
    if takes_segments(model.config.to_dict()):
        names.append("token_type_ids")
    return {name: torch.from_numpy(batch[name]).to(model.device) for name in names}
