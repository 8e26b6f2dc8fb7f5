"""What happened to every training row: how often it was seen, scored and trained, and how it was answered.

The loop fills it; the run folder keeps it as `rows.npz`, from which the map of a data set, the list of rows
that are most likely mislabelled, and the skip rates by class and by length are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

from edgetune.data.batches import PAD_MULTIPLE, Batch, bucket_of
from edgetune.utils.errors import RunError
from edgetune.utils.files import atomic_path
from edgetune.utils.metrics import is_right
from edgetune.utils.sanitize import brief
from edgetune.utils.types import BoolArray, FloatArray, IntArray, Labels

FILE = "rows.npz"


@dataclass(frozen=True)
class ExampleStats:
    """Counts and sums by row of the training file (rows that were held out stay at 0), (n,) each.

    Attributes:
        n_seen: times it came in the stream.
        n_scored: times a forward pass was paid for to decide on it.
        n_trained: times it went through a train step.
        n_measured: losses known of it: one for every score, and one for every train step without a score.
        n_right: of those, how often it was answered right (`metrics.is_right`).
        sum_p: of its label's probability, exp(-loss), over the measured; with several labels a row, the
            geometric mean over the classes.
        sum_p2: of the squares of that.
        sum_loss: nats, over the measured.
    """

    n_seen: npt.NDArray[np.int32]
    n_scored: npt.NDArray[np.int32]
    n_trained: npt.NDArray[np.int32]
    n_measured: npt.NDArray[np.int32]
    n_right: npt.NDArray[np.int32]
    sum_p: npt.NDArray[np.float32]
    sum_p2: npt.NDArray[np.float32]
    sum_loss: npt.NDArray[np.float32]

    @classmethod
    def empty(cls, n_rows: int) -> ExampleStats:
        """Return a record of rows of which nothing is known yet."""
        columns: list[Any] = [np.zeros(n_rows, dtype=kind) for kind in ("int32",) * 5 + ("float32",) * 3]
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.n_seen)

    def saw(self, batch: Batch) -> None:
        """Count rows of the stream."""
        np.add.at(self.n_seen, batch.rows, 1)

    def scored(self, batch: Batch, logits: FloatArray, losses: FloatArray) -> None:
        """Count scored rows and take their losses (B,) in nats."""
        np.add.at(self.n_scored, batch.rows, 1)
        self._measured(batch, logits, losses)

    def trained(self, batch: Batch, logits: FloatArray, losses: FloatArray) -> None:
        """Count trained rows and take the losses of those that were not scored before."""
        np.add.at(self.n_trained, batch.rows, 1)
        fresh = ~batch.scored
        if fresh.all():
            self._measured(batch, logits, losses)
        elif fresh.any():
            self._measured(batch.take(fresh), logits[fresh], losses[fresh])

    def _measured(self, batch: Batch, logits: FloatArray, losses: FloatArray) -> None:
        """A row can stand in a batch twice (left over from the pass before), so the sums are unbuffered."""
        rows, p = batch.rows, np.exp(-losses)
        np.add.at(self.n_measured, rows, 1)
        np.add.at(self.n_right, rows, is_right(logits, batch.labels))
        np.add.at(self.sum_p, rows, p)
        np.add.at(self.sum_p2, rows, p * p)
        np.add.at(self.sum_loss, rows, losses)

    @property
    def known(self) -> BoolArray:
        """(n,) whether a loss of the row is known."""
        return self.n_measured > 0

    def mean_loss(self) -> FloatArray:
        """(n,) nats; nan where none is known."""
        return self._mean(self.sum_loss)

    def confidence(self) -> FloatArray:
        """(n,) mean probability of the label; nan where none is known."""
        return self._mean(self.sum_p)

    def variability(self) -> FloatArray:
        """(n,) standard deviation of the label's probability over its visits; nan where none is known."""
        mean = self._mean(self.sum_p)
        spread: FloatArray = np.sqrt(np.maximum(self._mean(self.sum_p2) - mean * mean, 0.0))
        return spread

    def correctness(self) -> FloatArray:
        """(n,) share of visits at which the row was answered right; nan where none is known."""
        return self._mean(self.n_right)

    def _mean(self, total: npt.NDArray[Any]) -> FloatArray:
        result = np.full(len(self), np.nan)
        np.divide(total, self.n_measured, out=result, where=self.known)
        return result

    def state(self) -> dict[str, Any]:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def save(self, folder: Path) -> None:
        """Write `rows.npz` into a run's folder, under a temporary name first."""
        with atomic_path(folder / FILE) as scratch, scratch.open("wb") as file:
            np.savez(file, **self.state())


def load_example_stats(folder: Path) -> ExampleStats:
    """Read a run's record; its rows are the usable ones of the training file, in their order.

    Raises:
        RunError: there is none, or it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise RunError(
            f"{folder} does not contain {FILE}: the run did not finish, or an older edgetune wrote it; "
            "train again to inspect its rows."
        )
    try:
        _check_stored(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            columns = [found[field.name] for field in fields(ExampleStats)]
        if any(column.shape != (len(columns[0]),) or column.dtype.kind not in "iuf" for column in columns):
            raise ValueError("its columns are not numeric arrays of equal length")
    except Exception as error:  # zipfile and numpy have a dozen kinds for what is no record
        what = brief(error, 200) or type(error).__name__
        raise RunError(f"{path} is damaged ({what}); train again to inspect its rows.") from error
    return ExampleStats(*columns)


def _check_stored(path: Path) -> None:
    """Refuse a record that would unpack to more than the file: `save` does not compress."""
    with ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("it would unpack to more than its own size")


def rates_by_label(
    record: ExampleStats, rows: IntArray, labels: Labels, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return for each class how often its rows were seen and which share of that was trained.

    Args:
        record: what happened to them.
        rows: (n,) numbers of the training rows in the record.
        labels: (n,) their class ids, or (n, C) multi-hot: a row then counts for each of its labels.
        names: by class id.
    """
    if labels.ndim == 2:
        having, labels = np.nonzero(labels)
        rows = rows[having]
    return _rates(record, rows, labels.astype(np.int64), dict(enumerate(names)))


def rates_by_length(record: ExampleStats, rows: IntArray, lengths: IntArray) -> list[dict[str, Any]]:
    """Return the same for each length bucket, named by its width in tokens; `lengths` is (n,)."""
    buckets = bucket_of(lengths)
    return _rates(record, rows, buckets, {at: f"{at * PAD_MULTIPLE}" for at in np.unique(buckets).tolist()})


def _rates(
    record: ExampleStats, rows: IntArray, group: IntArray, names: dict[int, str]
) -> list[dict[str, Any]]:
    seen, trained = (
        np.bincount(group, n[rows], max(names, default=0) + 1).tolist()
        for n in (record.n_seen, record.n_trained)
    )
    return [
        {
            "name": str(name),
            "n_seen": int(seen[at]),
            "trained_rate": trained[at] / seen[at] if seen[at] else None,
        }
        for at, name in names.items()
    ]
