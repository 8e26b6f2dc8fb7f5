"""`edgetune init`: the config it prints is what `finetune --config` reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RunCli

from edgetune.config.settings import RunConfig
from edgetune.config.toml_config import load_config, make_config
from edgetune.data.examples import read_examples
from edgetune.data.splits import data_options


def drafted(run_cli: RunCli, path: Path, *options: object) -> tuple[str, RunConfig]:
    code, out, err = run_cli("init", path, *options)
    assert code == 0, err
    config = path.parent / "config.toml"
    config.write_text(out, encoding="utf-8")
    return out, make_config(load_config(config))


def test_what_was_detected_is_kept(run_cli: RunCli, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    rows = "".join(f"{n};Это очень хороший фильм {n};{'pos' if n % 3 else 'neg'}\n" for n in range(30))
    path.write_bytes(f"id;text;label\n{rows}".encode("cp1251"))
    out, config = drafted(run_cli, path)
    data = config.data
    assert (data.text, data.label, data.header) == (("text",), "label", True)
    assert (data.encoding, data.delimiter) == ("cp1251", ";")
    assert "neg: 10 rows" in out
    assert config.budget.deadline_s == 60
    examples = list(read_examples(str(path), data_options(data), lambda row: pytest.fail(str(row))))
    assert len(examples) == 30


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("in.jsonl", '{"text": "a b", "label": 1}\n{"text": "c", "label": 0}\n' * 9, ()),
        ("in.csv", "good film,pos\nbad film,neg\n" * 20, ("--text", 1, "--label", 2)),
        ("in.tsv", 'a "quoted\\" text\tpos\nb\tneg\n' * 20, ("--text", 1, "--label", 2)),
        ("in.txt", "__label__a good\n__label__b bad\n" * 9, ()),
        ("in.csv", 'text,label\n"a\nb",#x\nc,"\x1b[0m"\n' * 5, ()),
    ],
)
def test_any_format(
    run_cli: RunCli, tmp_path: Path, name: str, content: str, options: tuple[object, ...]
) -> None:
    path = tmp_path / name
    path.write_text(content)
    out, config = drafted(run_cli, path, *options)
    assert "\x1b" not in out
    assert list(read_examples(str(path), data_options(config.data), lambda row: None))


@pytest.mark.parametrize(
    ("labels", "several"),
    [(('"[""a"", ""b""]"', '"[""a""]"'), True), (("\"['a', 'b']\"", "[]"), True), (("a", "b"), False)],
)
def test_rows_with_several_labels(
    run_cli: RunCli, tmp_path: Path, labels: tuple[str, str], several: bool
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("text,label\n" + "good film,{}\nbad film,{}\n".format(*labels) * 20)
    out, config = drafted(run_cli, path)
    assert config.data.multi_label is several
    assert "40 usable rows" in out


def test_in_a_process_of_its_own(demo_csv: Path) -> None:
    command = [sys.executable, "-m", "edgetune", "init", str(demo_csv)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[data]" in done.stdout


def test_finetune_takes_it_as_it_stands(
    run_cli: RunCli, demo_csv: Path, tiny_model: Path, tmp_path: Path
) -> None:
    code, out, _ = run_cli("init", demo_csv)
    (tmp_path / "config.toml").write_text(out)
    options = ("--model", tiny_model, "--learners", "ngrams", "--deadline", "20s", "--out", tmp_path / "run")
    code, _, err = run_cli("finetune", "--config", tmp_path / "config.toml", *options)
    assert code == 0, err


def test_an_error_prints_nothing_on_stdout(run_cli: RunCli, tmp_path: Path) -> None:
    code, out, err = run_cli("init", tmp_path / "none.csv")
    assert (code, out) == (1, "")
    assert "none.csv" in err
