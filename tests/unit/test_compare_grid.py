"""Grids: what is refused, which cells come of them, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgetune.cli.compare_commands import _grid_of
from edgetune.compare.baselines import all_baselines
from edgetune.compare.grid import CURVE_SHARES, CURVE_TIMES, MATCHED, cells_of, load_grid, make_grid
from edgetune.selection import METHODS
from edgetune.utils.errors import UsageError

TWO: list[dict[str, Any]] = [{"name": "a", "train": "a.csv"}, {"name": "b", "train": "b.csv"}]


def grid(**changed: Any) -> Any:
    raw = {"data": TWO, "methods": ["train-all", "random"], "curve": False, **changed}
    return make_grid(raw, "grid.toml")


def test_a_cell_for_every_set_method_and_seed() -> None:
    cells = cells_of(grid(seeds=[0, 1, 2]))
    assert len({cell.name for cell in cells}) == len(cells) == 2 * 2 * 3
    assert {(cell.data, cell.method, cell.seed) for cell in cells} == {
        (data, method, seed) for data in "ab" for method in ("train-all", "random") for seed in range(3)
    }


def test_a_set_may_have_seeds_of_its_own() -> None:
    cells = cells_of(grid(data=[TWO[0] | {"seeds": [0, 1, 2]}, TWO[1]]))
    assert [(cell.seed, cell.data) for cell in cells[::2]] == [(0, "a"), (0, "b"), (1, "a"), (2, "a")]
    alone = cells_of(grid(data=TWO))
    assert cells[:4] == alone  # and the rounds that were there stay as they were


def test_methods_take_turns_within_every_round() -> None:
    cells = cells_of(grid(methods=["all"], seeds=[0, 1]))
    n_methods = len(METHODS) + len(all_baselines())
    rounds = [cells[i : i + n_methods] for i in range(0, len(cells), n_methods)]
    assert [(found[0].data, found[0].seed) for found in rounds] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    orders = [[cell.method for cell in found] for found in rounds]
    assert all(sorted(order) == sorted([*METHODS, *all_baselines()]) for order in orders)
    assert len({tuple(order) for order in orders}) == 4  # each round in an order of its own
    assert cells_of(grid(methods=["all"], seeds=[0, 1])) == cells


def test_random_at_the_same_amount_comes_after_three_stage() -> None:
    cells = cells_of(grid(methods=[MATCHED, "train-all"]))
    for data in "ab":
        order = [cell.method for cell in cells if cell.data == data]
        assert order[-1] == MATCHED
        assert "three-stage" in order


@pytest.mark.parametrize(("settings", "n"), [({"deadline_s": 60}, len(CURVE_TIMES)), ({}, len(CURVE_SHARES))])
def test_the_reference_curve_has_five_points(settings: dict[str, Any], n: int) -> None:
    cells = cells_of(grid(data=TWO[:1], curve=True, settings=settings))
    curve = [cell for cell in cells if cell.curve]
    assert len(curve) == n >= 5
    if settings:
        assert sorted(cell.settings["deadline_s"] for cell in curve) == [60 * f for f in CURVE_TIMES]
    else:
        assert sorted(cell.settings["keep_rate"] for cell in curve) == list(CURVE_SHARES)


def test_variants_have_settings_of_their_own() -> None:
    vary = [{"name": "hot", "method": "random", "lr": 1e-3}]
    cells = cells_of(grid(vary=vary, settings={"lr": 1e-4}))
    assert {cell.settings["lr"] for cell in cells if cell.variant == "hot"} == {1e-3}
    assert {cell.settings["lr"] for cell in cells if cell.variant != "hot"} == {1e-4}


def test_a_key_changes_with_what_decides_the_result() -> None:
    one, other = (cells_of(grid(settings={"lr": lr}))[0] for lr in (1e-4, 2e-4))
    assert one.result_key("rows") != other.result_key("rows")
    assert one.result_key("rows") != one.result_key("other rows")
    assert one.result_key("rows") == one.result_key("rows")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"methods": ["tree-stage"]}, 'no method "tree-stage". Did you mean "three-stage"'),
        ({"method": ["random"]}, 'no setting "method". Did you mean "methods"'),
        ({"data": [{"name": "a", "train": "a.csv", "trian": "a.csv"}]}, 'Did you mean "train"'),
        ({"settings": {"batchsize": 3}}, 'no setting "batchsize". Did you mean "batch_size"'),
        ({"settings": {"lr": -1}}, "lr"),
        ({"vary": [{"name": "x", "method": "svp", "rank_bye": "entropy"}]}, 'Did you mean "rank_by"'),
        ({"seeds": "one"}, "seeds"),
        ({"name": "a/b"}, "name"),
        ({"data": [{"name": "../a", "train": "a.csv"}]}, "data.0.name"),
        ({"settings": {"seed": 3}}, "is set by the comparison"),
        ({"settings": {"text": ["a"]}}, "is set by the comparison"),
        ({"data": []}, "data: list should have at least 1 item"),
        ({"seeds": []}, "seeds: list should have at least 1 item"),
        ({"methods": []}, "no method is given"),
        ({"seeds": 3}, "seeds: input should be a valid list"),
        ({"data": ["a.csv"]}, "data.0: input should be a valid table"),
        ({"data": [{"name": "a" * 61, "train": "a.csv"}]}, "at most 60 characters"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        grid(**changed)


def test_two_cells_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="a--random--seed0"):
        cells_of(grid(vary=[{"name": "random", "method": "svp"}]))
    with pytest.raises(UsageError, match=r"--seed3"):
        cells_of(grid(seeds=[3, 3]))


def test_a_file_is_read_and_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "table-3.toml"
    path.write_text('methods = ["all"]\n[[data]]\nname = "a"\ntrain = "a.csv"\n[settings]\nepochs = 2\n')
    found = load_grid(path)
    assert found.name == "table-3"
    assert set(found.methods) == {*METHODS, *all_baselines()}
    assert found.settings == {"epochs": 2}


@pytest.mark.parametrize("text", ["methods = [", "\x00", 'methods = ["random"]'])
def test_a_broken_file_is_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"grid\.toml"):
        load_grid(path)
    with pytest.raises(UsageError, match="Cannot read"):
        load_grid(tmp_path / "none.toml")


def test_long_names_that_are_cut_alike_stay_apart(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{'reviews-' * 10}{number}.csv") for number in range(2)]
    names = [entry.name for entry in _grid_of(paths, {}, "random", {}).data]
    assert len(set(names)) == 2
