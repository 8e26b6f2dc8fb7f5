"""The baselines: the files they read and write, what they refuse, and how they keep a deadline."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, RunCli
from fakes import FakeClock

from edgetune.compare import baselines
from edgetune.compare.baselines import Baseline, all_baselines, find_baseline
from edgetune.compare.baselines.__main__ import main, run_baseline
from edgetune.compare.baselines.encoder_logreg import next_chunk, rows_in_time
from edgetune.compare.baselines.hf_trainer import examples_trained, steps_in_time
from edgetune.compare.baselines.setfit import few_of_each, n_pairs
from edgetune.compare.baselines.step_budget import slow_step_s, usual_step_s
from edgetune.compare.baselines.task import (
    BaselineClock,
    BaselineTask,
    Fitted,
    Texts,
    TrainRows,
    read_task,
    read_train,
    shuffled_order,
)
from edgetune.compare.baselines.tfidf import next_size
from edgetune.config.settings import DataSettings
from edgetune.data.examples import DataOptions, read_examples
from edgetune.utils.errors import BudgetError, DataError, MissingDependencyError, UsageError
from edgetune.utils.meter import Meter

KEYS = {
    *("schema_version", "name", "accuracy", "n_eval", "n_train_used", "n_trained", "elapsed_s", "evaluate_s"),
    *("time_split_s", "notes", "versions"),
}
TRANSFORMERS = ("torch", "transformers", "accelerate")


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start the clock of `main` with the test, and undo what it sets for the one process it is meant for."""
    monkeypatch.setattr("edgetune.compare.baselines.__main__._IMPORTED_AT_S", time.perf_counter())
    monkeypatch.setattr("edgetune.compare.baselines.__main__._CPU_AT_IMPORT_S", 0.0)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def write_task(out: Path, train: Path, evaluation: Path, **settings: Any) -> Path:
    """Write `task.json` beside the folder that it names."""
    task = {"data": {"train": str(train)}, "eval": str(evaluation), "out": str(out), **settings}
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps(task), encoding="utf-8")
    return path


def check_whole(out: Path, name: str, evaluation: Path, chance: float) -> SimpleNamespace:
    """Check what every baseline must have left; return its result."""
    found = SimpleNamespace(**json.loads((out / "result.json").read_text(encoding="utf-8")))
    assert set(vars(found)) == KEYS
    gold = [row.label for row in read_examples(str(evaluation), DataOptions(), lambda row: None)]
    predicted = json.loads((out / "predicted.json").read_text(encoding="utf-8"))
    assert len(predicted) == len(gold) == found.n_eval
    assert set(predicted) <= set(gold)
    assert found.accuracy == pytest.approx(np.mean(np.array(predicted) == np.array(gold)))
    assert found.accuracy > chance
    assert found.name == name
    assert found.elapsed_s == pytest.approx(sum(found.time_split_s.values()))
    assert found.evaluate_s > 0
    assert found.notes
    assert all(note.endswith(".") for note in found.notes)
    assert found.versions["edgetune"]
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]
    return found


def run_task(name: str, task: Path) -> SimpleNamespace:
    """Run a baseline in this process."""
    return SimpleNamespace(**run_baseline(all_baselines()[name], read_task(task), Meter()))


@pytest.fixture(scope="module")
def tfidf_out(
    demo_csv: Path, demo_eval_csv: Path, run_process: RunCli, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of TF-IDF in a process of its own."""
    out = tmp_path_factory.mktemp("baselines") / "tfidf"
    task = write_task(out, demo_csv, demo_eval_csv)
    done = run_process("-m", "edgetune.compare.baselines", "tfidf-logreg", task, cwd=out.parent)
    assert done.code == 0, done.err
    assert done.out.startswith("tfidf-logreg: accuracy 0.")
    return out


def test_tfidf_end_to_end(tfidf_out: Path, demo_eval_csv: Path) -> None:
    found = check_whole(tfidf_out, "tfidf-logreg", demo_eval_csv, chance=0.4)
    assert (found.n_train_used, found.n_trained) == (300, 300)
    assert found.versions["scikit-learn"]
    assert "min_df 2" in found.notes[0]


def test_tfidf_predictions_are_in_the_order_of_the_evaluation_file(
    tfidf_out: Path, demo_csv: Path, demo_eval_csv: Path, tmp_path: Path
) -> None:
    with demo_eval_csv.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    backwards = tmp_path / "backwards.csv"
    with backwards.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *reversed(rows)])
    assert main(["tfidf-logreg", str(write_task(tmp_path / "out", demo_csv, backwards))]) == 0
    first, second = (
        json.loads((folder / "predicted.json").read_text()) for folder in (tfidf_out, tmp_path / "out")
    )
    assert first == second[::-1]
    assert len(set(first)) > 1


def test_tfidf_under_a_deadline_keeps_it_and_says_so(
    demo_csv: Path, demo_eval_csv: Path, tmp_path: Path
) -> None:
    task = write_task(tmp_path / "out", demo_csv, demo_eval_csv, deadline_s=60, max_rows=200)
    found = run_task("tfidf-logreg", task)
    check_whole(tmp_path / "out", "tfidf-logreg", demo_eval_csv, chance=0.3)
    assert found.elapsed_s < 60
    assert found.n_train_used == 200
    notes = " ".join(found.notes)
    assert "deadline" in notes
    assert "200 of 300 " in notes


def test_tfidf_takes_single_words_where_none_comes_twice(tmp_path: Path) -> None:
    rows = ["text,label", "alpha,a", "beta,b", "gamma,a"]
    data = tmp_path / "small.csv"
    data.write_text("\n".join(rows) + "\n", encoding="utf-8")
    task = write_task(tmp_path / "out", data, data)
    found = run_task("tfidf-logreg", task)
    assert "min_df 1" in found.notes[0]
    data.write_text("text,label\na,a\nb,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="word"):
        run_task("tfidf-logreg", task)
    assert not (tmp_path / "out" / "result.json").exists(), "an old result must not stay"


def test_labels_that_training_never_had_count_as_wrong(demo_csv: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("text,label\nthe parcel is late,delivery\nwho are you,unheard\n", encoding="utf-8")
    found = run_task("tfidf-logreg", write_task(tmp_path / "out", demo_csv, other))
    assert found.accuracy <= 0.5
    assert "1 evaluation rows" in " ".join(found.notes)


def test_a_pair_is_one_text_for_tfidf() -> None:
    assert Texts(["a", "b"], ["c", ""]).joined() == ["a c", "b"]
    assert Texts(["a", "b"]).joined() == ["a", "b"]


@pytest.mark.skipif(
    any(baselines.installed(name) is None for name in TRANSFORMERS), reason="needs transformers"
)
class TestNeuralBaselines:
    """On a tiny random BERT."""

    def test_encoder_logreg_keeps_a_deadline(
        self, demo_csv: Path, demo_eval_csv: Path, tiny_model: Path, tmp_path: Path
    ) -> None:
        task = write_task(tmp_path / "out", demo_csv, demo_eval_csv, model=str(tiny_model), deadline_s=60)
        run_task("encoder-logreg", task)
        found = check_whole(tmp_path / "out", "encoder-logreg", demo_eval_csv, chance=0.3)
        assert found.n_train_used == 300
        assert found.elapsed_s < 60
        assert (tmp_path / "out" / "head.joblib").is_file()

    def test_hf_trainer_keeps_a_deadline(
        self,
        demo_csv: Path,
        demo_eval_csv: Path,
        tiny_model: Path,
        capfd: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        task = write_task(tmp_path / "out", demo_csv, demo_eval_csv, model=str(tiny_model), deadline_s=20_000)
        assert main(["hf-trainer", str(task)]) == 0
        assert capfd.readouterr().out.count("\n") == 1, "Trainer's own prints are switched off"
        found = check_whole(tmp_path / "out", "hf-trainer", demo_eval_csv, chance=0.2)
        assert found.elapsed_s < 300
        assert found.n_train_used <= found.n_trained <= 900
        notes = " ".join(found.notes)
        assert "deadline" in notes
        assert "3 passes" in notes
        assert (tmp_path / "out" / "model" / "model.safetensors").is_file()

    def test_hf_trainer_without_time_says_so(
        self, demo_csv: Path, demo_eval_csv: Path, tiny_model: Path, tmp_path: Path
    ) -> None:
        task = write_task(tmp_path / "out", demo_csv, demo_eval_csv, model=str(tiny_model), deadline_s=0.1)
        with pytest.raises(BudgetError, match=r"within 0\.1 s"):
            run_task("hf-trainer", task)
        assert not (tmp_path / "out" / "result.json").exists()

    @pytest.mark.parametrize(
        ("name", "n_trained", "words"),
        [
            ("encoder-logreg", 300, "batches of 16 texts of similar length"),
            ("hf-trainer", 600, "2 passes over the rows (as asked)"),
        ],
    )
    def test_without_a_deadline_all_rows_are_used(
        self,
        name: str,
        n_trained: int,
        words: str,
        demo_csv: Path,
        demo_eval_csv: Path,
        tiny_model: Path,
        tmp_path: Path,
    ) -> None:
        task = write_task(
            tmp_path / "out", demo_csv, demo_eval_csv, model=str(tiny_model), epochs=2, batch_size=16
        )
        found = run_task(name, task)
        assert check_whole(tmp_path / "out", name, demo_eval_csv, chance=0.2) == found
        assert (found.n_train_used, found.n_trained) == (300, n_trained)
        assert words in " ".join(found.notes)
        assert "deadline" not in " ".join(found.notes)

    def test_embeddings_are_those_of_each_text_alone(self, tiny_model: Path, tmp_path: Path) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from edgetune.compare.baselines.encoder_logreg import Encoder

        task = BaselineTask(
            data=DataSettings(train="x"), eval="y", out=tmp_path, model=str(tiny_model), batch_size=3
        )
        texts = [
            "the invoice is wrong",
            "late",
            "the parcel has not arrived after two weeks",
            "my card",
            "hi",
        ]
        encoder = Encoder(task)
        found = encoder.features(Texts(texts))
        tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModel.from_pretrained(tiny_model)
        for text, row in zip(texts, found, strict=True):
            with torch.inference_mode():
                mean = (
                    model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
                )
            np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)
        pairs = encoder.features(Texts(texts, texts[::-1]))
        np.testing.assert_allclose(
            pairs, np.hstack([found, found[::-1], abs(found - found[::-1])]), atol=1e-5
        )


def test_setfit(demo_csv: Path, demo_eval_csv: Path, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("setfit")
    task = write_task(
        tmp_path / "out", demo_csv, demo_eval_csv, model=str(tiny_model), max_rows=40, deadline_s=20_000
    )
    assert main(["setfit", str(task)]) == 0
    found = check_whole(tmp_path / "out", "setfit", demo_eval_csv, chance=0.2)
    assert found.n_train_used == 40
    assert found.elapsed_s < 300
    assert "deadline" in " ".join(found.notes)


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
    demo_csv: Path,
    demo_eval_csv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(baselines, "installed", lambda name: None)
    assert main(["tfidf-logreg", str(write_task(tmp_path / "out", demo_csv, demo_eval_csv))]) == 1
    said = capsys.readouterr().err
    assert said == (
        "edgetune.compare.baselines: tfidf-logreg needs scikit-learn, which is not installed; "
        'install with `pip install "edgetune[baselines]"`.\n'
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(MissingDependencyError, match="torch and transformers and accelerate"):
        all_baselines()["hf-trainer"].check()


def test_packages_that_do_not_fit_together_are_a_sentence(
    demo_csv: Path, demo_eval_csv: Path, tmp_path: Path
) -> None:
    def fit(task: BaselineTask, rows: TrainRows, watch: BaselineClock) -> Fitted:
        raise ImportError("cannot import name 'nothing_of_that_name' from 'json'")

    broken = Baseline("broken", "", (), fit)
    task = read_task(write_task(tmp_path / "out", demo_csv, demo_eval_csv))
    with pytest.raises(MissingDependencyError, match=r"edgetune\[baselines\]"):
        run_baseline(broken, task, Meter())


def test_an_unknown_baseline_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hf-trainr", "task.json"]) == 2
    said = capsys.readouterr().err
    assert '"hf-trainr"' in said
    assert all(name in said for name in all_baselines())
    with pytest.raises(UsageError, match=r'"zzz".*tfidf-logreg'):
        find_baseline("zzz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sead": 1}, 'there is no setting "sead". Did you mean "seed"?'),
        (
            {"data": {"train": "x.csv", "lable": "y"}},
            'there is no setting "data.lable". Did you mean "label"?',
        ),
        ({"eval": None, "evl": "x.csv"}, 'there is no setting "evl". Did you mean "eval"?'),
        ({"deadline_s": -1}, "setting deadline_s: input should be greater than 0 (given: -1)"),
        ({"data": {}}, "setting data.train: field required"),
    ],
)
def test_a_task_with_a_wrong_setting_is_refused_by_name(
    change: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = write_task(tmp_path / "out", Path("x.csv"), Path("y.csv"), **change)
    assert main(["tfidf-logreg", str(task)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_task_that_cannot_be_read_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tfidf-logreg", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "half.json").write_text('{"data": ')
    assert main(["tfidf-logreg", str(tmp_path / "half.json")]) == 2
    assert "half.json" in capsys.readouterr().err
    assert main([]) == 2


def test_a_missing_evaluation_file_is_found_before_training(demo_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run_task("tfidf-logreg", write_task(tmp_path / "out", demo_csv, tmp_path / "none.csv"))
    assert not (tmp_path / "out").exists()


def test_rows_are_edgetunes_own_and_bad_ones_count(tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text('text,label\ngood one,10\n,9\n"other, too",9\n', encoding="utf-8")
    lenient = DataSettings(train=str(data), max_bad_rows=0.5)
    rows = read_train(BaselineTask(data=lenient, eval="y", out=tmp_path))
    assert rows.label_names == ("9", "10"), "whole numbers are in the order of numbers"
    assert sorted(rows.texts.first) == ["good one", "other, too"]
    with pytest.raises(DataError, match=r"2 rows of .* 1 .*:3"):
        read_train(BaselineTask(data=DataSettings(train=str(data)), eval="y", out=tmp_path))
    data.write_text("text,label\none,a\ntwo,a\n", encoding="utf-8")
    with pytest.raises(DataError, match='"a"'):
        read_train(BaselineTask(data=lenient, eval="y", out=tmp_path))


def test_samples_are_seeded_nested_and_miss_no_label(demo_csv: Path, tmp_path: Path) -> None:
    def rows(seed: int, max_rows: int) -> TrainRows:
        settings = {"data": DataSettings(train=str(demo_csv)), "eval": "y", "out": tmp_path}
        return read_train(BaselineTask(**settings, seed=seed, max_rows=max_rows))

    small, large, other = rows(1, 20), rows(1, 100), rows(2, 20)
    assert small.texts.first == rows(1, 20).texts.first == large.texts.first[:20]
    assert small.texts.first != other.texts.first
    assert len(small) == 20
    assert small.n_read == 300
    labels = np.array([0] * 500 + [1] * 500 + [2])
    order = shuffled_order(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(1001))
    assert set(labels[order[:3]]) == {0, 1, 2}


def test_a_result_is_written_after_the_predictions(
    demo_csv: Path, demo_eval_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        "edgetune.compare.baselines.__main__.write_atomic", lambda path, text: written.append(path.name)
    )

    clock = FakeClock()

    def fit(task: BaselineTask, rows: TrainRows, watch: BaselineClock) -> Fitted:
        clock.now_s += 61.25
        return Fitted(lambda texts: np.zeros(len(texts), dtype=np.int64), len(rows), len(rows), ("Zeros.",))

    task = read_task(write_task(tmp_path / "out", demo_csv, demo_eval_csv, deadline_s=60))
    found = run_baseline(Baseline("zeros", "", (), fit), task, Meter(clock=clock))
    assert written == ["predicted.json", "result.json"]
    assert found["notes"] == ["Zeros.", "The model was saved 1.2 s after the deadline."]


def test_time_left_ends_before_the_deadline() -> None:
    clock = FakeClock()
    watch = BaselineClock("any", Meter(clock=clock), 100.0)
    clock.now_s += 40.0
    assert 50.0 < watch.left_s(5.0) < 55.0
    assert BaselineClock("any", Meter(clock=clock), None).left_s(5.0) == math.inf


@pytest.mark.parametrize(
    ("n_rows", "n_all", "took_s", "left_s", "more"),
    [
        (1_000, 1_000, 1.0, 100.0, None),  # all rows were used
        (1_000, 5_000, 1.0, 100.0, 5_000),
        (1_000, 50_000, 1.0, 100.0, 8_000),  # a guess is not stretched too far
        (1_000, 50_000, 10.0, 60.0, 3_000),
        (1_000, 50_000, 10.0, 20.0, None),  # as many rows again are no gain
        (1_000, 50_000, 10.0, -1.0, None),
    ],
)
def test_next_fit_is_larger_only_where_it_should_end_in_time(
    n_rows: int, n_all: int, took_s: float, left_s: float, more: int | None
) -> None:
    assert next_size(n_rows, n_all, took_s, left_s) == more


def test_rows_to_embed_leave_time_for_the_fit() -> None:
    cases = ((10.0, 0.0, 0, 1_000), (10.0, 0.005, 0, 500), (10.0, 0.005, 500, 250), (-1.0, 0.0, 0, 0))
    for left_s, head_row_s, n_have, n_more in cases:
        assert rows_in_time(left_s, 0.01, head_row_s, n_have) == n_more
    chunks = ((3_000, 50_000, 1_000), (90_000, 50_000, 4_096), (100, 50_000, 64), (90_000, 20, 20))
    for n_fit, n_left, n_next in (*chunks, (63, 50_000, 0), (0, 5, 0), (0, 0, 0)):
        assert next_chunk(n_fit, n_left) == n_next


def test_steps_pay_for_tokenizing_every_row_once() -> None:
    for left_s, n_rows, n_steps in ((10.001, 10_000, 100), (10.001, 80, 110), (-1.0, 80, 0)):
        assert steps_in_time(left_s, 0.09, 0.00125, 8, n_rows) == n_steps
    assert slow_step_s([1.0, 5.0, 5.5, 6.0, 6.5, 7.2, 7.7], 0.1) == pytest.approx(0.7)
    assert slow_step_s([1.0], 0.1) == 0.1
    assert usual_step_s([5.0, 6.0, 6.5, 7.0, 7.5]) == pytest.approx(0.5)
    assert [examples_trained(n, 20, 8) for n in (2, 3, 4)] == [16, 20, 28]


def test_setfit_samples_a_few_of_each_label_and_counts_its_pairs() -> None:
    labels = np.array([0, 1, 0, 0, 2, 1, 0])
    assert few_of_each(labels, 2).tolist() == [0, 1, 2, 4, 5]
    assert n_pairs(np.array([0, 0, 1, 1])) == 2 * 6
    assert n_pairs(np.repeat(np.arange(4), 64)) == 49_152


@pytest.mark.parametrize("baseline", all_baselines().values(), ids=list(all_baselines()))
def test_every_baseline_has_a_card_and_its_packages_in_the_extra(baseline: Baseline) -> None:
    text = sys.modules[baseline.fit.__module__].__doc__ or ""
    sections = re.findall(r"^(\w[\w ]*):", text, re.M)
    assert sections == ["What", "Use when", "Costs", "Loses when", "Source"]
    extra = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("\nbaselines = [")[1].split("]")[0]
    assert all(re.search(rf'"{name}[<>=]', extra) for name in baseline.packages)


def test_the_registry_imports_nothing_heavy(run_process: RunCli, tmp_path: Path) -> None:
    code = "import edgetune.compare.baselines, sys; print(sorted(set(sys.modules) & set(sys.argv[1:])))"
    heavy = ["numpy", "torch", "transformers", "sklearn", "setfit", "datasets", "pydantic", "pyarrow"]
    assert run_process("-c", code, *heavy, cwd=tmp_path).out.strip() == "[]"
