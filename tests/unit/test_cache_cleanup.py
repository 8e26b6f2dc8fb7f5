"""`edgetune clean`: what is shown, what goes, and above all what stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli, child_environment

from edgetune.backends.ort.artifacts import GRAPHS
from edgetune.config.budget import parse_age
from edgetune.maintenance import cache_cleanup
from edgetune.maintenance.cache_cleanup import RemovalFilter, list_entries, remove_entries
from edgetune.utils import cache as cache_folders
from edgetune.utils.cache import MOST_HELD, is_held, mark_in_use
from edgetune.utils.errors import UsageError

DAY_S = 86_400.0
KINDS = {"tokens", "rows", "artifacts", "tokenizers", "export-seconds", "checked"}
TOKENS = "0123456789abcdef" * 2
ARTIFACTS = "0123456789abcdef0123-4"
TOKENIZER = "0123456789abcdef01234567"


def put(path: Path, n_bytes: int = 10, days: float = 3.0) -> Path:
    """Write a file that is so many days old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * n_bytes)
    age(path, days)
    return path


def age(path: Path, days: float) -> None:
    when_s = time.time() - days * DAY_S
    os.utime(path, (when_s, when_s))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with one entry of every kind, from 2 to 60 days old."""
    home = tmp_path / "cache"
    for name in ("tokens", "offsets", "labels", "first_lengths", "hashes"):
        put(home / "tokens" / TOKENS / f"{name}.bin", 1_000)
    put(home / "tokens" / TOKENS / "bad_rows.jsonl", 1_000)
    put(home / "tokens" / TOKENS / "meta.json", days=2)
    for name in (*GRAPHS, "rest.safetensors", "tokenizer.json", "cut/prefix.onnx", "named.json"):
        put(home / "artifacts" / ARTIFACTS / name, 1_000_000)
    manifest = put(home / "artifacts" / ARTIFACTS / "manifest.json")
    manifest.write_text(json.dumps({"files": {"named.json": {}}}))
    age(manifest, 60)
    put(home / "tokenizers" / TOKENIZER / "tokenizer.json", 500, days=10)
    put(home / "tokenizers" / TOKENIZER / "tokenizer_config.json", days=100)
    put(home / "export-seconds" / "0123456789abcdef0123.txt", days=30)
    put(home / "rows" / f"{TOKENS}.jsonl", days=5)
    put(home / "checked" / f"{TOKENS}.json", days=30)
    put(home / "probes.json", days=5)
    put(home / "tokens" / ".building-abc123_x" / "tokens.bin", 70, days=2)
    put(home / "checked" / ".note.json.123.tmp", days=2)
    return home


@pytest.fixture
def strange(cache: Path) -> list[Path]:
    """What edgetune did not write, or not all of it."""
    no_marker, mixed = TOKENS.replace("0", "f"), TOKENS.replace("0", "e")
    artifacts = cache / "artifacts" / ARTIFACTS.replace("0", "f")
    put(cache / "tokens" / mixed / "meta.json")
    put(artifacts / "manifest.json")
    put(artifacts / "cut" / "thesis.tex")
    (cache / "probes.json.d").mkdir()
    return [
        put(cache / "thesis.tex"),
        put(cache / "tokens" / "notes.txt"),
        put(cache / "tokens" / "my-tokens" / "meta.json").parent,
        put(cache / "tokens" / no_marker / "tokens.bin").parent,
        put(cache / "tokens" / mixed / "thesis.tex").parent,  # among edgetune's own
        artifacts,
        put(cache / "export-seconds" / "0123.txt"),
        put(cache / "probes" / "probes.json").parent,
        cache / "probes.json.d",
    ]


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_kinds_ages_and_sizes(cache: Path) -> None:
    entries, strange = list_entries(cache)
    assert strange == []
    found = {entry.kind: entry for entry in entries if entry.kind != "unfinished"}
    assert set(found) == KINDS | {"measured"}
    assert [entry.kind for entry in entries].count("unfinished") == 2
    assert found["tokens"].n_bytes == 6_010
    assert found["artifacts"].n_bytes == 8_000_000 + len('{"files": {"named.json": {}}}')
    days = {kind: round((time.time() - entry.used_s) / DAY_S) for kind, entry in found.items()}
    assert days == {
        "tokens": 2,
        "artifacts": 60,
        "tokenizers": 10,
        "export-seconds": 30,
        "rows": 5,
        "checked": 30,
        "measured": 5,
    }
    assert not any(entry.busy for entry in entries)
    assert entries[0].kind == "artifacts"


def test_all_of_it_goes_and_nothing_else(cache: Path, strange: list[Path]) -> None:
    entries, left = list_entries(cache)
    assert set(left) == set(strange)
    kept = {item for path in strange for item in [path, *path.rglob("*")]}
    assert len(remove_entries(entries)) == len(entries) == 9
    assert everything(cache) == kept | {cache / kind for kind in KINDS}
    assert list_entries(cache)[0] == []


@pytest.mark.parametrize("kind", ["entry", "inside", "kind", "probes"])
def test_links_are_not_followed(cache: Path, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    put(outside / TOKENS / "meta.json")
    put(outside / TOKENS / "tokens.bin")
    put(outside / "probes.json")
    before = everything(outside)
    if kind == "entry":
        link = cache / "tokens" / TOKENS.replace("0", "f")
        link.symlink_to(outside / TOKENS)
    elif kind == "inside":
        link = cache / "tokens" / TOKENS
        (link / "tokens.bin").unlink()
        (link / "tokens.bin").symlink_to(outside / TOKENS / "tokens.bin")
    elif kind == "kind":
        link = cache / "tokens"
        link.rename(tmp_path / "moved")
        link.symlink_to(outside)
    else:
        link = cache / "probes.json"
        link.unlink()
        link.symlink_to(outside / "probes.json")
    entries, left = list_entries(cache)
    assert left == [link]
    remove_entries(entries)
    assert everything(outside) == before
    assert link.exists()


@pytest.mark.parametrize(
    ("wish", "kinds"),
    [
        (RemovalFilter(), set()),
        (RemovalFilter(older_than_s=20 * DAY_S), {"artifacts", "export-seconds", "checked"}),
        (RemovalFilter(larger_than_bytes=5_000), {"artifacts", "tokens"}),
        (RemovalFilter(older_than_s=20 * DAY_S, larger_than_bytes=5_000), {"artifacts"}),
        (RemovalFilter(older_than_s=0), {*KINDS, "measured", "unfinished"}),
    ],
)
def test_limits(cache: Path, wish: RemovalFilter, kinds: set[str]) -> None:
    entries, _ = list_entries(cache)
    assert {entry.kind for entry in entries if wish.takes(entry, time.time())} == kinds


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 30 * DAY_S), ("12h", 43_200), ("2w", 14 * DAY_S), ("1.5 m", 90), ("5S", 5)]
)
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y", "1d2h", "nan d"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(UsageError, match=r"--older-than .*30d"):
        parse_age(text)


# In use


def test_what_was_used_within_the_hour_stays_unless_all_is_to_go(cache: Path) -> None:
    mark_in_use(cache / "tokens" / TOKENS / "meta.json")
    os.close(cache_folders._held.popitem()[1])  # the lock alone is another test
    age(cache / "artifacts" / ARTIFACTS / "manifest.json", 0.9 / 24)
    age(cache / "tokens" / ".building-abc123_x" / "tokens.bin", 0.9)
    busy = {entry.path.name for entry in list_entries(cache)[0] if entry.busy}
    assert busy == {TOKENS, ARTIFACTS, ".building-abc123_x"}
    entries = [entry for entry in list_entries(cache)[0] if entry.busy]
    large, everything = RemovalFilter(larger_than_bytes=0.0), RemovalFilter(everything=True)
    assert not any(large.takes(entry, time.time()) for entry in entries)
    taken = {entry.path.name for entry in entries if everything.takes(entry, time.time())}
    assert taken == {TOKENS, ARTIFACTS}  # what may still be being built stays


def test_all_frees_what_was_made_just_now(cache: Path, run_cli: RunCli) -> None:
    age(cache / "tokens" / TOKENS / "meta.json", 0.0)
    code, out, err = run_cli("clean", "--all", "--yes", "--cache-dir", cache)
    assert code == 0, err
    assert "Freed" in out
    assert not (cache / "tokens" / TOKENS).exists()


HOLDER = """
import sys, os, time
from pathlib import Path
from edgetune.utils.cache import mark_in_use
marker = Path(sys.argv[1])
mark_in_use(marker)
os.utime(marker, (1, 1))  # as if that had been days ago
print("held", flush=True)
sys.stdin.read()
"""


def test_what_a_live_process_holds_stays_until_it_is_dead(cache: Path) -> None:
    marker = cache / "artifacts" / ARTIFACTS / "manifest.json"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(marker)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        entries, _ = list_entries(cache)
        assert {entry.kind for entry in entries if entry.busy} == {"artifacts"}
        stale = [
            cache_cleanup.CacheEntry(one.kind, one.path, one.n_bytes, one.used_s, False, False)
            for one in entries
        ]
        assert len(remove_entries(stale)) == len(entries) - 1  # looked at again right before it would go
        assert marker.is_file()
        child.kill()
    assert len(remove_entries(list_entries(cache)[0])) == 1
    assert not marker.exists()


def test_a_process_holds_few_files_open(tmp_path: Path) -> None:
    markers = [put(tmp_path / str(n), days=3) for n in range(3 * MOST_HELD)]
    for marker in markers * 2:
        mark_in_use(marker)
    assert len(cache_folders._held) <= MOST_HELD
    assert [is_held(marker) for marker in markers[-MOST_HELD:]] == [True] * MOST_HELD
    assert not is_held(markers[0])
    mark_in_use(tmp_path / "not there")
    assert not is_held(tmp_path / "not there")


def test_runs_mark_what_they_use(artifacts_of: Any, demo_csv: Path, tmp_path: Path, run_cli: RunCli) -> None:
    cache = tmp_path / "cache"
    command = ("finetune", demo_csv, "--artifacts", artifacts_of("embeddings", 4).folder, "--no-ngrams")
    more = ("--max-steps", 1, "--quiet", "--cache-dir", cache)
    for out in ("one", "two"):
        done = run_cli(*command, *more, "--out", tmp_path / out)
        assert done.code == 0, done.err
        (entry,) = [one for one in list_entries(cache)[0] if one.kind == "tokens"]
        assert time.time() - entry.used_s < DAY_S
        age(entry.path / "meta.json", 40)


def test_it_knows_every_file_of_a_real_cache(cache_dir: Path, trained: Any) -> None:
    """What runs of this very version have left is edgetune's to the last file."""
    entries, left = list_entries(cache_dir)
    kinds = {entry.kind for entry in entries}
    assert {"tokens", "artifacts"} <= kinds
    assert [path for path in left if path.parent.name in KINDS and not path.name.startswith(".")] == []


# The command


def test_it_shows_and_removes_nothing_by_itself(cache: Path, strange: list[Path], run_cli: RunCli) -> None:
    before = everything(cache)
    code, out, err = run_cli("clean", "--cache-dir", cache)
    assert (code, err) == (0, "")
    ignored = f"Ignored (not written by edgetune): {strange[0]}"
    for words in ("artifacts", "tokenizers", "60 d", "8.0 MB", ignored):
        assert words in out
    code, out, _ = run_cli("clean", "--cache-dir", cache, "--older-than", "20d")
    assert code == 0
    assert "8.0 MB (3 entries)" in out
    assert everything(cache) == before


def test_it_removes_when_told(cache: Path, run_cli: RunCli) -> None:
    code, out, err = run_cli("clean", "--cache-dir", cache, "--larger-than", "1MB", "--yes")
    assert (code, err) == (0, "")
    assert "8.0 MB (1 entry)" in out
    assert not (cache / "artifacts" / ARTIFACTS).exists()
    assert (cache / "tokens" / TOKENS / "meta.json").is_file()


@pytest.mark.parametrize(("answer", "gone"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_it_asks_on_a_terminal(
    cache: Path, answer: str, gone: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import typer

    from edgetune.cli import maintenance_commands

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda text: answer.startswith("y"))
    maintenance_commands.clean(everything=True, cache_dir=cache)
    assert (cache / "artifacts" / ARTIFACTS).exists() is not gone


def test_json(cache: Path, strange: list[Path], run_cli: RunCli) -> None:
    code, out, _ = run_cli("clean", "--cache-dir", cache, "--all", "--json")
    shown = json.loads(out)
    assert (code, shown["removed"], shown["freed_bytes"]) == (0, [], 0)
    assert len(shown["chosen"]) == len(shown["entries"]) == 9
    assert set(shown["left_alone"]) == {str(path) for path in strange}
    code, out, _ = run_cli("clean", "--cache-dir", cache, "--all", "--json", "--yes")
    done = json.loads(out)
    assert sorted(done["removed"]) == sorted(shown["chosen"])
    assert done["freed_bytes"] == sum(entry["bytes"] for entry in shown["entries"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--all", "--older-than", "3d"], "--all cannot be combined with --older-than"),
        (["--older-than", "soon"], "--older-than soon is not an age"),
        (["--larger-than", "big"], "--larger-than big is not an amount"),
    ],
)
def test_options_that_cannot_be(cache: Path, run_cli: RunCli, options: list[str], says: str) -> None:
    before = everything(cache)
    code, out, err = run_cli("clean", "--cache-dir", cache, "--yes", *options)
    assert (code, out) == (2, "")
    assert says in err
    assert everything(cache) == before


def test_no_cache_at_all(tmp_path: Path, run_cli: RunCli) -> None:
    code, out, _ = run_cli("clean", "--cache-dir", tmp_path / "nowhere", "--all", "--yes")
    told = f"The cache {tmp_path / 'nowhere'} is empty.\nNo unused entry matches.\n"
    assert (code, out) == (0, told)
