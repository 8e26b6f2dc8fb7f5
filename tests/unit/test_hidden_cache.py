"""The cache of the frozen layers' output: what it keeps, where, and what it gives back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import make_batch

import edgetune.backends.hidden_cache as home
from edgetune.backends.hidden_cache import HiddenCache, row_keys
from edgetune.data.batches import Batch, join

WIDTH = 16
DIM = 4
ROW_MB = WIDTH * DIM * 4 / 1e6  # of 16 tokens in fp32


class Layers:
    """Stands in for frozen layers: every token's state follows from its id and place; padding is noise."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.rows: list[int] = []

    def __call__(self, batch: Batch, width: int = WIDTH) -> np.ndarray:
        self.rows += batch.rows.tolist()
        padded = batch.padded(0, multiple=1, width=width)
        values = padded["input_ids"] * 0.37 + np.arange(width) / 7 + 99.0 * (1 - padded["attention_mask"])
        states = values[..., None] * np.arange(1, DIM + 1) / 3
        return (self.scale * states).astype(np.float32)

    def real(self, batch: Batch, width: int = WIDTH) -> np.ndarray:
        """What is expected: zero at padding."""
        mask = np.arange(width) < batch.lengths[:, None]
        return np.asarray(Layers(self.scale)(batch, width) * mask[..., None], dtype=np.float32)


def test_computes_a_row_once() -> None:
    layers, cache = Layers(), HiddenCache(1, 0, None, "fp32")
    batch = make_batch([5, 16, 9])
    for _ in range(3):
        found = cache.hidden(batch, WIDTH, layers)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, layers.real(batch))
    assert layers.rows == [0, 1, 2]
    assert (cache.n_hits, cache.n_misses, len(cache)) == (6, 3, 3)
    assert cache.memory_mb_used == pytest.approx(30 * DIM * 4 / 1e6)
    assert cache.file_mb_used == 0


def test_nothing_kept_can_be_resumed_from() -> None:
    """A checkpoint can be older than the first row that is kept."""
    layers, cache, batch = Layers(), HiddenCache(1, 0, None, "fp32"), make_batch([5, 16])
    cache.load_state(HiddenCache(1, 0, None, "fp32").state(), [])
    assert len(cache) == 0
    np.testing.assert_array_equal(cache.hidden(batch, WIDTH, layers), layers.real(batch))
    assert layers.rows == [0, 1]


def test_computes_only_what_is_missing() -> None:
    layers, cache = Layers(), HiddenCache(1, 0, None, "fp32")
    batch = make_batch([5, 16, 9, 3])
    cache.hidden(batch.take(np.array([2, 0])), WIDTH, layers)
    np.testing.assert_array_equal(cache.hidden(batch, WIDTH, layers), layers.real(batch))
    assert layers.rows == [2, 0, 1, 3]
    assert (cache.n_hits, cache.n_misses) == (2, 4)


def test_width_is_not_part_of_a_row() -> None:
    layers, cache = Layers(), HiddenCache(1, 0, None, "fp32")
    batch = make_batch([5, 7])
    cache.hidden(batch, WIDTH, layers)
    np.testing.assert_array_equal(cache.hidden(batch, 8, layers), layers.real(batch, 8))
    np.testing.assert_array_equal(cache.hidden(batch, 40, layers), layers.real(batch, 40))
    assert cache.n_misses == 2


def test_equal_texts_share_a_place() -> None:
    layers, cache = Layers(), HiddenCache(1, 0, None, "fp32")
    batch = make_batch([5, 16])
    twice = join([batch, batch])
    np.testing.assert_array_equal(cache.hidden(twice, WIDTH, layers), layers.real(twice))
    assert len(cache) == 2
    elsewhere = Batch(
        rows=batch.rows + 100,
        labels=1 - batch.labels,
        tokens=batch.tokens.astype(np.int64),
        offsets=batch.offsets,
        first_lengths=batch.first_lengths.astype(np.int32),
        scored=~batch.scored,
    )
    cache.hidden(elsewhere, WIDTH, layers)
    assert cache.n_hits == 2


def test_key_is_tokens_and_where_the_second_text_starts() -> None:
    batch = make_batch([5, 16, 9])
    keys = row_keys(batch)
    assert [len(key) for key in keys] == [16, 16, 16]
    assert row_keys(batch.take(np.array([1]))) == [keys[1]]
    other = Batch(
        batch.rows, batch.labels, batch.tokens, batch.offsets, batch.first_lengths + 1, batch.scored
    )
    assert not set(row_keys(other)) & set(keys)
    whole, beyond = (
        Batch(batch.rows, batch.labels, batch.tokens, batch.offsets, batch.lengths + n, batch.scored)
        for n in (0, 3)
    )
    assert row_keys(whole) == row_keys(beyond)  # one text, however its length is given
    first = row_keys(make_batch([3]))[0]
    assert first != row_keys(make_batch([4]))[0]


def test_fp16_rounds_alike_whether_kept_or_not() -> None:
    layers = Layers()
    batch = make_batch([5, 16, 9])
    rounded = layers.real(batch).astype(np.float16).astype(np.float32)
    for room_mb in (1, 0):
        cache = HiddenCache(room_mb, 0, None)
        for _ in range(2):
            np.testing.assert_array_equal(cache.hidden(batch, WIDTH, layers), rounded)
    assert np.abs(rounded - layers.real(batch)).max() > 0


def test_rows_beyond_fp16_stay_exact_and_are_computed_again() -> None:
    layers, cache = Layers(scale=6000.0), HiddenCache(1, 0, None)
    small, large = make_batch([4], vocab_size=6), make_batch([8], vocab_size=50)
    expected = layers.real(large)
    assert np.abs(expected).max() > 65504
    for _ in range(2):
        np.testing.assert_array_equal(cache.hidden(large, WIDTH, layers), expected)
        cache.hidden(small, WIDTH, layers)
    assert (len(cache), cache.n_hits) == (1, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_not_kept(bad: float) -> None:
    cache = HiddenCache(1, 0, None)
    batch = make_batch([4])
    found = cache.hidden(batch, WIDTH, lambda part, width: np.full((1, WIDTH, DIM), bad, dtype=np.float32))
    np.testing.assert_array_equal(found[0, :4], bad)
    assert len(cache) == 0


def test_new_rows_may_be_turned_away() -> None:
    layers, cache = Layers(), HiddenCache(1, 0, None, "fp32")
    batch = make_batch([5, 16])
    np.testing.assert_array_equal(cache.hidden(batch, WIDTH, layers, keep=False), layers.real(batch))
    assert len(cache) == 0
    cache.hidden(batch, WIDTH, layers)
    cache.hidden(batch, WIDTH, layers, keep=False)
    assert (len(cache), cache.n_hits, cache.n_misses) == (2, 2, 4)


def rows_of_sixteen(n: int) -> list[Batch]:
    return [make_batch([WIDTH], seed) for seed in range(n)]


def pass_over(cache: HiddenCache, batches: list[Batch]) -> int:
    """Ask for every batch, hold the answers against the truth; return how many rows were computed."""
    layers = Layers()
    for batch in batches:
        np.testing.assert_array_equal(cache.hidden(batch, WIDTH, layers), layers.real(batch))
    return len(layers.rows)


def test_memory_then_file_then_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "CHUNK_BYTES", 2 * WIDTH * DIM * 4)
    page_mb = home.mmap.ALLOCATIONGRANULARITY / 1e6
    n_file = int(2 * page_mb / ROW_MB + 1e-9)
    cache = HiddenCache(5 * ROW_MB, 2 * page_mb, tmp_path, "fp32")
    batches = rows_of_sixteen(5 + n_file + 3)
    assert pass_over(cache, batches) == len(batches)
    assert cache.memory_mb_used == pytest.approx(5 * ROW_MB)
    assert cache.file_mb_used == pytest.approx(n_file * ROW_MB)
    assert pass_over(cache, batches) == 3
    assert pass_over(cache, batches[::-1]) == 3
    cache.close()


def test_file_has_no_name_and_is_gone_after_closing(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    cache = HiddenCache(0, 1, folder, "fp32")
    assert not folder.exists()
    assert pass_over(cache, rows_of_sixteen(3)) == 3
    assert cache.file_mb_used == pytest.approx(3 * ROW_MB)
    assert list(folder.iterdir()) == []
    cache.close()
    cache.close()
    assert len(cache) == 0
    assert pass_over(cache, rows_of_sixteen(3)) == 3  # nothing is kept any more
    assert len(cache) == 0


class Full:
    """A file on a disk that is full from some write on."""

    def __init__(self, file: Any, n_left: int, short: bool) -> None:
        self._file, self._n_left, self._short = file, n_left, short

    def write(self, data: Any) -> int:
        if self._n_left == 0:
            if not self._short:
                raise OSError(28, "No space left on device")
            return int(self._file.write(data[:7]))
        self._n_left -= 1
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("short", [False, True])
def test_full_disk_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: bool) -> None:
    make = home.tempfile.TemporaryFile
    monkeypatch.setattr(home.tempfile, "TemporaryFile", lambda **settings: Full(make(**settings), 2, short))
    cache = HiddenCache(ROW_MB, 10, tmp_path, "fp32")
    batches = rows_of_sixteen(6)
    assert pass_over(cache, batches) == 6
    assert (len(cache), cache.file_mb_used) == (3, pytest.approx(2 * ROW_MB))
    assert pass_over(cache, batches) == 3
    cache.close()


def test_folder_that_cannot_be_written_is_no_room(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = HiddenCache(0, 10, tmp_path / "file", "fp32")
    assert pass_over(cache, rows_of_sixteen(2)) == 2
    assert len(cache) == 0


def test_rows_longer_than_a_chunk_or_than_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "CHUNK_BYTES", 64)
    fits = HiddenCache(10 * ROW_MB, 0, None, "fp32")
    pass_over(fits, rows_of_sixteen(3))
    assert len(fits) == 3
    tight = HiddenCache(0.9 * ROW_MB, 0.001, tmp_path, "fp32")
    pass_over(tight, rows_of_sixteen(3))
    assert len(tight) == 0
    short = make_batch([3])
    tight.hidden(short, WIDTH, Layers())
    assert len(tight) == 1  # a shorter one still fits


def test_pages_of_the_file_are_let_go_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "RELEASE_BYTES", 1)
    cache = HiddenCache(0, 1, tmp_path, "fp32")
    batches = rows_of_sixteen(4)
    pass_over(cache, batches)
    for _ in range(3):
        assert pass_over(cache, batches) == 0
    cache.close()
