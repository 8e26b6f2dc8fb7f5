"""A user without a home folder, as in many containers: a sentence names what to give instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import platformdirs
import pytest
from conftest import RunCli

from edgetune.devices.profile_store import find_for_this_machine, profile_files
from edgetune.models.source import resolve_model
from edgetune.utils.errors import EdgetuneError


@pytest.fixture(params=["raises", "tilde"], autouse=True)
def no_home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer versions of platformdirs raise an error, older ones return a path that begins with `~`."""

    def find(name: str) -> str:
        if request.param == "raises":
            raise RuntimeError("could not determine the home directory")
        return f"~/.cache/{name}"

    for name in ("user_cache_dir", "user_config_dir"):
        monkeypatch.setattr(platformdirs, name, find)
    for name in ("EDGETUNE_CACHE", "EDGETUNE_PROFILES", "HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "command",
    [
        *(("clean",), ("finetune", "d.csv", "--out", "run"), ("plan", "d.csv", "--deadline", "1m")),
        *(("compare", "d.csv"), ("export", "--labels", "2", "--out", "artifacts")),
    ],
)
def test_the_sentence_names_the_option_and_the_variable(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("text,label\n" + "one,a\ntwo,b\n" * 30)
    code, out, err = run_cli(*command)
    assert (code, out) == (1, "")
    assert "--cache-dir" in err
    assert "EDGETUNE_CACHE" in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["d.csv"]


def test_a_profile_is_not_measured_in_vain(run_cli: RunCli) -> None:
    code, out, err = run_cli("profile", "--quick")
    assert (code, out) == (1, "")
    assert "--out" in err
    assert "EDGETUNE_PROFILES" in err


def test_what_needs_no_home_works(run_cli: RunCli, tmp_path: Path) -> None:
    assert run_cli("clean", "--cache-dir", tmp_path).code == 0
    assert "EDGETUNE_CACHE" in run_cli("doctor").out
    assert profile_files()
    from edgetune.devices.device_profile import this_machine

    assert find_for_this_machine(None, this_machine()) is not None


def test_a_home_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_home(path: Any) -> Any:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_such_home)
    with pytest.raises(EdgetuneError):
        resolve_model("~nobody-here/model")
