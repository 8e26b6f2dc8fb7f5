"""Every picture is a file that can be read, the same twice, and says so when it is empty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from edgetune.compare import comparison_charts
from edgetune.report import charts
from edgetune.report.charts import MethodPoint, method_styles, save_message
from edgetune.selection import METHODS

NAMES = [*METHODS, "three stages of the paper", "$random$ + decay"]
PNG = b"\x89PNG\r\n"


def points(seconds: float = 120.0) -> list[MethodPoint]:
    generator = np.random.default_rng(0)
    accuracies = generator.uniform(0.84, 0.9, len(NAMES))
    return [
        MethodPoint(name, seconds * generator.uniform(0.97, 1.03), a, a - 0.01, a + 0.01, 3)
        for name, a in zip(NAMES, accuracies, strict=True)
    ]


CURVE = [(30.0, 0.82), (60.0, 0.85), (120.0, 0.87), (240.0, 0.89), (480.0, 0.9)]
SPLIT = [(name, {"load": 2.0, "train": 80.0 + i, "score": float(i)}) for i, name in enumerate(NAMES)]
STAGES = [(name, [("warmup", 4.0, 30.0), ("filter_backward", 30.0, 100.0)]) for name in NAMES]
LINES = {name: [(x, 0.8 + x / 9, 0.79, 0.91) for x in (0.1, 0.3, 1.0)] for name in NAMES[:5]}


def draw_map(n: int, path: Path) -> None:
    generator = np.random.default_rng(0)
    mean = generator.beta(4, 1, n)
    spread = np.sqrt(mean * (1 - mean)) * generator.uniform(0.2, 1, n)
    mean[:1] = np.nan  # a row that no pass has come to yet
    charts.draw_map(mean, spread, mean > 0.5, path)


DRAWN: dict[str, Callable[[Path], None]] = {
    "pareto": lambda path: charts.draw_pareto(points(), CURVE, "SST-2, $5", path),
    "pareto-no-curve": lambda path: charts.draw_pareto(points()[:3], [], "", path),
    "pareto-no-points": lambda path: charts.draw_pareto([], CURVE, "中", path),
    "pareto-one": lambda path: charts.draw_pareto(points()[:1], CURVE[:1], "", path),
    "split": lambda path: comparison_charts.draw_time_split(SPLIT, path),
    "split-of-nothing": lambda path: comparison_charts.draw_time_split(
        [("a", {}), ("b", {"train": 0.0})], path
    ),
    "stages": lambda path: comparison_charts.draw_stages(STAGES, path),
    "stages-of-one": lambda path: comparison_charts.draw_stages([("a", []), *STAGES[:1]], path),
    "sensitivity": lambda path: charts.draw_sensitivity("keep_rate", LINES, path),
    "sensitivity-log": lambda path: charts.draw_sensitivity(
        "lr", {"a": [(x / 1e4, 0.8, 0.7, 0.9) for x in range(1, 40)], "b": []}, path
    ),
    "sensitivity-one": lambda path: charts.draw_sensitivity("beta", {"a": [(0.0, 0.8, 0.7, 0.9)]}, path),
    "map": lambda path: draw_map(2000, path),
    "map-many": lambda path: draw_map(charts.MANY_ROWS + 1000, path),
}
EMPTY: dict[str, Callable[[Path], None]] = {
    "No method has been measured": lambda path: charts.draw_pareto([], [], "title", path),
    "No time has been measured": lambda path: comparison_charts.draw_time_split([], path),
    "No stage has been recorded": lambda path: comparison_charts.draw_stages([("a", [])], path),
    "No values of beta have been measured": lambda path: charts.draw_sensitivity("beta", {"a": []}, path),
    "No row has been visited": lambda path: charts.draw_map(
        np.ones(1), np.zeros(1), np.array([np.nan]), path
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_are_the_same_twice_and_can_be_read(name: str, tmp_path: Path) -> None:
    for ending in (".svg", ".PNG") if name in ("pareto", "map-many") else (".svg",):
        one, other = tmp_path / f"one{ending}", tmp_path / f"other{ending}"
        DRAWN[name](one)
        DRAWN[name](other)
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_size > 10_000
        if ending == ".svg":
            assert ElementTree.parse(one).getroot().tag.endswith("svg")
        else:
            assert one.read_bytes().startswith(PNG)
    assert {path.stem for path in tmp_path.iterdir()} == {"one", "other"}


@pytest.mark.parametrize("sentence", EMPTY)
def test_an_empty_picture_says_so(sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    for module in (comparison_charts, charts):
        monkeypatch.setattr(
            module, "save_message", lambda words, path: (said.append(words), save_message(words, path))
        )
    EMPTY[sentence](tmp_path / "empty.png")
    assert [words.startswith(sentence) for words in said] == [True]
    assert (tmp_path / "empty.png").read_bytes().startswith(PNG)


def test_another_ending_is_refused_and_a_failed_picture_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        DRAWN["split"](tmp_path / "split.pdf")

    def fail(self: Figure, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        DRAWN["split"](tmp_path / "split.png")
    assert list(tmp_path.iterdir()) == []


def test_times_must_be_above_0(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="above 0 s"):
        charts.draw_pareto([MethodPoint("a", 0.0, 0.5, 0.4, 0.6, 1)], [], "", tmp_path / "a.png")


def test_no_two_methods_look_alike_and_known_ones_keep_their_look() -> None:
    looks = method_styles([*NAMES, *(f"other {i}" for i in range(30))])
    assert len(set(looks.values())) == len(looks) == len(NAMES) + 30
    assert method_styles(["three-stage"])["three-stage"] == looks["three-stage"]


@pytest.mark.parametrize("spread", [1.0, 1.4])
def test_names_do_not_cover_each_other_nor_a_marker(
    spread: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All methods at one deadline, or over a range of times.
    shown = [
        MethodPoint(p.method, p.seconds * spread ** (i - 8), p.accuracy, p.low, p.high, p.n_seeds)
        for i, p in enumerate(points())
    ]
    figures: list[Figure] = []
    monkeypatch.setattr(charts, "save_figure", lambda figure, path: figures.append(figure))
    charts.draw_pareto(shown, CURVE, "", tmp_path / "x.png")
    axes = figures[0].axes[-1]  # the close-up, where there is one
    assert len(figures[0].axes) == (2 if spread == 1.0 else 1)
    boxes = np.array([text.get_window_extent().extents for text in axes.texts if "(3)" in text.get_text()])
    assert len(boxes) == len(shown)
    dots = axes.transData.transform([(p.seconds, 100 * p.accuracy) for p in shown])
    blocks = np.concatenate([boxes, np.hstack([dots - 4, dots + 4])])
    for i, box in enumerate(boxes):
        others = np.delete(blocks, i, axis=0)
        assert charts.covered_pixels(box[None], others)[0] == 0, axes.texts[i].get_text()
    frame = axes.get_window_extent()
    assert (boxes[:, :2] >= frame.min - 1).all()
    assert (boxes[:, 2:] <= frame.max + 1).all()
