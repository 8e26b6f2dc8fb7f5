"""A learner of texts that is one file takes part in a run: fitted, weighed, shown, kept, and asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome, RunCli

from edgetune.utils import failpoints

LEARNER = '''
"""A text belongs to the class whose texts are as long in the mean."""

import numpy as np

from edgetune.learners.text_learner import TextLearner
from edgetune.utils.multi_label import log_probabilities


class TextLength(TextLearner):
    def __init__(self, means):
        self.means = means

    @classmethod
    def fit(cls, texts, labels, n_classes, *, seed, time_left_s):
        lengths = np.array([len(text.split()) for text in texts])
        return cls(np.array([lengths[labels == one].mean() for one in range(n_classes)]))

    def log_proba(self, texts):
        lengths = np.array([[len(text.split())] for text in texts])
        return log_probabilities(-((lengths - self.means) ** 2), False)

    def save(self, folder):
        np.save(folder / "means.npy", self.means, allow_pickle=False)

    @classmethod
    def load(cls, folder):
        return cls(np.load(folder / "means.npy", allow_pickle=False))
'''
Commands = Callable[..., list[Outcome]]


@pytest.fixture
def edgetune(run_commands: Commands, tmp_path: Path) -> Commands:
    """`edgetune ARGS`, several times, with one more file among the learners of texts."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "text_length.py").write_text(LEARNER)
    before = f"import edgetune.learners.texts as texts; texts.__path__.append({str(folder)!r})"
    return lambda *commands: run_commands(*commands, cwd=tmp_path, before=before)


@pytest.fixture
def lengths_csv(tmp_path: Path) -> Path:
    """Rows whose class is told by their length alone."""
    rng = np.random.default_rng(0)
    lines = ["text,label"]
    for number in range(300):
        label = ("short", "long")[number % 2]
        words = rng.integers(0, 20, 5 if label == "short" else 8)
        lines.append(f"{' '.join(f'w{word}' for word in words)},{label}")
    path = tmp_path / "lengths.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_it_takes_part_from_the_fit_to_predictions(
    edgetune: Commands,
    run_cli: RunCli,
    lengths_csv: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = ("--backend", "torch", "--no-onnx", "--threads", 1, "--batch-size", 8, "--epochs", 1)
    finetune = ("finetune", lengths_csv, "--model", tiny_model, *settings)
    finetune = (*finetune, "--learners", "ngrams,encoder,text-length")

    def learners_of(out: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((tmp_path / out / "summary.json").read_text())["ensemble"][
            "learners"
        ]
        return found

    (done,) = edgetune((*finetune, "--out", "whole"))
    assert done.code == 0, done.err
    assert "text-length" in done.out
    learners = learners_of("whole")
    assert [one["name"] for one in learners] == ["n-grams", "text-length", "encoder"]
    assert (learners[1]["accuracy"], learners[1]["held_out"]["accuracy"]) == (1.0, 1.0)
    assert learners[1]["weight"] > 0

    monkeypatch.setenv(failpoints.SWITCH, "step:5:stop")
    broken, resumed, predicted, exported = edgetune(
        (*finetune, "--out", "broken", "--checkpoint-every", 0),
        ("finetune", "--resume", "broken", "--quiet"),
        ("predict", "broken", "w1 w2 w3 w4 w5", "w1 w2 w3 w4 w5 w6 w7 w8"),
        ("export", "broken", "--out", "exported"),
    )
    monkeypatch.delenv(failpoints.SWITCH)
    assert (broken.code, resumed.code) == (130, 0), resumed.err
    assert learners_of("broken") == learners
    assert [line.split()[0] for line in predicted.out.splitlines()] == ["short", "long"]
    assert exported.code == 2
    assert "the learner text-length, of which there is no ONNX graph" in exported.err
    assert not (tmp_path / "exported").exists()
    done = run_cli("predict", tmp_path / "broken", "w1")
    assert done.code == 1
    assert "holds a learner that this edgetune does not have" in done.err


def test_names_are_checked(edgetune: Commands, lengths_csv: Path) -> None:
    misspelt, without = edgetune(
        ("finetune", lengths_csv, "--learners", "ngrams,text-lenth"),
        ("finetune", lengths_csv, "--learners", "encoder,text-length"),
    )
    assert misspelt.code == 2
    assert 'there is no learner "text-lenth". Did you mean "text-length"?' in misspelt.err
    assert without.code == 2
    assert "text-length is combined with the n-grams; add ngrams to --learners" in without.err
