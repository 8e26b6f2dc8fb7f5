"""Caches are made for their user alone, and folders of others stay as they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli

from edgetune.backends.hidden_cache import HiddenCache
from edgetune.backends.model_loader import ensure_tokenizer
from edgetune.backends.ort.artifacts import ArtifactBuilder
from edgetune.models.source import resolve_model
from edgetune.utils.cache import cache_subfolder, private_folder, write_cached_json
from tests.unit.test_checksums import CHILD


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_only_what_is_made_is_made_private(tmp_path: Path) -> None:
    assert mode(private_folder(tmp_path / "a" / "b" / "c")) == 0o700
    assert mode(tmp_path / "a" / "b") == mode(tmp_path / "a") == 0o755
    (tmp_path / "mine").mkdir()
    private_folder(tmp_path / "mine")
    assert mode(tmp_path / "mine") == 0o755
    assert mode(cache_subfolder(tmp_path / "mine", "tokens")) == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        private_folder(tmp_path / "file" / "x")


def test_tokens_and_all_above_them(
    artifacts_of: Any, demo_csv: Path, run_cli: RunCli, tmp_path: Path, trained: Any
) -> None:
    (tmp_path / "out").mkdir(mode=0o755)
    cache = tmp_path / "data" / "cache"
    code, _, err = run_cli(
        *("finetune", demo_csv, "--artifacts", artifacts_of("embeddings", 4).folder, "--max-steps", 1),
        *("--cache-dir", cache, "--out", tmp_path / "out" / "run", "--quiet"),
    )
    assert code == 0, err
    (entry,) = (cache / "tokens").iterdir()
    assert [mode(path) for path in (cache, cache / "tokens", entry)] == [0o700] * 3
    assert mode(tmp_path / "data") == mode(tmp_path / "out") == 0o755
    other = tmp_path / "evaluated"
    code, _, err = run_cli("evaluate", trained.folder, demo_csv, "--cache-dir", other)
    assert code == 0, err
    assert [mode(path) for path in (other, other / "tokens")] == [0o700] * 2


def test_artifacts(
    artifacts_of: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = ArtifactBuilder(resolve_model(str(tiny_model)), tmp_path / "cache")

    child = [sys.executable, "-c", CHILD, str(tmp_path / "log"), str(artifacts_of().folder)]
    monkeypatch.setattr("edgetune.backends.ort.artifacts.module_command", lambda _: child)
    home = builder.get(2, "embeddings").folder
    assert [mode(path) for path in (home, home.parent, tmp_path / "cache")] == [0o700] * 3


def test_artifacts_that_are_carried_can_be_shared(tiny_model: Path, tmp_path: Path, run_cli: RunCli) -> None:
    code, _, err = run_cli("export", "--labels", 2, "--model", tiny_model, "--out", tmp_path / "carried")
    assert code == 0, err
    assert mode(tmp_path / "carried") == 0o755


def test_tokenizers_rows_of_frozen_layers_and_probes(model_copy: Path, tmp_path: Path) -> None:
    (model_copy / "tokenizer.json").rename(model_copy / "kept")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"]
    (model_copy / "vocab.txt").write_text("\n".join(words))
    (model_copy / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    made = ensure_tokenizer(resolve_model(str(model_copy)), tmp_path / "one")
    assert made.is_file()
    assert [path.name for path in made.parent.parent.iterdir()] == [made.parent.name]
    assert [mode(path) for path in (tmp_path / "one", made.parent.parent)] == [0o700] * 2
    write_cached_json(tmp_path / "two" / "probes.json", {})
    assert (tmp_path / "two" / "probes.json").is_file()
    cache = HiddenCache(0.0, 10.0, tmp_path / "three")
    cache._file._grow(10)
    assert [mode(tmp_path / name) for name in ("two", "three")] == [0o700] * 2
    cache.close()
