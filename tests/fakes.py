"""Stand-ins: a backend without a model, rows without a file, a history in memory, a clock set by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgetune.backends.backend_contract import Microbatches
from edgetune.backends.hidden_cache import HiddenCache
from edgetune.data.batches import Batch
from edgetune.devices.device_profile import FixedCosts, Memory
from edgetune.planning.plan import BackendCosts, DeviceCosts


def random_labels(rng: np.random.Generator, n: int, n_classes: int, multi_label: bool) -> np.ndarray:
    """Draw class ids (n,), or multi-hot labels (n, C)."""
    if multi_label:
        return (rng.random((n, n_classes)) < 0.4).astype(np.float32)
    return rng.integers(0, n_classes, n)


def make_batch(
    lengths: list[int], seed: int = 0, n_classes: int = 2, vocab_size: int = 50, multi_label: bool = False
) -> Batch:
    """Make a batch of random tokens (never a special one) with the given lengths."""
    rng = np.random.default_rng(seed)
    counts = np.array(lengths, dtype=np.int64)
    return Batch(
        rows=np.arange(len(lengths)),
        labels=random_labels(rng, len(lengths), n_classes, multi_label),
        tokens=rng.integers(5, vocab_size, counts.sum()).astype(np.int32),
        offsets=np.concatenate(([0], np.cumsum(counts))),
        first_lengths=np.maximum(counts // 2, 1),
        scored=np.zeros(len(lengths), dtype=np.bool_),
    )


class FakeClock:
    """Seconds that pass only when told to, or by a fixed amount at every look."""

    def __init__(self, tick_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.tick_s = tick_s

    def __call__(self) -> float:
        self.now_s += self.tick_s
        return self.now_s


class FakeSource:
    """Rows of random tokens; row number and label can be told from the batch."""

    def __init__(self, n_rows: int, seed: int = 0, longest: int = 40, multi_label: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = rng.integers(3, longest, n_rows).astype(np.int32)
        self.labels = random_labels(rng, n_rows, 2, multi_label)
        self.n_released = 0

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def n_numbered(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray) -> Batch:
        lengths = self.lengths[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        return Batch(
            rows=rows,
            labels=self.labels[rows],
            tokens=(np.repeat(rows, lengths) % 50).astype(np.int32),
            offsets=offsets,
            first_lengths=lengths,
            scored=np.zeros(len(rows), dtype=np.bool_),
        )

    def numbered(self, rows: np.ndarray) -> Batch:
        return self.batch(rows)

    def release(self) -> None:
        self.n_released += 1


def ragged(rows: list[list[int]], first: int = 0, labels: list[int] | None = None) -> Batch:
    """Rows of these tokens, from row `first` on, labels in turns; two tokens of each are the first text's."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return Batch(
        rows=np.arange(first, first + len(rows)),
        labels=np.arange(len(rows)) % 2 if labels is None else np.array(labels, dtype=np.int64),
        tokens=np.array([token for row in rows for token in row], dtype=np.int32),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        first_lengths=np.minimum(lengths, 2),
        scored=np.zeros(len(rows), dtype=np.bool_),
    )


@dataclass
class Call:
    """One call of a fake backend."""

    kind: str
    rows: list[int]
    lengths: list[int]
    lr: float | None = None


@dataclass
class FakeBackend:
    """Gives every row a loss of its own (nats); training a row does not change it.

    Attributes:
        losses: by row number.
        calls: what was asked, in order.
        weights: of each train step.
    """

    losses: np.ndarray
    calls: list[Call] = field(default_factory=list)
    weights: list[np.ndarray | None] = field(default_factory=list)
    name: ClassVar[str] = "fake"
    n_parameters: int = 1
    depth: int = 0
    cache: HiddenCache | None = None
    microbatches: Microbatches = field(default_factory=Microbatches)
    weight: np.ndarray = field(default_factory=lambda: np.zeros((2, 2), np.float32))
    bias: np.ndarray = field(default_factory=lambda: np.zeros(2, np.float32))

    def _logits(self, batch: Batch) -> np.ndarray:
        """Choose logits of two classes whose cross-entropy is the row's loss."""
        other = np.log(np.expm1(self.losses[batch.rows]))
        if batch.labels.ndim == 2:
            return (1 - 2 * batch.labels) * other[:, None]
        logits = np.zeros((len(batch), 2), dtype=np.float64)
        logits[np.arange(len(batch)), 1 - batch.labels] = other
        return logits

    def _record(self, kind: str, batch: Batch, lr: float | None = None) -> np.ndarray:
        self.calls.append(Call(kind, batch.rows.tolist(), batch.lengths.tolist(), lr))
        return self._logits(batch)

    def prefix(self, batch: Batch) -> np.ndarray:
        self._record("prefix", batch)
        return np.zeros((len(batch), int(batch.lengths.max()), 1), dtype=np.float32)

    def features(self, batch: Batch) -> np.ndarray:
        return self._record("features", batch)

    def head(self) -> tuple[np.ndarray, np.ndarray]:
        return self.weight.copy(), self.bias.copy()

    def set_head(self, weight: np.ndarray, bias: np.ndarray) -> None:
        self.weight, self.bias = weight, bias

    def score(self, batch: Batch, keep: bool = True) -> np.ndarray:
        return self._record("score", batch)

    def train_step(self, batch: Batch, lr: float, weights: np.ndarray | None = None) -> np.ndarray:
        self.weights.append(weights)
        return self._record("train", batch, lr)

    def state(self) -> bytes:
        return b"first" if not self.rows_of("train") else b"later"

    def load_state(self, state: bytes) -> None:
        self.calls.append(Call(f"load {state.decode()}", [], []))

    def save(self, folder: Path, label_names: tuple[str, ...], skip_onnx: bool = False) -> None:
        for name in ("model", "onnx"):
            (folder / name).mkdir()

    def rows_of(self, kind: str) -> list[int]:
        """Return all rows of one kind of call, in order."""
        return [row for call in self.calls if call.kind == kind for row in call.rows]


@dataclass
class FakeHistory:
    """Keeps the records."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def append(self, /, **fields: Any) -> None:
        self.lines.append(dict(fields))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the lines of one kind."""
        return [line for line in self.lines if line["kind"] == kind]


@dataclass(frozen=True)
class FakeCost:
    """Seconds of an encoder whose steps are affine in rows times tokens; layers all cost the same.

    Attributes:
        token_s: a forward pass of one token through all layers.
        call_s: of every call.
        n_layers: of the encoder.
    """

    token_s: float = 2e-4
    call_s: float = 0.01
    n_layers: int = 6

    def seconds(self, op: str, batch: int, length: int, depth: int) -> float:
        below = depth / self.n_layers
        share = {"prefix": below, "score": 1 - below, "train": 3 * (1 - below)}[op]
        return self.call_s + self.token_s * batch * length * share


def fake_costs(key: str = "ort-fp32", cost: FakeCost | None = None, **fixed: float) -> BackendCosts:
    """Make a backend's costs; every fixed cost is 1 s unless said otherwise."""
    names = ("import_s", "open_s", "open_depth_s", "export_s", "save_s", "save_model_s")
    backend, precision = key.split("-")[:2]
    return BackendCosts(
        key=key,
        backend=backend,
        precision=precision,
        threads=2,
        fixed=FixedCosts(**(dict.fromkeys(names, 1.0) | fixed)),
        memory=Memory(base_mb=300, score_mb_per_token=0.05, train_mb_per_token=0.2),
        cost=cost or FakeCost(),
        imports_early=backend == "ort",
    )


def fake_device(*backends: BackendCosts, **changed: Any) -> DeviceCosts:
    """Make a device of one backend, or of those given."""
    values: dict[str, Any] = {
        "name": "fake",
        "note": "",
        "foreign": False,
        "uncertainty": 0.1,
        "n_layers": 6,
        "hidden_size": 384,
        "start_s": 0.5,
        "report_s": 1.0,
        "exit_s": 0.2,
        "depths": tuple(range(6)),
        "busy_w": 50.0,
        "power_source": "fake",
    }
    return DeviceCosts(**(values | changed), backends=backends or (fake_costs(),))
