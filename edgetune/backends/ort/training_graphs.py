"""From a forward graph to the graphs that ONNX Runtime trains with, and the check of them against torch.

The check compares logits, loss and gradients of the first training step once, when the graphs are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.backend_contract import ADAMW
from edgetune.backends.onnx_export import IR_VERSION, probe_batch
from edgetune.backends.ort.graph_cut import HIDDEN, LOGITS
from edgetune.backends.ort.manifest import Linear, ParityCheck
from edgetune.backends.ort.ort_runtime import import_training, open_session
from edgetune.utils.types import FloatArray, Labels

WEIGHTS = "weights"
TORCH_ADAM = 0  # epsilon after the bias correction, as torch has it; the generator sets 1, epsilon before it


_BINARY_CROSS_ENTROPY = """
loss (float[rows, classes] logits, float[rows, classes] labels) => (float[rows] loss_of_rows)
<float loss_half = {0.5}> {
    loss_size = Abs(logits)
    loss_sizes = Mul(loss_half, loss_size)
    loss_sides = Sub(loss_half, labels)
    loss_signed = Mul(loss_sides, logits)
    loss_linear = Add(loss_sizes, loss_signed)
    loss_sigmoid = Sigmoid(loss_size)
    loss_log = Log(loss_sigmoid)
    loss_of_classes = Sub(loss_linear, loss_log)
    loss_of_rows = ReduceMean<axes = [1], keepdims = 0>(loss_of_classes)
}
"""
"""|x| / 2 + (1/2 - y) x - log sigmoid(|x|): exact for large logits x, where log sigmoid(x) is -inf, with the
right gradient also at x = 0."""


def generate_training_graphs(
    model: Any, trainable: Iterable[str], target: Path, multi_label: bool = False
) -> None:
    """Write training, eval and optimizer graphs and a checkpoint into a folder; the model may be changed.

    Both graphs return `[loss, logits]`, the eval graph also what the last linear layer sees, if there is one.
    `trainable` are names of initializers; with `multi_label` the loss is that of multi-hot labels.
    """
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
        loss=_weighted_loss(multi_label),
        optimizer=optim.AdamW(**ADAMW),
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


def _weighted_loss(multi_label: bool) -> Any:
    """Return the block that adds the loss: the mean over rows of weight times cross-entropy.

    It adds the graph inputs `labels`, class ids (B,) or multi-hot (B, C), and `weights` (B,).
    """
    import onnx
    from onnxruntime.training import onnxblock

    class WeightedLoss(onnxblock.Block):  # type: ignore[misc]  # onnxruntime has no types
        def build(self, logits: str) -> str:
            graph, blocks = self.base.graph, onnxblock.blocks
            if multi_label:
                blocks.InputLike(logits)("labels")
                added = onnx.parser.parse_graph(_BINARY_CROSS_ENTROPY)
                graph.node.extend(added.node)
                graph.initializer.extend(added.initializer)
                losses = added.output[0].name
            else:
                losses = onnxblock.loss.CrossEntropyLoss(reduction="none")(logits)
            weights = onnx.ValueInfoProto()
            weights.CopyFrom(graph.input[-1])  # labels
            weights.name = WEIGHTS
            weights.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            del weights.type.tensor_type.shape.dim[1:]
            graph.input.append(weights)
            mean: str = blocks.ReduceMean(keepdims=False)(blocks.Mul()(losses, WEIGHTS))
            return mean

    return WeightedLoss()


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


GRADIENT = "_grad.accumulation.buffer"


class Reference:
    """What torch says of one batch.

    Attributes:
        batch: the inputs, `labels` (ids or multi-hot), and `weights` (B,), the factors of the rows' losses.
        multi_label: whether labels are multi-hot.
        logits: (B, C).
        loss: weighted mean over the batch (nats).
    """

    def __init__(self, model: Any, inputs: list[str], multi_label: bool = False) -> None:
        """Run torch forward and backward; `inputs` are what the model's graph takes of the batch."""
        import torch

        self.batch: dict[str, Labels] = {**probe_batch(model)}
        self.multi_label = multi_label
        model.zero_grad()
        given = {name: torch.from_numpy(self.batch[name]) for name in inputs}
        logits = model(**given).logits
        functional, labels = torch.nn.functional, torch.from_numpy(self.batch["labels"])
        if multi_label:  # two labels in one row, none in the other
            targets = torch.zeros_like(logits)
            targets[0, labels] = 1.0
            self.batch["labels"] = targets.numpy()
            of_classes = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            losses = of_classes.mean(dim=1)
        else:
            losses = functional.cross_entropy(logits, labels, reduction="none")
        # Unequal weights, so that graphs which ignored them would not pass.
        weights = np.linspace(0.5, 1.5, len(labels), dtype=np.float32)
        self.batch[WEIGHTS] = weights
        loss = (torch.from_numpy(weights) * losses).mean()
        loss.backward()
        self.logits: FloatArray = logits.detach().numpy()
        self.loss = float(loss.detach())
        self._gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}

    def gradient(self, name: str) -> FloatArray:
        """Return a parameter's gradient, a zero where torch has none."""
        found: FloatArray = self._gradients.get(name, np.zeros(1, np.float32))
        return found


def run_prefix(path: Path, reference: Reference) -> FloatArray:
    """Return the frozen layers' output for the reference's batch, zero at padding as from a cache."""
    session = open_session(path)
    found = session.run([HIDDEN], {item.name: reference.batch[item.name] for item in session.get_inputs()})[0]
    hidden: FloatArray = (found * reference.batch["attention_mask"][..., None]).astype(np.float32)
    return hidden


def compare_first_step(
    folder: Path, reference: Reference, trainable: list[str]
) -> tuple[list[str], ParityCheck]:
    """Make the first training step of a folder's graphs; return their inputs and how far they are off.

    For graphs that start from the hidden state (B, T, D) the reference's batch has it too.
    """
    state = import_training().CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    session = open_session(folder / "training_model.onnx")
    given: dict[str, Any] = reference.batch
    feeds: dict[str, Any] = {}
    names = [item.name for item in session.get_inputs()]
    for name in names:
        if name in given:
            feeds[name] = given[name]
        elif name.endswith(GRADIENT):
            feeds[name] = np.zeros(state.parameters[name.removesuffix(GRADIENT)].data.shape, np.float32)
        elif name == "lazy_reset_grad":
            feeds[name] = np.array([True])
        else:
            feeds[name] = state.parameters[name].data
    outputs = [session.get_outputs()[0].name, LOGITS]
    loss, logits = session.run(outputs, feeds)  # gradients go into the buffers
    check = ParityCheck(
        logits=float(np.abs(logits - reference.logits).max()),
        loss=abs(float(loss) - reference.loss),
        gradients=_worst({name: feeds[name + GRADIENT] for name in trainable}, reference),
    )
    return [name for name in names if name in given and name not in ("labels", WEIGHTS)], check


def _worst(gradients: dict[str, FloatArray], reference: Reference) -> float:
    """Return the largest |difference| / |gradient|; tiny gradients are measured by all of them."""
    norms = {name: float(np.linalg.norm(reference.gradient(name))) for name in gradients}
    total = float(np.sqrt(sum(norm**2 for norm in norms.values())))
    return max(
        (
            float(np.linalg.norm(found - reference.gradient(name))) / max(norms[name], 1e-4 * total, 1e-12)
            for name, found in gradients.items()
        ),
        default=0.0,
    )
