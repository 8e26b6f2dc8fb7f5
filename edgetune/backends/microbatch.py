"""Steps in parts: where memory runs out, fewer rows at once, the same step in the end."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np

from edgetune.data.batches import Batch
from edgetune.utils.errors import ResourceError
from edgetune.utils.machine import return_memory
from edgetune.utils.types import FloatArray

OUT_OF_MEMORY_PHRASES = (
    "out of memory",
    "failed to allocate",
    "can't allocate",
    "cannot allocate",
    "not enough memory",
    "bad_alloc",
    "could not create a primitive",
    "could not create a memory object",
)
"""What libraries say of it, each in its own class of error; oneDNN says the last two."""


def out_of_memory(error: Exception) -> bool:
    """Return whether an error means that there was not enough memory."""
    return isinstance(error, MemoryError) or any(
        words in str(error).lower() for words in OUT_OF_MEMORY_PHRASES
    )


class Microbatches:
    """How many rows go through a model at once.

    Attributes:
        max_rows: rows at once; None while memory has not run out.
    """

    def __init__(self) -> None:
        self.max_rows: int | None = None

    def run(
        self, batch: Batch, work: Callable[[Batch, slice], FloatArray], undo: Callable[[], None]
    ) -> FloatArray:
        """Do some work on a batch, in as many parts as memory needs.

        Args:
            batch: B rows.
            work: takes a part, and where in the batch it stands; returns logits (b, C).
            undo: drops what an unfinished try has left.

        Returns:
            Logits (B, C).

        Raises:
            ResourceError: there is no memory for a single row.
        """
        while True:
            n_rows = min(self.max_rows or len(batch), len(batch))
            try:
                if n_rows == len(batch):
                    return work(batch, slice(0, len(batch)))
                places = [slice(i, min(i + n_rows, len(batch))) for i in range(0, len(batch), n_rows)]
                whole = np.arange(len(batch))
                return np.concatenate([work(batch.take(whole[place]), place) for place in places])
            except Exception as error:
                if not out_of_memory(error):
                    raise
                undo()
                if n_rows <= 1:
                    raise ResourceError(
                        "There is not enough memory for a single row; close other programs, use a "
                        f"--max-length below {int(batch.lengths.max())}, freeze more layers with --freeze, "
                        "or use a smaller model."
                    ) from error
                self.max_rows = -(-n_rows // 2)
            gc.collect()  # now that the error lets go of the try's activations
            return_memory()
