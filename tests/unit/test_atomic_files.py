"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgetune.utils.files import atomic_path, write_atomic


def test_a_text_replaces_the_one_before_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    write_atomic(path, "old\n")
    write_atomic(path, "new\n")
    assert path.read_bytes() == b"new\n"
    assert os.listdir(path.parent) == ["result.json"]


def test_what_cannot_be_renamed_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")

    def fails(source: object, target: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no room"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_what_fails_in_the_middle_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_atomic(path, "old")

    def stopped() -> None:
        with atomic_path(path) as scratch:
            scratch.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["rows.csv"]
