"""Several processes make the same entry of a cache at once; whoever reads one must not lose it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from edgetune.utils.cache import move_into_place


def make(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "data").write_text(content)
    return folder


def is_whole(folder: Path) -> bool:
    return (folder / "data").is_file() and (folder / "data").read_text() != "damaged"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_moved(tmp_path: Path) -> None:
    move_into_place(make(tmp_path / "made", "mine"), tmp_path / "entry", is_whole)
    assert (tmp_path / "entry" / "data").read_text() == "mine"
    assert names(tmp_path) == ["entry"]


def test_a_whole_one_stays(tmp_path: Path) -> None:
    """Another process may be reading it."""
    entry = make(tmp_path / "entry", "theirs")
    move_into_place(make(tmp_path / "made", "mine"), entry, is_whole)
    assert (entry / "data").read_text() == "theirs"


def test_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    entry = make(tmp_path / "entry", "damaged")
    move_into_place(make(tmp_path / "made", "mine"), entry, is_whole)
    assert (entry / "data").read_text() == "mine"
    assert names(tmp_path) == ["entry"]


def test_what_cannot_be_moved_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        move_into_place(tmp_path / "nothing", tmp_path / "entry", is_whole)
    assert names(tmp_path) == []


@pytest.mark.parametrize("at_first", ["nothing", "damaged"])
def test_many_at_once(at_first: str, tmp_path: Path) -> None:
    """The first puts its own in place, and nobody takes it away again."""
    n_makers = 12
    entry, errors = tmp_path / "entry", list[BaseException]()
    together = threading.Barrier(n_makers)
    if at_first == "damaged":
        make(entry, "damaged")
    looked = list[bool]()

    def look(folder: Path) -> bool:
        looked.append(is_whole(folder))
        time.sleep(0.01)  # for others to come between
        return looked[-1]

    def maker(number: int) -> None:
        try:
            made = make(tmp_path / f"made-{number}", f"good {number}")
            together.wait(10)
            move_into_place(made, entry, look)
        except BaseException as error:
            errors.append(error)

    makers = [threading.Thread(target=maker, args=[number]) for number in range(n_makers)]
    for thread in makers:
        thread.start()
    for thread in makers:
        thread.join()
    assert errors == []
    assert is_whole(entry)
    assert looked == [False, *[True] * (n_makers - 1)]
