"""From a forward graph to the graphs that ONNX Runtime trains with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgetune.backends.base import ADAM_BETAS, ADAM_EPS, WEIGHT_DECAY
from edgetune.backends.graph_cut import LOGITS
from edgetune.backends.onnx_export import IR_VERSION
from edgetune.backends.ort_manifest import Linear

WEIGHTS = "weights"
TORCH_ADAM = 0  # epsilon after the bias correction, as torch has it; the generator sets 1, epsilon before it


def generate(model: Any, trainable: Iterable[str], target: Path) -> None:
    """Write training, eval and optimizer graphs and a checkpoint.

    Both graphs return `[loss, logits]`, the eval graph also what the last linear layer sees, if there is one.

    Args:
        model: ONNX model that gives `logits`; it may be changed.
        trainable: names of initializers.
        target: an existing folder.
    """
    from edgetune.backends.ort_runtime import import_training

    import_training()
    import onnx
    from onnxruntime.training import artifacts
    from onnxruntime.training.onnxblock import optim

    trained = sorted(trainable)
    head = head_input(model)
    artifacts.generate_artifacts(
        model,
        requires_grad=trained,
        frozen_params=sorted(float_initializers(model).difference(trained)),
        loss=_weighted_cross_entropy(),
        optimizer=optim.AdamW(betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=WEIGHT_DECAY),
        artifact_directory=target,
        additional_output_names=[LOGITS],
    )
    for name in ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx"):
        made = onnx.load(target / name)
        made.ir_version = min(made.ir_version, IR_VERSION)
        for node in made.graph.node:
            for attribute in node.attribute:
                if attribute.name == "adam_mode":
                    attribute.i = TORCH_ADAM
        if name == "eval_model.onnx" and head is not None:
            info = onnx.helper.make_tensor_value_info(head[0], onnx.TensorProto.FLOAT, ["rows", None])
            made.graph.output.append(info)
        onnx.save(made, target / name)


def _weighted_cross_entropy() -> Any:
    """Return the block that adds the loss: the mean over rows of weight times cross-entropy.

    It adds the graph inputs `labels` (B,) and `weights` (B,).
    """
    import onnx
    from onnxruntime.training import onnxblock

    class WeightedCrossEntropy(onnxblock.Block):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            super().__init__()
            self._losses = onnxblock.loss.CrossEntropyLoss(reduction="none")
            self._times = onnxblock.blocks.Mul()
            self._mean = onnxblock.blocks.ReduceMean(keepdims=False)

        def build(self, logits: str) -> str:
            losses = self._losses(logits)
            labels = self.base.graph.input[-1]
            weights = onnx.ValueInfoProto()
            weights.CopyFrom(labels)
            weights.name = WEIGHTS
            weights.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            self.base.graph.input.append(weights)
            mean: str = self._mean(self._times(losses, WEIGHTS))
            return mean

    return WeightedCrossEntropy()


def float_initializers(model: Any) -> set[str]:
    """Return the names of a model's floating-point initializers."""
    import onnx

    return {item.name for item in model.graph.initializer if item.data_type == onnx.TensorProto.FLOAT}


def head_input(model: Any) -> tuple[str, Linear] | None:
    """Find the linear layer that gives the logits: the tensor it sees (B, F), and its parameters.

    None where the logits are not `features @ weight.T + bias` with two initializers.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    weights = float_initializers(model)

    def inputs(name: str, kind: str) -> list[str]:
        node = made_by.get(name)
        return list(node.input) if node is not None and node.op_type == kind else []

    gemm = inputs(LOGITS, "Gemm")
    if gemm:
        values = {item.name: item.f or item.i for item in made_by[LOGITS].attribute}
        plain = values.get("transB") == 1 and not values.get("transA", 0)
        plain = plain and values.get("alpha", 1.0) == 1.0 and values.get("beta", 1.0) == 1.0
        if plain and len(gemm) == 3 and weights.issuperset(gemm[1:]):
            return gemm[0], Linear(weight=gemm[1], bias=gemm[2])
        return None
    terms = inputs(LOGITS, "Add")
    for bias, product in (terms, terms[::-1]) if terms else ():
        factors = inputs(product, "MatMul")
        turned = inputs(factors[1], "Transpose") if factors else []
        if bias in weights and turned and turned[0] in weights:
            return factors[0], Linear(weight=turned[0], bias=bias)
    return None
