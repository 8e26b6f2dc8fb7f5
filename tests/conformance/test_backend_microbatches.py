"""Where memory runs out, a step is made in parts: the same step, on every backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_factories import FACTORIES, LR
from conftest import child_environment
from fakes import make_batch

from edgetune.backends.backend_contract import Microbatches, out_of_memory
from edgetune.data.batches import Batch
from edgetune.utils.errors import ResourceError

every_backend = pytest.mark.parametrize("name", sorted(FACTORIES))
LENGTHS = [9, 30, 17, 5, 12, 26, 8]


@every_backend
@pytest.mark.parametrize("freeze", ["embeddings", "1"])
@pytest.mark.parametrize(("weighted", "multi_label"), [(True, False), (False, True)])
@pytest.mark.parametrize("by_tokens", [False, True])
def test_a_step_in_parts_is_the_same_step(
    name: str,
    freeze: str,
    weighted: bool,
    multi_label: bool,
    by_tokens: bool,
    artifacts_of: Any,
    tiny_model: Path,
) -> None:
    kind = {"freeze": freeze, "multi_label": multi_label}
    whole, parted = (FACTORIES[name](artifacts_of, tiny_model, **kind) for _ in range(2))
    if by_tokens:  # three rows as wide as the widest
        parted.most_tokens = 3 * make_batch(LENGTHS).width
    else:
        parted.microbatches.max_rows = 3
    rng = np.random.default_rng(0)
    for seed in range(4):
        batch = make_batch(LENGTHS, seed, multi_label=multi_label)
        weights = rng.random(len(batch)) + 0.5 if weighted else None
        expected, found = (one.train_step(batch, LR, weights) for one in (whole, parted))
        np.testing.assert_allclose(found, expected, atol=2e-5)
        np.testing.assert_allclose(parted.score(batch), whole.score(batch), atol=2e-5)
    before = FACTORIES[name](artifacts_of, tiny_model, **kind).weights()
    moved = 0.0
    for key, value in whole.weights().items():
        if key.endswith("key.bias"):
            continue  # its true gradient is 0, and AdamW makes a step of the rounding error
        np.testing.assert_allclose(parted.weights()[key], value, atol=5e-5, err_msg=key)
        moved = max(moved, float(np.abs(value - before[key]).max()))
    assert moved > 1e-3


@every_backend
def test_memory_that_runs_out_halves_the_rows(
    name: str, artifacts_of: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, short = (FACTORIES[name](artifacts_of, tiny_model) for _ in range(2))
    padded, asked = Batch.padded, []

    def limited(self: Batch, *more: Any, **settings: Any) -> Any:
        asked.append(len(self))
        if len(self) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return padded(self, *more, **settings)

    batch = make_batch(LENGTHS)
    expected = [whole.train_step(batch, LR), whole.score(batch)]
    monkeypatch.setattr(Batch, "padded", limited)
    found = [short.train_step(batch, LR), short.score(batch)]
    assert asked[:6] == [7, 4, 2, 2, 2, 1]
    assert short.microbatches.max_rows == 2
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_no_memory_for_one_row_is_a_sentence() -> None:
    def never(batch: Any, place: slice) -> Any:
        raise MemoryError

    with pytest.raises(ResourceError, match="memory"):
        Microbatches().run(make_batch(LENGTHS), never, lambda: None)


def test_other_errors_are_no_lack_of_memory() -> None:
    assert not out_of_memory(ValueError("shape mismatch"))
    assert out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))


REAL = """
import resource, sys
from pathlib import Path
import numpy as np
sys.path[:0] = [{tests!r}]
from fakes import make_batch
from edgetune.backends.torch.torch_backend import TorchBackend
from edgetune.models.source import resolve_model
backend = TorchBackend(resolve_model({model!r}), 2, "embeddings", 0, threads=1, precision="fp32")
backend.train_step(make_batch([8] * 4), 1e-3)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 120_000_000, resource.RLIM_INFINITY))
logits = backend.train_step(make_batch([120] * 1024), 1e-3)
assert np.isfinite(logits).all() and logits.shape == (1024, 2)
print(backend.microbatches.max_rows)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_real_memory_runs_out(tiny_model: Path) -> None:
    script = REAL.format(tests=str(Path(__file__).resolve().parent.parent), model=str(tiny_model))
    # The limit is one of addresses. Another arena of glibc's would take 64 MB of them, or not, as threads
    # happen to meet; and what glibc moves from mmap to its heap, as it does once large pieces were freed,
    # keeps its addresses, in pieces that no later tensor may fit into.
    environment = child_environment(MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="65536")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) < 1024
