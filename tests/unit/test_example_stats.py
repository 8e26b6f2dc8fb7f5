"""The record of rows: sums by hand, what is unknown, and the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import make_batch

from edgetune.run_files.example_stats import (
    FILE,
    ExampleStats,
    load_example_stats,
    rates_by_label,
    rates_by_length,
)
from edgetune.utils.errors import RunError


def filled() -> ExampleStats:
    record, batch = ExampleStats.empty(5), make_batch([4, 9, 3])
    batch.labels[:] = [0, 1, 1]
    logits = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    record.saw(batch)
    record.scored(batch, logits, np.array([0.1, 2.0, 0.3]))
    record.trained(batch.take(np.array([1])).mark_scored(), logits[[1]], np.array([1.9]))
    record.saw(batch)
    record.trained(batch, logits, np.array([0.3, 1.0, 0.3]))
    return record


def test_sums_by_hand() -> None:
    record = filled()
    assert record.n_seen.tolist() == [2, 2, 2, 0, 0]
    assert record.n_scored.tolist() == [1, 1, 1, 0, 0]
    assert record.n_trained.tolist() == [1, 2, 1, 0, 0]
    assert record.n_measured.tolist() == [2, 2, 2, 0, 0]  # a scored row's train step is no new measurement
    assert record.n_right.tolist() == [2, 0, 2, 0, 0]
    np.testing.assert_allclose(record.mean_loss()[:3], [0.2, 1.5, 0.3], rtol=1e-6)
    p = np.exp([[-0.1, -0.3], [-2.0, -1.0], [-0.3, -0.3]])
    np.testing.assert_allclose(record.confidence()[:3], p.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(record.variability()[:3], p.std(axis=1), atol=1e-4)
    np.testing.assert_allclose(record.correctness()[:3], [1, 0, 1])


def test_what_is_not_known_is_not_a_number() -> None:
    record = filled()
    assert record.known.tolist() == [True, True, True, False, False]
    for values in (record.mean_loss(), record.confidence(), record.variability(), record.correctness()):
        assert np.isnan(values[3:]).all()


def test_a_row_twice_in_a_batch_counts_twice() -> None:
    record, batch = ExampleStats.empty(2), make_batch([4, 4])
    twice = batch.take(np.array([1, 1]))
    record.trained(twice, np.zeros((2, 2)), np.array([0.5, 1.5]))
    assert record.n_trained.tolist() == [0, 2]
    assert record.mean_loss()[1] == 1.0


def test_rows_with_several_labels() -> None:
    record, batch = ExampleStats.empty(3), make_batch([4, 9, 3], multi_label=True)
    batch.labels[:] = [[1, 1], [0, 1], [0, 0]]
    record.saw(batch)
    record.trained(batch.take(np.array([0, 2])), np.array([[1.0, 2.0], [1.0, -1.0]]), np.array([0.2, 0.9]))
    assert record.n_right.tolist() == [1, 0, 0]
    rates = rates_by_label(record, np.arange(3), batch.labels, ("a", "b"))
    assert [(one["n_seen"], one["trained_rate"]) for one in rates] == [(1, 1.0), (2, 0.5)]


def test_the_file_gives_the_record_back(tmp_path: Path) -> None:
    record = filled()
    record.save(tmp_path)
    found = load_example_stats(tmp_path)
    for name in ExampleStats.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(record, name))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"not a zip"])
def test_a_damaged_file_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(RunError, match=r"rows\.npz"):
        load_example_stats(tmp_path)


def test_no_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"rows\.npz"):
        load_example_stats(tmp_path)


def test_rates_by_class_and_by_length() -> None:
    record = filled()
    rows = np.array([0, 1, 2, 4])
    by_label = rates_by_label(record, rows, np.array([0, 1, 1, 0]), ("no", "yes"))
    assert by_label == [
        {"name": "no", "n_seen": 2, "trained_rate": 0.5},
        {"name": "yes", "n_seen": 4, "trained_rate": 0.75},
    ]
    by_length = rates_by_length(record, rows, np.array([4, 9, 3, 30]))
    assert [(one["name"], one["n_seen"]) for one in by_length] == [("8", 4), ("16", 2), ("32", 0)]
    assert by_length[2]["trained_rate"] is None
