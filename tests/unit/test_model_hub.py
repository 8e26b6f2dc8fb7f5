"""Models of the hub, against one that is made up: pinned, restricted, and only when `hub:` asks."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli

from edgetune.models.source import WANTED, pinned_model, resolve_model
from edgetune.report.model_card import model_card
from edgetune.utils.errors import MissingDependencyError, ModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Stands in for `snapshot_download`: has one model at one commit, and a cache that is empty at first."""

    def __init__(self, model: Path, cache: Path) -> None:
        self.model, self.folder = model, cache / "models--org--tiny" / "snapshots" / COMMIT
        self.asked: list[dict[str, Any]] = []
        self.is_online = True

    def __call__(self, name: str, **given: Any) -> str:
        self.asked.append({"name": name, **given})
        if name != "org/tiny" or given["revision"] not in (None, "main", COMMIT):
            raise FileNotFoundError(name)
        if not given.get("local_files_only"):
            if not self.is_online:
                raise ConnectionError
            shutil.copytree(self.model, self.folder, dirs_exist_ok=True)
        if not self.folder.is_dir():
            raise FileNotFoundError(name)
        return str(self.folder)

    @property
    def fetched(self) -> list[dict[str, Any]]:
        """Calls that went over the network."""
        return [call for call in self.asked if not call.get("local_files_only")]


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    import huggingface_hub

    fake = FakeHub(tiny_model, tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    return fake


def test_a_name_alone_never_goes_over_the_network(hub: FakeHub) -> None:
    with pytest.raises(ModelError, match=r"--model hub:org/tiny"):
        resolve_model("org/tiny")
    assert hub.fetched == []
    resolve_model("hub:org/tiny")
    hub.asked.clear()
    assert resolve_model("org/tiny").name == f"org/tiny@{COMMIT}"
    assert hub.fetched == []


def test_what_is_fetched_is_pinned_and_restricted(hub: FakeHub) -> None:
    found = resolve_model("hub:org/tiny")
    assert (found.name, found.folder) == (f"org/tiny@{COMMIT}", hub.folder)
    (call,) = hub.fetched
    assert call == {"name": "org/tiny", "revision": None, "allow_patterns": WANTED}
    weights = {pattern for pattern in WANTED if pattern not in ("*.json", "*.txt", "*.model", "*.bpe")}
    assert weights == {"*.safetensors"}


def test_a_pinned_commit_needs_the_network_once(hub: FakeHub) -> None:
    name = f"hub:org/tiny@{COMMIT}"
    assert resolve_model(name).name == f"org/tiny@{COMMIT}"
    assert [call["revision"] for call in hub.fetched] == [COMMIT]
    hub.is_online = False
    assert resolve_model(name).folder == hub.folder
    assert len(hub.fetched) == 1
    with pytest.raises(ModelError, match=r"hub:org/tiny: .*\(ConnectionError\)"):
        resolve_model("hub:org/tiny")  # whatever is the newest, nobody knows it


def test_another_revision_is_asked_for(hub: FakeHub) -> None:
    assert resolve_model("hub:org/tiny@main").name == f"org/tiny@{COMMIT}"
    assert hub.fetched[0]["revision"] == "main"
    with pytest.raises(ModelError, match="hub:org/tiny@nope"):
        resolve_model("hub:org/tiny@nope")


def test_a_fetched_model_is_checked_like_any_other(hub: FakeHub, model_copy: Path) -> None:
    hub.model = model_copy
    (model_copy / "config.json").write_text('{"model_type": "bert", "auto_map": {"AutoModel": "evil.py"}}')
    with pytest.raises(ModelError, match="remote code"):
        resolve_model("hub:org/tiny")


@pytest.mark.parametrize("name", ["hub:", "hub:../x", "hub:a/b/c", "org/../x", "hub:org/x@", "-x/y z", "./x"])
def test_names_that_are_none(hub: FakeHub, name: str) -> None:
    with pytest.raises(ModelError, match="hub name"):
        resolve_model(name)
    assert hub.asked == []


def test_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for name in ("org/model", "hub:org/model"):
        with pytest.raises(MissingDependencyError, match="huggingface_hub"):
            resolve_model(name)


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no-such-model", "org/no-such-model", "hub:org/no-such-model"):
        with pytest.raises(ModelError, match=rf"{name}.*--model"):
            resolve_model(name)


@pytest.mark.parametrize(
    ("asked", "name", "expected"),
    [
        ("hub:org/tiny", f"org/tiny@{COMMIT}", f"hub:org/tiny@{COMMIT}"),
        ("org/tiny", f"org/tiny@{COMMIT}", f"org/tiny@{COMMIT}"),
        ("org/tiny", "org/tiny", "org/tiny"),
        ("./mine@2", "./mine@2", "./mine@2"),
    ],
)
def test_what_stands_in_the_settings(asked: str, name: str, expected: str) -> None:
    assert pinned_model(asked, name) == expected


def test_the_commit_is_in_summary_settings_and_card(
    hub: FakeHub, demo_csv: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, printed, err = run_cli(
        *("finetune", demo_csv, "--model", "hub:org/tiny", "--backend", "torch", "--no-onnx"),
        *("--max-steps", 1, "--no-ngrams", "--out", out, "--json"),
    )
    assert code == 0, err
    assert json.loads(printed)["model"] == f"org/tiny@{COMMIT}"
    assert f'model = "hub:org/tiny@{COMMIT}"' in (out / "config.toml").read_text()
    card = (out / "model" / "README.md").read_text()
    assert 'base_model: "org/tiny"' in card
    assert f"`{COMMIT}`" in card


def test_a_card_without_a_commit() -> None:
    assert "at commit" not in model_card({"model": "org/name"})
