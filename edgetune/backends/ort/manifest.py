"""What training artifacts say of themselves, in their `manifest.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 6


class ParityCheck(BaseModel):
    """How far the first step was from torch's when the artifacts were made.

    Attributes:
        logits: largest absolute difference of the logits.
        loss: absolute difference of the mean loss (nats).
        gradients: largest over parameters of |difference| / |gradient| (norms).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    logits: float
    loss: float
    gradients: float


class Linear(BaseModel):
    """The last linear layer: parameters `weight` (C, F) and `bias` (C,)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: str
    bias: str


class Cut(BaseModel):
    """The graphs in `cut/`.

    Attributes:
        depth: layers in the prefix.
        prefix_inputs: of the prefix, in order.
        inputs: of the suffix, in order; `hidden` is the prefix's output (B, T, D).
        check: prefix and suffix together against torch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    depth: int
    prefix_inputs: list[str]
    inputs: list[str]
    check: ParityCheck


class FileSum(BaseModel):
    """Size and SHA-256 of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    n_bytes: int
    sha256: str


class Manifest(BaseModel):
    """What artifacts are, written beside them.

    Attributes:
        files: every file but this one, by its path in the folder.
        checksum: of the manifest itself (`artifact_sums.sealed`).
        multi_label: whether the loss is that of rows with any number of labels.
        linear: the head's last layer, whose input the eval graphs also return (None: there is no such).
        pools_mean: whether the last layer is the one that pools (`models.mean_pooling`).
        cut: None where no layer is frozen, or the graph cannot be cut above the frozen ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: Literal[6] = 6
    edgetune: str
    onnxruntime: str
    model: str
    fingerprint: str
    n_labels: int
    multi_label: bool = False
    freeze: str
    pools_mean: bool = False
    pad_id: int
    max_positions: int
    hidden_size: int
    initializer_range: float
    inputs: list[str]
    trainable: list[str]
    head: dict[str, list[int]]
    parameters: list[str]
    tied: dict[str, str]
    notes: list[str] = []
    check: ParityCheck
    linear: Linear | None = None
    cut: Cut | None = None
    files: dict[str, FileSum]
    checksum: str
