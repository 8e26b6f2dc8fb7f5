"""A checkpoint comes back as it was, or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.run_files.checkpoint import KEPT, checkpoint_files, newest_checkpoint, write_checkpoint
from edgetune.utils.errors import RunError

Numbers = st.integers(-(2**127), 2**127) | st.floats() | st.booleans() | st.none() | st.text(max_size=5)
Arrays = st.builds(
    lambda n, kind, seed: np.random.default_rng(seed).integers(0, 100, n).astype(kind),
    st.integers(0, 40),
    st.sampled_from(["int32", "int64", "float32", "float64", "bool", "uint8"]),
    st.integers(0, 9),
)
Keys = st.text(max_size=6).filter(lambda key: key != "$array")  # what stands for an array in the file
States = st.recursive(
    Numbers | Arrays,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(Keys, inner, max_size=4),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(Keys, States, max_size=5), st.binary(max_size=200))
def test_comes_back_as_it_was(state: dict[str, Any], backend: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), state, backend)
        found = newest_checkpoint(Path(folder))
    assert found is not None
    assert same(found.state, state)
    assert found.backend == backend


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_seen_wherever_it_is(data: st.DataObject) -> None:
    first, second = ({"rows": np.arange(n), "step": n, "rng": {"seed": 2**100}} for n in (30, 50))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_checkpoint(home, first, b"older" * 20)
        path = write_checkpoint(home, second, b"newer" * 20)
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[at:]
        else:
            content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        found = newest_checkpoint(home)
    assert found is not None
    if found.path == path:  # a byte that means nothing, such as of the date
        assert same(found.state, second)
        assert found.backend == b"newer" * 20
    else:
        assert same(found.state, first)
        assert found.backend == b"older" * 20
        assert found.damaged == (path,)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for n in range(5):
        write_checkpoint(tmp_path, {"n": n}, b"")
    assert len(checkpoint_files(tmp_path)) == KEPT
    assert [path.name for path in checkpoint_files(tmp_path)] == ["00000004.ckpt", "00000005.ckpt"]
    (tmp_path / "checkpoints" / "mine.ckpt").write_text("what lies beside them is left alone")
    write_checkpoint(tmp_path, {"n": 5}, b"")
    assert (tmp_path / "checkpoints" / "mine.ckpt").exists()


def test_a_state_that_cannot_be_kept_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for bad in ({1: "a"}, {"a": object()}, {"a": {2.5: 1}}, {"a": {"$array": 0}}):
        with pytest.raises(TypeError):
            write_checkpoint(tmp_path, bad, b"")  # type: ignore[arg-type]
    assert not (tmp_path / "checkpoints").exists()


def test_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetune.run_files.checkpoint.SCHEMA_VERSION", 1)
    write_checkpoint(tmp_path, {}, b"")
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"older edgetune"):
        newest_checkpoint(tmp_path)


def test_none_and_newer_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert newest_checkpoint(tmp_path) is None
    monkeypatch.setattr("edgetune.run_files.checkpoint.SCHEMA_VERSION", 1_000)
    write_checkpoint(tmp_path, {}, b"")
    monkeypatch.undo()
    with pytest.raises(RunError, match="a newer edgetune"):
        newest_checkpoint(tmp_path)
