from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from edgetune.backends.ort.artifacts import (
    ArtifactBuilder,
    artifacts_cache_key,
    export_artifacts,
    load_artifacts,
)
from edgetune.backends.ort.manifest import Manifest, with_checksum
from edgetune.models.source import resolve_model
from edgetune.utils.errors import ArtifactsError, RunError, UsageError


@pytest.fixture
def copied(artifacts_of: Any, tmp_path: Path) -> Path:
    """Artifacts that a test may damage."""
    return Path(shutil.copytree(artifacts_of().folder, tmp_path / "artifacts"))


def edit(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(with_checksum({**json.loads(path.read_text()), **values})))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"n_labels": 1}, "--labels 1"),
        ({"freeze": "most"}, "--freeze most"),
    ],
)
def test_numbers_that_cannot_be(tmp_path: Path, tiny_model: Path, values: dict[str, Any], says: str) -> None:
    given = {"n_labels": 2, **values}
    with pytest.raises(UsageError, match=says):
        export_artifacts(str(tiny_model), given.pop("n_labels"), tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_never_over_something_else(tmp_path: Path, tiny_model: Path, copied: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    for path in (tmp_path / "thesis", tmp_path / "thesis" / "text"):
        with pytest.raises(RunError, match="--out"):
            export_artifacts(str(tiny_model), 2, path, overwrite=True)
    with pytest.raises(RunError, match="--overwrite"):
        export_artifacts(str(tiny_model), 2, copied)
    assert (tmp_path / "thesis" / "text").read_text() == "years of work"


def test_missing_and_damaged(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(ArtifactsError, match="edgetune export"):
        load_artifacts(tmp_path)
    (copied / "checkpoint").unlink()
    with pytest.raises(ArtifactsError, match="checkpoint"):
        load_artifacts(copied)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"schema_version": 99}, "newer edgetune"),
        ({"onnxruntime": "1.2.3"}, "exported for ONNX Runtime 1.2.3"),
        ({"freeze": None}, "is damaged"),
        ({"surprise": 1}, "is damaged"),
    ],
)
def test_manifests_that_do_not_fit(copied: Path, values: dict[str, Any], says: str) -> None:
    edit(copied, **values)
    with pytest.raises(ArtifactsError, match=says):
        load_artifacts(copied)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_manifests_that_are_none(copied: Path, text: str) -> None:
    (copied / "manifest.json").write_text(text)
    with pytest.raises(ArtifactsError, match=r"damaged"):
        load_artifacts(copied)


def test_other_labels(copied: Path) -> None:
    assert load_artifacts(copied, 2).manifest.n_labels == 2
    with pytest.raises(ArtifactsError, match=r"2 labels.* 5.*--labels 5"):
        load_artifacts(copied, 5)
    with pytest.raises(ArtifactsError, match=r"with --multi-label"):
        load_artifacts(copied, 2, multi_label=True)
    edit(copied, multi_label=True)
    with pytest.raises(ArtifactsError, match="without --multi-label"):
        load_artifacts(copied, 2)


def test_folder_is_carried_whole(artifacts_of: Any) -> None:
    made = artifacts_of()
    inside = {path.name for path in made.folder.iterdir()}
    needed = {"manifest.json", "training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint"}
    assert needed | {"config.json", "tokenizer.json", "tokenizer_config.json"} <= inside
    assert not {name for name in inside if name.startswith((".", "tmp"))}
    assert isinstance(made.manifest, Manifest)


def test_position_table_stays_frozen_and_says_so(artifacts_of: Any) -> None:
    manifest = artifacts_of("none").manifest
    assert not [name for name in manifest.trainable if "position_embeddings" in name]
    assert "position_embeddings" in manifest.notes[0]
    assert [name for name in manifest.trainable if "word_embeddings" in name]


def test_key_depends_on_what_decides_the_contents(tiny_model: Path) -> None:
    print_ = resolve_model(str(tiny_model)).fingerprint()
    assert artifacts_cache_key(print_, "1") == artifacts_cache_key(print_, "1")
    assert (
        len(
            {
                artifacts_cache_key(print_, "1"),
                artifacts_cache_key(print_, "2"),
                artifacts_cache_key("other", "1"),
            }
        )
        == 3
    )


def test_cached_artifacts_start_no_child(
    tmp_path: Path, tiny_model: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = ArtifactBuilder(resolve_model(str(tiny_model)), tmp_path / "cache")
    assert not builder.any_cached("embeddings")
    home = builder._folder(2, "embeddings")
    home.parent.mkdir(parents=True)
    copied.rename(home)
    monkeypatch.setattr(builder, "warm_up", lambda: pytest.fail("a child was started"))
    assert builder.any_cached("embeddings")
    assert builder.cached(3, "embeddings") is None
    assert builder.cached(2, "embeddings", multi_label=True) is None
    assert builder.get(2, "embeddings").folder == home


def test_a_child_that_dies_leaves_nothing(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    builder = ArtifactBuilder(resolve_model(str(tiny_model)), tmp_path)
    with pytest.raises(ArtifactsError, match=r"code 1.*--backend torch"):
        builder.get(2, "embeddings")
    assert not list((tmp_path / "artifacts").iterdir())
