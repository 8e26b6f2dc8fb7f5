"""What the whole suite shares: a cache of its own, no network, a tiny model, small data, the CLI."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# The same examples every time, so that a failure belongs to the change that shows it;
# `EDGETUNE_HYPOTHESIS=explore` draws new ones.
settings.register_profile("fixed", derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore")
settings.load_profile(os.environ.get("EDGETUNE_HYPOTHESIS", "fixed"))

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before any test is
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # torch beside ONNX Runtime's spinning threads is slow otherwise

ROOT = Path(__file__).resolve().parent.parent
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let a test with the mark `alone` run while no other process runs one, because it measures time."""
    if "PYTEST_XDIST_WORKER" not in os.environ or fcntl is None:
        return (yield)
    name = os.path.join(tempfile.gettempdir(), f"edgetune-tests-{os.getuid()}")
    with open(f"{name}.lock", "w") as lock:
        with open(f"{name}.queue", "w") as queue:  # who waits to be alone holds up those that come later
            fcntl.flock(queue, fcntl.LOCK_EX)
            fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Point `EDGETUNE_CACHE` and `EDGETUNE_PROFILES` at an empty folder that all tests share."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETUNE_CACHE", str(folder))
        patch.setenv("EDGETUNE_PROFILES", str(folder / "profiles"))
        yield folder


def write_tokenizer(folder: Path) -> int:
    """Write a word-level tokenizer of the demo's words into a folder; return its vocabulary's size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    from edgetune.data.demo import demo_rows

    split = pre_tokenizers.BertPreTokenizer()
    words = {w for text, _ in demo_rows(400, seed=0) for w, _ in split.pre_tokenize_str(text.lower())}
    vocab = {word: number for number, word in enumerate([*SPECIAL, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    names = ("pad", "unk", "cls", "sep", "mask")
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{name}_token": token for name, token in zip(names, SPECIAL, strict=True)},
    ).save_pretrained(folder)
    return len(vocab)


def write_model(folder: Path, model_type: str, **settings: Any) -> Path:
    """Write a random encoder without a head, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel

    n_words = write_tokenizer(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{"vocab_size": n_words, "pad_token_id": 0, **settings})
    AutoModel.from_config(config).save_pretrained(folder, safe_serialization=True)
    return folder


def says_mean(folder: Path) -> Path:
    """Say of an encoder, as sentence-transformers does, that it was trained with the mean of all tokens."""
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return folder


def write_tiny_model(home: Path) -> Path:
    """Write a random BERT of two layers, 32 wide."""
    return write_model(
        home / "tiny-bert",
        "bert",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers, 32 wide."""
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def demo_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 generated tickets of four labels."""
    from edgetune.data.demo import write_demo

    path = tmp_path_factory.mktemp("data") / "tickets.csv"
    write_demo(path, n_rows=300, seed=0)
    return path


@pytest.fixture(scope="session")
def demo_eval_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 other tickets."""
    from edgetune.data.demo import write_demo

    path = tmp_path_factory.mktemp("data") / "dev.csv"
    write_demo(path, n_rows=100, seed=1)
    return path


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    def __iter__(self) -> Iterator[Any]:
        return iter((self.code, self.out, self.err))


RunCli = Callable[..., Outcome]


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """`edgetune ARGS` in this process; `stdin` is its input."""

    def call(*args: object, stdin: str = "", columns: int = 120) -> Outcome:
        from edgetune.cli import train_commands
        from edgetune.cli.app import main
        from edgetune.utils import meter

        out, err, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["edgetune", *map(str, args)])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            patch.setenv("COLUMNS", str(columns))
            # A deadline counts from the start of the process, which is not that of the tests.
            patch.setattr(train_commands, "_IMPORTED_AT_S", time.perf_counter())
            patch.setattr(train_commands, "_CPU_AT_IMPORT_S", 0.0)
            patch.setattr(meter, "LONGEST_STARTUP_S", 0.0)  # else a young process counts from its start
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as stop:
                    code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return Outcome(code, out.getvalue(), err.getvalue())

    return call


def child_environment(**more: str) -> dict[str, str]:
    """Environment in which a child process finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


@pytest.fixture(scope="session")
def run_process() -> RunCli:
    """`python ARGS` in a process of its own."""

    def call(*args: object, cwd: Path, stdin: str = "") -> Outcome:
        done = subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=cwd,
            input=stdin,
            capture_output=True,
            text=True,
            env=child_environment(),
            timeout=120,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call


# Runs each command that stdin lists with the environment of a new process, so that imports are paid once.
COMMANDS = """
import contextlib, io, json, os, sys
from edgetune.cli.app import main
environment, found = dict(os.environ), []
for command in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, out, err, code = ["edgetune", *command], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    found.append((code, out.getvalue(), err.getvalue()))
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="session")
def run_commands(run_process: RunCli) -> Callable[..., list[Outcome]]:
    """`edgetune ARGS`, several times in one process of its own; `before` is code that it executes first."""

    def call(*commands: tuple[object, ...], cwd: Path, before: str = "") -> list[Outcome]:
        given = json.dumps([[str(one) for one in command] for command in commands])
        done = run_process("-c", before + COMMANDS, cwd=cwd, stdin=given)
        assert done.code == 0, done.err
        return [Outcome(*found) for found in json.loads(done.out)]

    return call


@pytest.fixture(scope="session")
def artifacts_of(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Artifacts of a model, built in this process (its child would import torch anew each time)."""
    made: dict[tuple[Path, str, int, bool], Any] = {}

    def get(
        freeze: str = "embeddings", n_labels: int = 2, model: Path = tiny_model, multi_label: bool = False
    ) -> Any:
        from edgetune.backends.ort.artifacts import load_artifacts
        from edgetune.backends.ort.export_process import build_artifacts
        from edgetune.models.source import resolve_model

        key = (model, freeze, n_labels, multi_label)
        if key not in made:
            source = resolve_model(str(model))
            target = tmp_path_factory.mktemp("artifacts")
            job = {"folder": str(source.folder), "name": source.name, "fingerprint": source.fingerprint()}
            build_artifacts(
                {
                    **job,
                    "n_labels": n_labels,
                    "multi_label": multi_label,
                    "freeze": freeze,
                    "pools_mean": source.pools_mean,
                    "target": str(target),
                }
            )
            made[key] = load_artifacts(target, n_labels, multi_label=multi_label)
        return made[key]

    return get


@pytest.fixture
def model_copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model-copy"))


@dataclass(frozen=True)
class Trained:
    """A finished run and what its command printed."""

    folder: Path
    result: dict[str, Any]
    train: Path
    evaluation: Path
    model: Path


@pytest.fixture(scope="session")
def trained(
    tiny_model: Path,
    demo_csv: Path,
    demo_eval_csv: Path,
    run_cli: RunCli,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """A run of the tiny model on ONNX Runtime, two epochs, evaluated on a file of its own."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    code, out, err = run_cli(
        *("finetune", demo_csv, "--eval", demo_eval_csv, "--model", tiny_model, "--backend", "ort"),
        *("--epochs", 2, "--lr", 0.003, "--seed", 3, "--out", folder, "--json"),
    )
    assert code == 0, err
    return Trained(folder, json.loads(out), demo_csv, demo_eval_csv, tiny_model)
