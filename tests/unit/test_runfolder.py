from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetune.run_files.run_folder import LOCK, MARKERS, RunFolder, disk_errors
from edgetune.utils.errors import ResourceError, RunError


def write_model(text: str, *names: str) -> object:
    def write(scratch: Path) -> None:
        for name in names or ("model", "onnx"):
            (scratch / name).mkdir()
            (scratch / name / "weights").write_text(text)

    return write


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_nothing_is_created_before_create(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    folder = RunFolder(tmp_path / "a" / "run", overwrite=False)
    assert not names(tmp_path)
    folder.create(stack)
    assert (tmp_path / "a" / "run").is_dir()


def test_an_empty_folder_is_free(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    RunFolder(tmp_path, overwrite=False).create(stack)


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folders_and_files_are_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(RunError, match="--out"):
            RunFolder(path, overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("marker", MARKERS)
def test_a_run_is_replaced_only_with_overwrite(
    tmp_path: Path, marker: str, stack: contextlib.ExitStack
) -> None:
    (tmp_path / marker).write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path / "other", overwrite=False)
    with pytest.raises(RunError, match="--overwrite"):
        RunFolder(tmp_path, overwrite=False)
    folder = RunFolder(tmp_path, overwrite=True)
    assert (tmp_path / marker).read_text() == "old"  # until there is something to put there
    folder.save_model(write_model("old"))
    folder.create(stack)
    assert names(tmp_path) == {"notes.txt", LOCK}


def test_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path, overwrite=False)
    folder.write_json("summary.json", {"a": "é"})
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == {"a": "é"}

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        folder.write_text("summary.json", "new")
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == {"a": "é"}
    assert names(tmp_path) == {"summary.json"}


def test_bad_rows_are_put_end_to_end(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    for name in "ab":
        (tmp_path / name).write_text(f'{{"file": "{name}"}}\n')
    run = tmp_path / "run"
    folder = RunFolder(run, overwrite=False)
    folder.create(stack)
    folder.append_bad_rows((tmp_path / "a", tmp_path / "b"))
    assert (run / "bad_rows.jsonl").read_text() == '{"file": "a"}\n{"file": "b"}\n'


def test_models_are_swapped_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, overwrite=False)
    folder.save_model(write_model("first"))
    assert folder.save_model(write_model("second")) == tmp_path / "model"
    assert (tmp_path / "model" / "weights").read_text() == "second"
    assert names(tmp_path) == {"model", "onnx"}
    assert (tmp_path / "model" / "weights").stat().st_mode & 0o777 == 0o644


def test_a_save_that_fails_leaves_the_earlier_model(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, overwrite=False)
    folder.save_model(write_model("first"))

    def half(scratch: Path) -> None:
        write_model("second", "model")(scratch)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError):
        folder.save_model(half)
    assert (tmp_path / "model" / "weights").read_text() == "first"
    assert names(tmp_path) == {"model", "onnx"}


def test_saves_under_a_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, overwrite=False)
    folder.save_model(write_model("best"))
    folder.save_model(write_model("newest"), under="interrupted")
    assert (tmp_path / "model" / "weights").read_text() == "best"
    assert (tmp_path / "interrupted" / "onnx" / "weights").read_text() == "newest"


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "No space left"), (errno.EACCES, "Cannot write"), (errno.EROFS, "--out")],
)
def test_disk_errors_become_sentences(number: int, says: str) -> None:
    with pytest.raises(ResourceError, match=says), disk_errors(Path("runs/x")):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "space"),
        (Exception("Permission denied (os error 13)"), "Cannot write"),
        (OSError("1024 requested and 8 written"), "space"),
        (RuntimeError("open file failed, errno: 30"), "Cannot write"),
        (ValueError("[Errno 5] Input/output error"), "Cannot write"),
        (RuntimeError("unable to write: Read-only file system"), "Cannot write"),
        (OSError(errno.EIO, "Input/output error"), "Cannot write"),
        (OSError(errno.EINVAL, "Invalid argument"), "Cannot write"),
    ],
)
def test_what_the_system_said_through_a_library(error: Exception, says: str) -> None:
    """safetensors, tokenizers, ONNX Runtime and others raise errors of their own."""
    with pytest.raises(ResourceError, match=says), disk_errors(Path("runs/x")):
        raise error


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError(28), RunError("said already")])
def test_what_no_system_said_stays(error: Exception) -> None:
    with pytest.raises(type(error)), disk_errors(Path("runs/x")):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(FileNotFoundError), disk_errors(Path("runs/x")):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_a_native_writer_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime only says that serialization failed; the disk says why."""
    folder = RunFolder(tmp_path, overwrite=False)

    def fail(scratch: Path) -> None:
        raise RuntimeError("Protobuf serialization failed.")

    with pytest.raises(RuntimeError):
        folder.save_model(fail)
    full = shutil._ntuple_diskusage(1000, 1000, 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(ResourceError, match="No space left"), disk_errors(tmp_path):
        folder.save_model(fail)
    assert not names(tmp_path)
