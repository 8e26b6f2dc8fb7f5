"""Open one backend for measuring, as a run would open it, and make batches to measure it on."""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetune.backends.backend_contract import Backend
from edgetune.backends.hidden_cache import HiddenCache
from edgetune.config.settings import freeze_of
from edgetune.data.batches import Batch
from edgetune.models.source import ModelSource, resolve_model
from edgetune.utils.errors import UsageError

LABELS = ("no", "yes")
SEED = 0
CACHE_MB = 400.0
_FIRST_WORD = 5  # ids below are special tokens in most vocabularies


@dataclass(frozen=True)
class MeasurementJob:
    """What one child process measures.

    Attributes:
        backend: `ort` or `torch`.
        precision: `fp32` or `bf16`.
        device: `cpu` or `cuda`.
        model: name or folder.
        artifacts: folder of training artifacts by depth, for `ort`.
        tokenizer: folder of the fast tokenizer.
        scratch: folder for files that are thrown away.
    """

    backend: str
    precision: str
    device: str
    model: str
    artifacts: Mapping[str, str]
    tokenizer: str
    scratch: str

    @property
    def key(self) -> str:
        """How the backend is named in a profile."""
        return f"{self.backend}-{self.precision}" + ("" if self.device == "cpu" else f"-{self.device}")


def import_runtime(backend: str) -> float:
    """Import what the backend needs; return the seconds it took."""
    started = time.perf_counter()
    importlib.import_module(f"edgetune.backends.{backend}.{backend}_backend")
    if backend == "ort":
        from edgetune.backends.ort.ort_runtime import import_training

        import_training()
    else:
        importlib.import_module("torch")
        importlib.import_module("transformers").AutoModelForSequenceClassification  # noqa: B018  # loads it
    return time.perf_counter() - started


class OpenedBackends:
    """Backends of one job by depth, and the batches that they are measured on."""

    def __init__(self, job: MeasurementJob) -> None:
        self.job = job
        self._source = resolve_model(job.model)
        self._backends: dict[int, Backend] = {}
        self._batches: dict[tuple[int, int], Batch] = {}
        self._filled: set[tuple[int, int, int]] = set()
        self._n_rows = 0
        self._rng = np.random.default_rng(SEED)

    def open(self, depth: int, threads: int | None, onnx: bool = True) -> float:
        """Open a backend at a depth, in place of one that was open there; return the seconds it took."""
        self.close(depth)
        started = time.perf_counter()
        source = resolve_model(self.job.model)
        make = self._ort if self.job.backend == "ort" else self._torch
        backend = self._backends[depth] = make(source, depth, threads, onnx)
        seconds = time.perf_counter() - started
        if backend.depth != depth:
            self.close(depth)
            raise UsageError(f"{source.name} cannot be split above layer {depth}")
        return seconds

    def _ort(self, source: ModelSource, depth: int, threads: int | None, onnx: bool) -> Backend:
        from edgetune.backends.ort.artifacts import load_artifacts
        from edgetune.backends.ort.ort_backend import OrtBackend

        source.fingerprint()  # a run needs it to find its artifacts
        artifacts = load_artifacts(Path(self.job.artifacts[str(depth)]), len(LABELS))
        return OrtBackend(artifacts, SEED, device=self.job.device, threads=threads, cache=_cache(depth))

    def _torch(self, source: ModelSource, depth: int, threads: int | None, onnx: bool) -> Backend:
        from edgetune.backends.torch.torch_backend import TorchBackend

        return TorchBackend(
            source,
            len(LABELS),
            freeze_of(depth),
            SEED,
            device=self.job.device,
            precision=self.job.precision,
            threads=threads,
            onnx=onnx,
            tokenizer_folder=Path(self.job.tokenizer),
            cache=_cache(depth),
        )

    def backend(self, depth: int) -> Backend:
        """Return the backend that is open at a depth."""
        return self._backends[depth]

    def close(self, depth: int) -> None:
        """Let a backend go, if it is open."""
        self._backends.pop(depth, None)
        self._filled = {key for key in self._filled if key[0] != depth}
        gc.collect()

    def batch(self, size: int, length: int) -> Batch:
        """Return random rows of one length, the same ones every time; no two shapes share a row."""
        if (size, length) not in self._batches:
            n_words = int(self._source.config.get("vocab_size") or 1000)
            self._batches[size, length] = Batch(
                rows=np.arange(self._n_rows, self._n_rows + size),
                labels=self._rng.integers(0, len(LABELS), size),
                tokens=self._rng.integers(min(_FIRST_WORD, n_words - 1), n_words, size * length),
                offsets=np.arange(size + 1) * length,
                first_lengths=np.full(size, length),
                scored=np.zeros(size, dtype=np.bool_),
            )
            self._n_rows += size
        return self._batches[size, length]

    def warm(self, op: str, size: int, length: int, depth: int, call: bool) -> None:
        """Bring the hidden states to hand that `score` and `train` find there; call once if asked."""
        backend, batch = self._backends[depth], self.batch(size, length)
        if depth > 0 and op != "prefix" and (depth, size, length) not in self._filled:
            backend.score(batch)
            self._filled.add((depth, size, length))
        if call:
            self._operation(op, depth)(batch)

    def run(self, op: str, size: int, length: int, depth: int, n: int) -> list[float]:
        """Time `n` calls one by one."""
        call, batch = self._operation(op, depth), self.batch(size, length)
        seconds = []
        for _ in range(n):
            started = time.perf_counter()
            call(batch)
            seconds.append(time.perf_counter() - started)
        return seconds

    def _operation(self, op: str, depth: int) -> Callable[[Batch], object]:
        backend = self._backends[depth]
        calls: dict[str, Callable[[Batch], object]] = {
            "prefix": backend.prefix,
            "score": backend.score,
            "train": lambda batch: backend.train_step(batch, 0.0),
        }
        return calls[op]


def _cache(depth: int) -> HiddenCache | None:
    """Return room for the hidden states of every batch that is measured."""
    return HiddenCache(CACHE_MB, 0.0, None) if depth > 0 else None
