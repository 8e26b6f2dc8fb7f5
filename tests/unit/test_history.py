"""A history survives a killed process, and names the line that somebody broke."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.run_files.history import FIGURES, HistoryWriter, read_history
from edgetune.utils.errors import RunError


def _write(path: Path, n: int = 3) -> None:
    with HistoryWriter(path) as history:
        for i in range(n):
            history.append(kind="step", t_s=i / 10, step=i, loss=0.5)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as history:
        history.append(kind="stage", t_s=0.0, stage="warmup", n_seen=0, reason="starts “here”")
        history.append(
            kind="step", t_s=np.float64(0.25), step=np.int64(1), loss=np.float32(0.5), n=np.int32(32)
        )
        history.append(
            kind="note", t_s=1, parts=np.arange(3), done=np.bool_(True), nested={"a": np.float32(2)}
        )
    lines = read_history(path)
    assert [line["kind"] for line in lines] == ["stage", "step", "note"]
    assert lines[0]["reason"] == "starts “here”"
    assert lines[1] == {"kind": "step", "t_s": 0.25, "step": 1, "loss": 0.5, "n": 32}
    assert lines[2] == {"kind": "note", "t_s": 1, "parts": [0, 1, 2], "done": True, "nested": {"a": 2.0}}


def test_each_line_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as history:
        for i in range(3):
            history.append(kind="step", t_s=0.0, step=i)
            assert len(path.read_bytes().splitlines()) == i + 1


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as history:
        history.append(
            kind="step", t_s=0.0, loss=np.float32("nan"), lr=float("inf"), many=[float("nan"), 1.0]
        )
    assert read_history(path) == [{"kind": "step", "t_s": 0.0, "loss": None, "lr": None, "many": [None, 1.0]}]


@pytest.mark.parametrize("cut", [1, 2, 10, 25])
def test_a_torn_last_line_is_left_out_and_then_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "history.jsonl"
    _write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    n_left = 3 if cut == 1 else 2
    assert len(read_history(path)) == n_left
    with HistoryWriter(path) as history:
        history.append(kind="note", t_s=9.0)
    assert [line["t_s"] for line in read_history(path)] == [*[0.0, 0.1, 0.2][:n_left], 9.0]


def test_a_tear_inside_a_letter_is_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"kind":"note","t_s":1}\n{"kind":"note","t_s":2,"text":"\xe2\x82')
    assert read_history(path) == [{"kind": "note", "t_s": 1}]


@pytest.mark.parametrize("broken", ["{", "", "[1]", '{"kind":"dance","t_s":0}', '{"kind":"step"}', "\xff"])
def test_any_other_broken_line_is_named(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "history.jsonl"
    good = '{"kind":"note","t_s":1}'
    path.write_text(f"{good}\n{broken}\n{good}\n", encoding="latin-1")
    with pytest.raises(RunError, match="line 2"):
        read_history(path)


def test_a_missing_history_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run folder"):
        read_history(tmp_path / "history.jsonl")


def test_an_empty_history_has_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.touch()
    assert read_history(path) == []


def test_lines_of_no_kind_or_time_are_refused(tmp_path: Path) -> None:
    with HistoryWriter(tmp_path / "history.jsonl") as history:
        with pytest.raises(ValueError, match="kind"):
            history.append(kind="dance", t_s=0.0)
        with pytest.raises(ValueError, match="t_s"):
            history.append(kind="step")
    assert read_history(tmp_path / "history.jsonl") == []


_VALUES = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.text())


@settings(max_examples=50, deadline=None)
@given(
    fields=st.dictionaries(
        st.text(min_size=1).filter(lambda name: name not in {"kind", "t_s", *FIGURES}), _VALUES
    )
)
def test_any_fields_come_back(tmp_path_factory: pytest.TempPathFactory, fields: dict[str, object]) -> None:
    path = tmp_path_factory.mktemp("h") / "history.jsonl"
    with HistoryWriter(path) as history:
        history.append(kind="note", t_s=0.5, **fields)
    assert read_history(path) == [json.loads(json.dumps({"kind": "note", "t_s": 0.5, **fields}))]
