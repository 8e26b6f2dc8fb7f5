"""Disks that are really full, read-only or under a quota: file systems of 200 kB in a mount namespace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import child_environment

from edgetune.inference.saved_run import load_run

SMALL = 'mount -t tmpfs -o size=200k tmpfs "$0"'
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
QUOTA = 'mount -t tmpfs -o usrquota,usrquota_block_hardlimit=200k tmpfs "$0"'
NOT_ALLOWED = 99  # the exit code where it cannot be mounted
# The command's messages go out, then what it left in the folder.
THEN = ' || exit 99; folder=$0; {no_root} "$@" 1>&2; code=$?; ls -A1R "$folder"; exit $code'
NO_ROOT = "setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource"  # root is above quotas

Run = Callable[..., subprocess.CompletedProcess[str]]


def mounted(mount: str, folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a command that sees a folder mounted so, or skip the test; stdout says what is left there."""
    folder.mkdir(exist_ok=True)
    script = mount + THEN.format(no_root=NO_ROOT if mount == QUOTA else "")
    space = ("unshare", "-m") if mount == QUOTA else ("unshare", "-rm")
    try:
        done = subprocess.run(
            [*space, "sh", "-c", script, str(folder), *map(str, command)],
            capture_output=True,
            text=True,
            env=child_environment(),
            cwd=folder.parent,
            timeout=120,
            check=False,
        )
    except OSError:
        pytest.skip("there is no unshare here")
    if done.returncode == NOT_ALLOWED or done.stderr.startswith("unshare: "):
        pytest.skip("this may not be mounted here")
    return done


@pytest.fixture
def train(demo_csv: Path, artifacts_of: Any, tmp_path: Path) -> Run:
    """`edgetune finetune` beside or in a folder that is mounted so (few kernels have quotas in tmpfs)."""
    artifacts = artifacts_of("embeddings", 4).folder

    def run(mount: str, folder: Path, *more: object) -> subprocess.CompletedProcess[str]:
        fixed = ("--artifacts", artifacts, "--max-steps", 2, "--quiet", "--out", tmp_path / "disk" / "run")
        return mounted(mount, folder, sys.executable, "-m", "edgetune", "finetune", demo_csv, *fixed, *more)

    return run


def one_sentence(done: subprocess.CompletedProcess[str], *says: str) -> None:
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("edgetune: ")
    for words in says:
        assert words in line


@pytest.mark.parametrize("mount", [SMALL, QUOTA], ids=["full", "quota"])
def test_the_model_does_not_fit(mount: str, train: Run, tmp_path: Path) -> None:
    done = train(mount, tmp_path / "disk")
    one_sentence(done, "No space left" if mount == SMALL else "quota", "--out")
    left = done.stdout.split(f"{tmp_path / 'disk' / 'run'}:\n")[1]
    names = left.split()
    assert names[:4] == [".lock", "config.toml", "ensemble", "history.jsonl"]
    assert not {"model", "onnx", ".ready"} & set(names)  # no model, nor a half-written one
    assert not [name for name in names if name.startswith(".saving-")]


def test_a_read_only_folder(train: Run, tmp_path: Path) -> None:
    done = train(READ_ONLY, tmp_path / "disk")
    one_sentence(done, str(tmp_path / "disk"), "--out")
    assert done.stdout.splitlines() == [f"{tmp_path / 'disk'}:"]


@pytest.mark.parametrize("mount", [READ_ONLY, SMALL.replace("200k", "8k")], ids=["read-only", "full"])
def test_the_cache(mount: str, train: Run, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    done = train(mount, tmp_path / "cache", "--cache-dir", tmp_path / "cache")
    one_sentence(done, "--cache-dir")
    assert not (tmp_path / "disk" / "run").exists()


def test_predictions_do_not_fit(train: Run, demo_csv: Path, tmp_path: Path) -> None:
    """Nothing half-written is left where they should have gone, and the model is read all the same."""
    (tmp_path / "disk").mkdir()
    assert train("true", tmp_path / "elsewhere").returncode == 0
    run = tmp_path / "disk" / "run"
    assert load_run(run).predict(["my parcel never came"])
    small = tmp_path / "small"
    command = ("predict", run, "--file", demo_csv, "--text", "text", "--out", small / "answers.csv")
    done = mounted(SMALL.replace("200k", "8k"), small, sys.executable, "-m", "edgetune", *command)
    one_sentence(done, "answers.csv")
    assert done.stdout.splitlines() == [f"{small}:"]


@pytest.mark.parametrize("mount", [SMALL, QUOTA, READ_ONLY], ids=["full", "quota", "read-only"])
def test_it_is_really_so(mount: str, tmp_path: Path) -> None:
    """Or the tests above would prove nothing."""
    done = mounted(mount, tmp_path / "disk", "sh", "-c", f"head -c 2000000 /dev/zero > {tmp_path}/disk/x")
    assert done.returncode != 0
