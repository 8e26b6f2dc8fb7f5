"""Artifacts against their own checksums: carried ones are refused, cached ones are made again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import RunCli

from edgetune.backends.ort import manifest as checksums
from edgetune.backends.ort.artifacts import ArtifactBuilder, load_artifacts
from edgetune.backends.ort.manifest import SMALL_BYTES, checksums_of, with_checksum
from edgetune.devices.profile_store import read_profile, shipped_folder
from edgetune.models.source import resolve_model
from edgetune.utils.errors import ArtifactsError, ModelError
from tests.unit.test_onnx_files import outside


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered from another test."""
    monkeypatch.setattr(checksums, "_remembered", {})


@pytest.fixture
def copied(artifacts_of: Any, tmp_path: Path) -> Path:
    """Artifacts that a test may damage."""
    return Path(shutil.copytree(artifacts_of("1").folder, tmp_path / "artifacts"))


def names(folder: Path) -> list[str]:
    return sorted(json.loads((folder / "manifest.json").read_text())["files"])


def flip(path: Path, at: int) -> None:
    """Change one byte; size and time of change stay."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_every_file_has_a_sum(copied: Path) -> None:
    on_disk = {path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()}
    assert set(names(copied)) == on_disk - {"manifest.json"}
    assert {"checkpoint", "cut/prefix.onnx", "tokenizer.json", "config.json"} <= set(names(copied))


def test_one_changed_byte_in_any_file_is_noticed(copied: Path) -> None:
    load_artifacts(copied)
    for name in names(copied):
        flip(copied / name, -1)
        with pytest.raises(ArtifactsError, match=rf"SHA-256 of {name} "):
            load_artifacts(copied)
        flip(copied / name, -1)
    load_artifacts(copied)


def test_a_cut_file_is_noticed_by_its_size(copied: Path) -> None:
    (copied / "checkpoint").write_bytes((copied / "checkpoint").read_bytes()[:-10])
    with pytest.raises(ArtifactsError, match=r"checkpoint has [\d,]+ bytes"):
        load_artifacts(copied)


def test_a_changed_manifest_is_noticed(copied: Path) -> None:
    path = copied / "manifest.json"
    path.write_text(path.read_text().replace('"pad_id": 0', '"pad_id": 3'))
    with pytest.raises(ArtifactsError, match=r"manifest\.json"):
        load_artifacts(copied)


def test_a_file_that_the_manifest_does_not_name(copied: Path) -> None:
    raw = json.loads((copied / "manifest.json").read_text())
    del raw["files"]["cut/prefix.onnx"]
    (copied / "manifest.json").write_text(json.dumps(with_checksum(raw)))
    with pytest.raises(ArtifactsError, match=r"manifest\.json .*cut/prefix\.onnx"):
        load_artifacts(copied)
    (copied / "manifest.json").write_text(json.dumps(with_checksum({**raw, "files": checksums_of(copied)})))
    load_artifacts(copied)
    (copied / "checkpoint.data").write_bytes(b"x")  # which the runtime would open
    with pytest.raises(ArtifactsError, match=r"checkpoint\.data"):
        load_artifacts(copied)


@pytest.mark.parametrize("name", ["../secret", "/dev/zero", "link"])
def test_a_manifest_cannot_make_edgetune_read_elsewhere(copied: Path, name: str) -> None:
    (copied.parent / "secret").write_bytes(b"")
    (copied / "link").symlink_to("/dev/zero")
    raw = json.loads((copied / "manifest.json").read_text())
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    raw["files"] = {**raw["files"], name: {"n_bytes": 0, "sha256": empty}}
    (copied / "manifest.json").write_text(json.dumps(with_checksum(raw)))
    with pytest.raises(ArtifactsError, match="link"):
        load_artifacts(copied)


@pytest.mark.parametrize(
    "name", ["training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "cut/prefix.onnx"]
)
def test_graphs_that_open_other_files_are_refused(copied: Path, name: str) -> None:
    """Even where the stranger made all the sums anew."""
    model = onnx.load(copied / name)
    model.graph.initializer.append(outside("../secret"))
    onnx.save(model, copied / name)
    raw = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(with_checksum({**raw, "files": checksums_of(copied)})))
    with pytest.raises(ArtifactsError, match=rf"{name} .*outside"):
        load_artifacts(copied)


def test_sizes_of_tokenizer_and_manifest(copied: Path) -> None:
    with (copied / "tokenizer.json").open("r+b") as file:
        file.truncate(65_000_000)
    raw = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(with_checksum({**raw, "files": checksums_of(copied)})))
    with pytest.raises(ModelError, match=r"tokenizer\.json has 65 MB"):
        load_artifacts(copied)
    (copied / "manifest.json").write_text('{"a":' * 200_000)
    with pytest.raises(ArtifactsError, match="is damaged"):
        load_artifacts(copied)


# What is summed when


@pytest.fixture
def large(copied: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are summed from now on; only those of one byte count as small."""
    monkeypatch.setattr(checksums, "SMALL_BYTES", 1)
    summed: list[Path] = []
    real = checksums.file_sha256

    def watched(path: Path) -> str:
        summed.append(path)
        return real(path)

    monkeypatch.setattr(checksums, "file_sha256", watched)
    return summed


def test_large_files_are_summed_once_and_after_every_change(
    copied: Path, large: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, n_files = tmp_path / "cache", len(names(copied))
    load_artifacts(copied, cache_dir=cache)
    assert len(large) == n_files
    monkeypatch.setattr(checksums, "_remembered", {})  # as in the next process
    load_artifacts(copied, cache_dir=cache)
    assert len(large) == n_files
    os.utime(copied / "checkpoint", (1, 1))
    load_artifacts(copied, cache_dir=cache)
    assert large[n_files:] == [copied / "checkpoint"]
    now_s = checksums.time.time()
    monkeypatch.setattr(checksums.time, "time", lambda: now_s + checksums.AGAIN_S + 1)
    load_artifacts(copied, cache_dir=cache)
    assert len(large) == 2 * n_files + 1
    shutil.copytree(copied, tmp_path / "other")
    load_artifacts(tmp_path / "other", cache_dir=cache)  # in another place they are others
    assert len(large) == 3 * n_files + 1


def test_a_note_beside_the_artifacts_counts_for_nothing(
    copied: Path, large: list[Path], tmp_path: Path
) -> None:
    load_artifacts(copied, cache_dir=copied)  # a stranger's own notes
    shutil.copytree(copied / "checked", copied / "cut" / "checked")
    shutil.rmtree(copied / "checked")
    checksums._remembered.clear()
    large.clear()
    load_artifacts(copied, cache_dir=tmp_path / "cache")
    assert len(large) == len(names(copied))


def test_small_files_are_always_summed(copied: Path, tmp_path: Path) -> None:
    assert (copied / "training_model.onnx").stat().st_size < SMALL_BYTES
    load_artifacts(copied, cache_dir=tmp_path / "cache")
    flip(copied / "training_model.onnx", -1)
    with pytest.raises(ArtifactsError, match=r"training_model\.onnx"):
        load_artifacts(copied, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"at": "x", "files": {}}', '{"at": 1e12, "files": {}}', '{"at": 1}']
)
def test_a_damaged_note_is_as_none(copied: Path, large: list[Path], tmp_path: Path, text: str) -> None:
    load_artifacts(copied, cache_dir=tmp_path / "cache")
    (note,) = (tmp_path / "cache" / "checked").iterdir()
    note.write_text(text)
    checksums._remembered.clear()
    large.clear()
    load_artifacts(copied, cache_dir=tmp_path / "cache")
    assert len(large) == len(names(copied))


# What comes of it

CHILD = """
import json, shutil, sys
shutil.copytree(sys.argv[2], json.load(sys.stdin)["target"], dirs_exist_ok=True)
with open(sys.argv[1], "a") as log:
    log.write("made\\n")
print(json.dumps({"ok": True}))
"""


@pytest.mark.parametrize("name", ["checkpoint", "training_model.onnx", "manifest.json"])
def test_damaged_artifacts_in_the_cache_are_made_again(
    copied: Path, tiny_model: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = ArtifactBuilder(resolve_model(str(tiny_model)), tmp_path / "cache")
    home = builder._folder(2, "1")
    shutil.copytree(copied, home)
    log = tmp_path / "log"
    child = [sys.executable, "-c", CHILD, str(log), str(copied)]
    monkeypatch.setattr("edgetune.backends.ort.artifacts.module_command", lambda _: child)
    assert builder.get(2, "1").folder == home
    assert not log.exists()
    flip(home / name, 100)
    again = ArtifactBuilder(resolve_model(str(tiny_model)), tmp_path / "cache")
    assert again.cached(2, "1") is None
    assert again.get(2, "1").folder == home
    assert log.read_text() == "made\n"
    assert again.cached(2, "1") == home
    assert (home / name).read_bytes() == (copied / name).read_bytes()


def test_damaged_carried_artifacts_are_one_sentence(
    artifacts_of: Any, demo_csv: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(artifacts_of("embeddings", 4).folder, tmp_path / "carried"))
    flip(folder / "checkpoint", 5000)
    code, out, err = run_cli("finetune", demo_csv, "--artifacts", folder, "--out", tmp_path / "run")
    assert (code, out) == (1, "")
    assert err.startswith(f"edgetune: {folder} is damaged: the SHA-256 of checkpoint does not match")
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_every_shipped_profile_has_a_checksum() -> None:
    folder = shipped_folder()
    assert folder is not None
    for path in folder.glob("*.toml"):
        assert "# SHA-256 of all lines below: " in path.read_text(encoding="utf-8")
        read_profile(path)
