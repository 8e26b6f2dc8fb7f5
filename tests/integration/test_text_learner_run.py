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
START = (
    "import sys, edgetune.learners.texts as texts; texts.__path__.append(sys.argv.pop(1)); "
    "from edgetune.cli.app import main; main()"
)


@pytest.fixture
def edgetune(run_process: RunCli, tmp_path: Path) -> Callable[..., Outcome]:
    """`edgetune ARGS` with one more file among the learners of texts."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "text_length.py").write_text(LEARNER)
    return lambda *args: run_process("-c", START, folder, *args, cwd=tmp_path)


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
    edgetune: Callable[..., Outcome],
    run_process: RunCli,
    lengths_csv: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def finetune(out: str, *more: object) -> Outcome:
        settings = ("--backend", "torch", "--no-onnx", "--threads", 1, "--batch-size", 8, "--epochs", 1)
        learners = ("--learners", "ngrams,encoder,text-length")
        return edgetune(
            "finetune", lengths_csv, "--model", tiny_model, "--out", out, *settings, *learners, *more
        )

    def learners_of(out: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((tmp_path / out / "summary.json").read_text())["ensemble"][
            "learners"
        ]
        return found

    done = finetune("whole")
    assert done.code == 0, done.err
    assert "text-length" in done.out
    learners = learners_of("whole")
    assert [one["name"] for one in learners] == ["n-grams", "text-length", "encoder"]
    assert (learners[1]["accuracy"], learners[1]["held_out"]["accuracy"]) == (1.0, 1.0)
    assert learners[1]["weight"] > 0

    monkeypatch.setenv(failpoints.SWITCH, "step:5:stop")
    assert finetune("broken", "--checkpoint-every", 0).code == 130
    monkeypatch.delenv(failpoints.SWITCH)
    done = edgetune("finetune", "--resume", "broken", "--quiet")
    assert done.code == 0, done.err
    assert learners_of("broken") == learners

    done = edgetune("predict", "broken", "w1 w2 w3 w4 w5", "w1 w2 w3 w4 w5 w6 w7 w8")
    assert [line.split()[0] for line in done.out.splitlines()] == ["short", "long"]
    done = edgetune("export", "broken", "--out", "exported")
    assert done.code == 2
    assert "the learner text-length, of which there is no ONNX graph" in done.err
    assert not (tmp_path / "exported").exists()
    done = run_process("-m", "edgetune", "predict", "broken", "w1", cwd=tmp_path)
    assert done.code == 1
    assert "holds a learner that this edgetune does not have" in done.err


def test_names_are_checked(edgetune: Callable[..., Outcome], lengths_csv: Path) -> None:
    done = edgetune("finetune", lengths_csv, "--learners", "ngrams,text-lenth")
    assert done.code == 2
    assert 'there is no learner "text-lenth". Did you mean "text-length"?' in done.err
    done = edgetune("finetune", lengths_csv, "--learners", "encoder,text-length")
    assert done.code == 2
    assert "text-length is weighed beside the n-grams; add ngrams to --learners" in done.err
