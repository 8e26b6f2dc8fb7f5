"""Shared rows, resumption, and tables from outcomes; no model is trained here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgetune.compare import comparison as comparisons
from edgetune.compare.comparison import Comparison
from edgetune.compare.comparison_charts import sensitivities
from edgetune.compare.grid import MATCHED, Cell, Grid, cells_of, make_grid
from edgetune.compare.outcome import Outcome, pack_answers, read_outcome, write_lines
from edgetune.compare.ranking import make_tables, markdown, pooled_speedups
from edgetune.compare.shared_rows import draw_shared_rows
from edgetune.config.toml_config import load_config
from edgetune.run_files.run_folder import exclusive_lock
from edgetune.utils.errors import DataError, EdgetuneError, ResourceError, RunError
from edgetune.utils.machine import machine_info

N_EVAL = 200


def grid_on(*paths: Path, **changed: Any) -> Grid:
    data = [{"name": path.stem, "train": str(path)} for path in paths]
    raw = {"data": data, "methods": ["train-all", "random", "three-stage"], "curve": False, **changed}
    return make_grid(raw, "grid")


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [{"text": f"row number {i}", "label": "yes" if i % 3 else "no"} for i in range(300)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def outcome(cell: Cell, key: str, accuracy: float = 0.8, **found: Any) -> Outcome:
    right = np.random.default_rng([cell.seed, len(cell.variant)]).random(N_EVAL) < accuracy
    fixed: dict[str, Any] = {
        "accuracy": float(right.mean()),
        "right": pack_answers(right),
        "n_eval": N_EVAL,
        "seconds": 10.0,
        "time_split_s": {"train": 8.0, "select": 0.5},
        "counts": {"n_seen": 100, "n_trained": 40, "n_scored": 0, "largest_class_rate": 0.5},
        "machine": machine_info(),
        "energy_j": 100.0,
    }
    return Outcome(**cell.model_dump(), key=key, command="", **(fixed | found))


class Counting(Comparison):
    """Makes outcomes up without processes, and counts which cells were run."""

    def __init__(self, *args: Any, stop_at: int | None = None, fail: str = "") -> None:
        super().__init__(*args)
        self.ran: list[str] = []
        self.stop_at, self.fail = stop_at, fail

    def _run_own(self, cell: Cell, home: Path) -> dict[str, Any]:
        if self.stop_at is not None and len(self.ran) == self.stop_at:
            raise KeyboardInterrupt
        self.ran.append(cell.name)
        if cell.method == self.fail:
            raise EdgetuneError("it cannot.")
        for name in ("model", "onnx"):
            (home / "run" / name).mkdir(parents=True)
            with (home / "run" / name / "weights").open("wb") as file:
                file.truncate(10_000_000)  # takes no room
        return outcome(cell, "").model_dump(exclude={*Cell.model_fields, "key"})

    def _warm_up(self, cell: Cell, warm: set[str]) -> None:
        pass


@pytest.fixture
def compare(rows_file: Path, tmp_path: Path) -> Callable[..., Counting]:
    """Makes a comparison in a folder; keywords stop it, let a method fail, or change its grid."""

    def made(folder: str = "out", stop_at: int | None = None, fail: str = "", **changed: Any) -> Counting:
        say = [].append
        args = (grid_on(rows_file, **changed), tmp_path / folder, tmp_path / "cache", say)
        return Counting(*args, stop_at=stop_at, fail=fail)

    return made


def test_a_validation_part_of_the_training_file_is_shared(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "yes" if i % 2 else "no"} for i in range(60)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"train": rows, "validation": rows[:10]}))
    shared = draw_shared_rows(grid_on(path).data[0], grid_on(path), tmp_path / "data")
    assert (shared.n_train, shared.n_eval) == (60, 10)


def test_rows_are_drawn_once_and_shared(rows_file: Path, tmp_path: Path) -> None:
    grid = grid_on(rows_file, rows=100, eval_rows=20)
    first = draw_shared_rows(grid.data[0], grid, tmp_path / "data")
    assert (first.n_train, first.n_eval) == (100, 20)
    assert first.labels == ("no", "yes")
    train, evaluation = (
        {json.loads(line)["text"] for line in (tmp_path / "data" / name).read_text().splitlines()}
        for name in ("train.jsonl", "eval.jsonl")
    )
    assert not train & evaluation
    assert len(train) == 100
    again = draw_shared_rows(grid.data[0], grid, tmp_path / "elsewhere")
    assert again.key == first.key
    other = draw_shared_rows(grid.data[0], grid_on(rows_file, rows=101, eval_rows=20), tmp_path / "data")
    assert other.key != first.key
    assert first.eval_labels() == [
        json.loads(line)["label"] for line in (tmp_path / "elsewhere" / "eval.jsonl").read_text().splitlines()
    ]


@pytest.fixture
def planned_for(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was planned, by a planner that wants three layers frozen, or only a head where time is short."""
    asked: list[dict[str, Any]] = []

    def plan_ahead(settings: dict[str, Any], cache_dir: Path) -> Any:
        asked.append(settings)
        head, best = (
            SimpleNamespace(method=method, trains=trains, backend="torch", precision="bf16", depth=3,
                            batch_size=16, max_length=64, threads=2)
            for method, trains in (("linear-probe", False), ("train-all", True))
        )  # fmt: skip
        return SimpleNamespace(ranked=(head, best) if settings["deadline_s"] >= 10 else (head,))

    monkeypatch.setattr("edgetune.compare.comparison.dry_run", plan_ahead)
    return asked


def test_all_methods_under_a_deadline_have_one_plan(
    planned_for: list[dict[str, Any]], compare: Callable[..., Counting]
) -> None:
    # Words alone are really run: the time is ample, whatever else the machine does.
    changed = {"settings": {"deadline_s": 500}, "methods": ["train-all", "three-stage", "tfidf-logreg"]}
    vary = [{"name": "own", "method": "random", "freeze": "1", "keep_rate": 0.2}]
    comparison = compare(vary=vary, **changed)
    found = {one.outcome.variant: one.outcome.settings for one in comparison.run()}
    pinned = {"backend": "torch", "precision": "bf16", "freeze": "3", "batch_size": 16, "max_length": 64}
    pinned |= {"threads": 2, "use_earlier_runs": False}
    assert found["train-all"] == found["three-stage"] == {"deadline_s": 500, **pinned}
    assert found["own"]["freeze"] == "1"
    assert found["tfidf-logreg"] == {"deadline_s": 500}
    assert len(planned_for) == 2  # one for all, one for whoever asked for a layer
    assert all("keep_rate" not in asked for asked in planned_for)

    assert all(one.kept for one in compare(vary=vary, **changed).run() if one.outcome.ok)
    assert len(planned_for) == 2


def test_where_only_a_head_fits_each_method_decides(
    planned_for: list[dict[str, Any]], compare: Callable[..., Counting]
) -> None:
    done = list(compare(settings={"deadline_s": 5}).run())
    assert all(one.outcome.settings == {"deadline_s": 5} for one in done)


def test_the_base_of_a_method_has_its_settings(rows_file: Path, tmp_path: Path) -> None:
    vary = [
        {"name": f"{method}-{n}", "method": method, "epochs": n}
        for n in (1, 2, 3)
        for method in ("train-all", "three-stage")
    ]
    grid = grid_on(rows_file, methods=[], vary=vary)
    outcomes = [
        outcome(cell, "", 0.8, time_split_s={"train": seconds * cell.settings["epochs"]})
        for cell in cells_of(grid)
        for seconds in [4.0 if cell.method == "three-stage" else 8.0]
    ]
    (table,) = make_tables(outcomes)
    assert {line.ranked.method: line.t_norm for line in table.lines} == {
        f"{method}-{n}": t_norm
        for n in (1, 2, 3)
        for method, t_norm in (("train-all", 1.0), ("three-stage", 0.5))
    }
    curves = sensitivities(table)["epochs"]
    assert {method: sorted(point[0] for point in points) for method, points in curves.items()} == {
        "train-all": [1, 2, 3],
        "three-stage": [1, 2, 3],
    }


def test_one_process_at_a_time_and_only_where_there_is_room(
    compare: Callable[..., Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare().run()
    next(first)
    with pytest.raises(RunError, match="process"):
        next(compare().run())
    first.close()
    usage = SimpleNamespace(free=2_000_000)
    monkeypatch.setattr("edgetune.compare.comparison.shutil.disk_usage", lambda path: usage)
    with pytest.raises(EdgetuneError, match="kept"):
        list(compare().run())
    usage.free = 10**12
    assert [one.kept for one in compare().run()] == [True, False, False]


def test_labels_that_cannot_be_learned_are_refused(tmp_path: Path) -> None:
    train, evaluation = tmp_path / "t.csv", tmp_path / "e.csv"
    train.write_text("text,label\n" + "".join(f"t{i},a\nu{i},b\n" for i in range(5)))
    evaluation.write_text("text,label\nx,a\ny,c\n")
    raw = {"data": [{"name": "t", "train": str(train), "eval": str(evaluation)}], "methods": ["random"]}
    grid = make_grid(raw, "grid")
    with pytest.raises(DataError, match="label 'c'"):
        draw_shared_rows(grid.data[0], grid, tmp_path / "data")


@pytest.mark.parametrize("stop_at", [0, 3, 5])
def test_an_interrupted_grid_goes_on_without_repeating(
    stop_at: int, compare: Callable[..., Counting], tmp_path: Path
) -> None:
    first, second = compare(stop_at=stop_at, seeds=[0, 1]), compare(seeds=[0, 1])
    with pytest.raises(KeyboardInterrupt):
        list(first.run())
    done = list(second.run())
    assert [one.kept for one in done] == [True] * stop_at + [False] * (6 - stop_at)
    assert not set(first.ran) & set(second.ran)
    assert len(first.ran) + len(second.ran) == 6
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    written = [json.loads(line)["variant"] for line in lines]
    assert written == [one.outcome.variant for one in done]
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_changed_setting_runs_its_cells_again(compare: Callable[..., Counting]) -> None:
    for lr, expected in ((1e-4, 3), (1e-4, 0), (2e-4, 3)):
        comparison = compare(settings={"lr": lr})
        list(comparison.run())
        assert len(comparison.ran) == expected


def test_a_failed_cell_is_a_line_that_says_why_and_is_tried_again(compare: Callable[..., Counting]) -> None:
    failing = compare(fail="random")
    list(failing.run())
    [table] = make_tables(failing.finished())
    assert table.failed == (("random, seed 0", "it cannot."),)
    assert "random, seed 0: it" in markdown([table], "t")
    again = compare()
    list(again.run())
    assert again.ran == ["rows--random--seed0"]


def test_random_matched_keeps_what_three_stage_trained(compare: Callable[..., Counting]) -> None:
    methods = ["three-stage", MATCHED]
    outcomes = {one.outcome.variant: one.outcome for one in compare(methods=methods).run()}
    assert (outcomes[MATCHED].method, outcomes[MATCHED].settings["keep_rate"]) == ("random", 0.4)
    failing = compare("other", fail="three-stage", methods=methods)
    outcomes = {one.outcome.variant: one.outcome for one in failing.run()}
    assert "share" in outcomes[MATCHED].error


def test_answers_survive_packing() -> None:
    for n in (1, 7, 8, 9, 200):
        right = np.random.default_rng(n).random(n) < 0.5
        cell = Cell(data="a", variant="v", method="random", seed=0, settings={})
        found = outcome(cell, "k", right=pack_answers(right), n_eval=n)
        np.testing.assert_array_equal(found.answers(), right)


def test_lines_give_outcomes_back_and_newer_ones_are_refused(tmp_path: Path) -> None:
    cell = Cell(data="a", variant="v", method="random", seed=0, settings={"lr": 1e-4})
    one = outcome(cell, "k")
    lines = write_lines([one, one]).splitlines()
    assert [Outcome.model_validate(json.loads(line)) for line in lines] == [one, one]
    (tmp_path / "cell.json").write_text(lines[0] + "{torn")
    assert read_outcome(tmp_path / "cell.json") is None
    newer = one.model_dump(mode="json") | {"schema_version": 9}
    (tmp_path / "cell.json").write_text(json.dumps(newer))
    with pytest.raises(RunError, match="newer edgetune"):
        read_outcome(tmp_path / "cell.json")
    assert read_outcome(tmp_path / "none.json") is None


def made_up(curve: bool = True) -> list[Outcome]:
    """Two sets of three methods and a curve on which accuracy grows with log time."""
    outcomes = []
    for data in ("a", "b"):
        for seed in (0, 1):
            for method, accuracy in (("train-all", 0.8), ("svp", 0.93), ("random", 0.67)):
                cell = Cell(data=data, variant=method, method=method, seed=seed, settings={})
                outcomes.append(outcome(cell, "k", accuracy))
            for at_s, accuracy in ((5, 0.6), (7, 0.7), (10, 0.8), (14, 0.87), (20, 0.95)) if curve else ():
                settings = {"deadline_s": at_s}
                name = f"curve-{at_s}s"
                cell = Cell(
                    data=data, variant=name, method="train-all", seed=seed, settings=settings, curve=True
                )
                outcomes.append(outcome(cell, "k", accuracy, seconds=float(at_s)))
    return outcomes


def test_tables_rank_and_turn_accuracy_into_time() -> None:
    tables = make_tables(made_up())
    assert [table.data for table in tables] == ["a", "b"]
    for table in tables:
        assert [line.ranked.method for line in table.lines] == ["svp", "train-all", "random"]
        assert [line.ranked.rank for line in table.lines] == [1, 2, 3]
        ratios = [line.speedup.ratio for line in table.lines if line.speedup is not None]
        assert ratios[0] > 1.2
        assert ratios[2] < 0.85
        assert table.lines[1].t_norm == 1.0
        assert table.lines[1].agot == pytest.approx(1.0)
        assert len(table.curve) == 5
    together = pooled_speedups(tables)
    assert together["svp"].ratio > together["train-all"].ratio > together["random"].ratio


def test_the_same_outcomes_give_the_same_bytes_and_no_curve_gives_no_speed_up() -> None:
    text = markdown(make_tables(made_up(curve=False)), "t")
    assert text == markdown(make_tables(made_up(curve=False)), "t")
    assert "| svp |" in text
    assert all(line.speedup is None for table in make_tables(made_up(curve=False)) for line in table.lines)


def test_machines_are_never_mixed() -> None:
    outcomes = made_up(curve=False)
    moved = [
        one.model_copy(update={"machine": {"cpu": "Other", "cores": 4}}) if one.seed else one
        for one in outcomes
    ]
    tables = make_tables(moved)
    assert len(tables) == 4
    assert len({table.machine for table in tables}) == 2
    assert "Other, 4 cores" in {table.machine for table in tables}
    assert all(line.ranked.n_seeds == 1 for table in tables for line in table.lines)


def test_a_cells_config_holds_what_was_given_and_leaves_the_rest_to_the_plan(
    rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetune.compare.comparison.dry_run", lambda *_: SimpleNamespace(ranked=()))
    grid = grid_on(rows_file, methods=["svp"], settings={"deadline_s": 60})
    comparison = Comparison(grid, tmp_path / "out", tmp_path / "cache", lambda text: None)
    monkeypatch.setattr(comparisons, "module_command", lambda *_: [sys.executable, "-c", "exit('no.')"])
    [done] = list(comparison.run())
    assert "no." in done.outcome.error
    raw = load_config(tmp_path / "out" / "cells" / "rows--svp--seed0" / "config.toml")
    assert raw["budget"] == {"deadline_s": 60}
    assert raw["selection"] == {"method": "svp", "watched": False}
    assert raw["train"] == {"ngrams": False, "seed": 0, "keep": "last"}
    assert "max_length" not in raw["data"]


def test_changed_labels_are_noticed(rows_file: Path, tmp_path: Path) -> None:
    grid, folder = grid_on(rows_file), tmp_path / "data"
    first = draw_shared_rows(grid.data[0], grid, folder)
    rows_file.write_text(rows_file.read_text().replace('"no"', '"never"'))
    second = draw_shared_rows(grid.data[0], grid, folder)
    assert second.key != first.key
    assert second.labels == ("never", "yes")


def test_what_breaks_in_one_cell_does_not_end_the_grid(
    rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = Comparison(grid_on(rows_file), tmp_path / "out", tmp_path / "cache", lambda text: None)
    monkeypatch.setattr(comparisons, "module_command", lambda *_: {}["predicted"])
    done = list(comparison.run())
    assert [one.outcome.error for one in done] == ["KeyError: 'predicted'"] * 3


def test_a_stopped_cell_stops_its_process(
    rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = Comparison(grid_on(rows_file), tmp_path / "out", tmp_path / "cache", lambda text: None)
    started: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def communicate(self, *args: Any, **kwargs: Any) -> Any:
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        comparison._process("timeit", ["-n", "1", "import time; time.sleep(60)"], tmp_path / "home", (0,))
    assert started[0].poll() is not None
    assert started[0].stderr is not None
    started[0].stderr.close()


@pytest.mark.parametrize("models", [True, False])
def test_models_are_kept_or_dropped_and_counted_either_way(
    models: bool, compare: Callable[..., Counting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = compare(models=models)
    cells = made.run()
    next(cells)
    for name in ("model", "onnx"):
        assert len(list(tmp_path.glob(f"out/cells/*/run/{name}"))) == int(models)
    usage = SimpleNamespace(free=59_000_000)  # three times the 20 MB that the first cell took are not there
    monkeypatch.setattr("edgetune.compare.comparison.shutil.disk_usage", lambda path: usage)
    with pytest.raises(EdgetuneError, match="60 MB"):
        next(cells)
    assert len(made.finished()) == 1


def test_a_refused_comparison_writes_nothing(compare: Callable[..., Counting], tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(compare().run())
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with exclusive_lock(out), pytest.raises(RunError, match="Another process"):
        list(compare(rows=20).run())
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("name", "change"), [("train.jsonl", "gone"), ("eval.jsonl", "garbage")])
def test_shared_rows_that_were_damaged_are_drawn_again(
    name: str, change: str, rows_file: Path, tmp_path: Path
) -> None:
    grid, folder = grid_on(rows_file), tmp_path / "data"
    key, before = draw_shared_rows(grid.data[0], grid, folder).key, (folder / name).read_bytes()
    (folder / name).unlink()
    if change == "garbage":
        (folder / name).write_text("garbage")
    assert draw_shared_rows(grid.data[0], grid, folder).key == key
    assert (folder / name).read_bytes() == before


@pytest.mark.parametrize("damage", [{"right": "zz!"}, {"right": ""}, {"seconds": None}, {"n_eval": 7}])
def test_an_outcome_that_cannot_be_is_made_again(
    damage: dict[str, Any], compare: Callable[..., Counting], tmp_path: Path
) -> None:
    list(compare().run())
    home = tmp_path / "out" / "cells" / "rows--random--seed0"
    (home / "cell.json").write_text(json.dumps(json.loads((home / "cell.json").read_text()) | damage))
    again = compare()
    assert all(done.outcome.ok for done in again.run())
    assert again.ran == [home.name]


def test_a_file_in_a_cells_place_gives_way(compare: Callable[..., Counting], tmp_path: Path) -> None:
    home = tmp_path / "out" / "cells" / "rows--random--seed0"
    home.parent.mkdir(parents=True)
    home.write_text("not a folder")
    assert all(one.outcome.ok for one in compare().run())
    assert home.is_dir()


@pytest.mark.parametrize("place", ["rows.jsonl", "rows.jsonl/below", "x" * 300])
def test_a_folder_that_cannot_be_is_a_sentence(place: str, compare: Callable[..., Counting]) -> None:
    with pytest.raises(ResourceError, match="Cannot write to"):
        list(compare(place).run())
