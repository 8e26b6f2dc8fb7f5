"""The contract of a backend, and what all of them do alike: steps in parts where memory runs out.

Two operations on batches, and a state. `score` is a forward pass that changes nothing; `train_step` is one
optimizer update. Both return the logits that the weights gave *before* any update, so a train step's losses
cost nothing extra.
"""

from __future__ import annotations

import gc
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgetune.backends.hidden_cache import HiddenCache
from edgetune.data.batches import Batch, rows_at_once
from edgetune.models.checks import TOKENIZER_FILES, open_tokenizer
from edgetune.models.vocabulary import tokenizers_pad_token
from edgetune.utils.errors import ModelError, ResourceError
from edgetune.utils.machine import return_memory
from edgetune.utils.parsing import read_json_file
from edgetune.utils.types import FloatArray

ADAMW: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
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


class NoLinearHead(ModelError):
    """The model's logits do not come straight from one linear layer with a bias."""

    def __init__(self, model: str) -> None:
        super().__init__(f"The logits of {model} do not come from a linear layer.")


def out_of_memory(error: Exception) -> bool:
    """Return whether an error means that there was not enough memory."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(phrase in said for phrase in OUT_OF_MEMORY_PHRASES)


class Microbatches:
    """How many rows go through a model at once: fewer where memory runs out, the same step in the end.

    Attributes:
        max_rows: rows at once; None while memory has not run out.
    """

    def __init__(self) -> None:
        self.max_rows: int | None = None

    def run(
        self,
        batch: Batch,
        work: Callable[[Batch, slice], FloatArray],
        undo: Callable[[], None],
        most_tokens: int | None = None,
    ) -> FloatArray:
        """Do some work on a batch, in as many parts as memory needs.

        Args:
            batch: B rows.
            work: takes a part, and where in the batch it stands; returns logits (b, C).
            undo: drops what an unfinished try has left.
            most_tokens: of a part, with padding, but a part has at least one row; None: no limit.

        Returns:
            Logits (B, C).

        Raises:
            ResourceError: there is no memory for a single row.
        """
        most_rows = rows_at_once(len(batch), batch.width, most_tokens)
        while True:
            n_rows = min(self.max_rows or most_rows, most_rows)
            try:
                if n_rows == len(batch):
                    return work(batch, slice(0, len(batch)))
                places = [slice(i, min(i + n_rows, len(batch))) for i in range(0, len(batch), n_rows)]
                return np.concatenate([work(batch.cut(place.start, place.stop), place) for place in places])
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


class Backend(ABC):
    """Runs a model; never sees how examples are chosen.

    Attributes:
        name: value of `--backend`.
        depth: lowest layers that are frozen and cut off as a prefix; 0 where the whole model runs every time.
        cache: keeps the prefix's output per row; None where it is computed every time.
        microbatches: how many rows go through the model at once.
        most_tokens: tokens, with padding, that a train step sends through the model at once; None: all.
    """

    name: ClassVar[str]
    depth: int = 0
    most_tokens: int | None = None

    def __init__(self, cache: HiddenCache | None = None) -> None:
        self.cache = cache
        self.microbatches = Microbatches()

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Trainable parameters."""

    def prefix(self, batch: Batch, width: int = 0) -> FloatArray:
        """Run the frozen prefix afresh: hidden states (B, T, D) that enter the first layer above it.

        `score` and `train_step` do this themselves, for rows that the prefix cache does not hold.

        Args:
            batch: B rows.
            width: columns T; 0: what the longest row needs.

        Raises:
            ValueError: there is none.
        """
        raise ValueError("no layers are cut off as a prefix (depth is 0)")

    @abstractmethod
    def features(self, batch: Batch) -> FloatArray:
        """Return what the head's last linear layer sees (B, F); updates nothing.

        Raises:
            NoLinearHead: the logits come from something else.
        """

    @abstractmethod
    def head(self) -> tuple[FloatArray, FloatArray]:
        """Return the last linear layer's weight (C, F) and bias (C,), as copies; raises as `features`."""

    @abstractmethod
    def set_head(self, weight: FloatArray, bias: FloatArray) -> None:
        """Replace the last linear layer's weight (C, F) and bias (C,); raises what `features` does."""

    def score(self, batch: Batch, keep: bool = True) -> FloatArray:
        """Return logits (B, C); updates nothing, no dropout.

        Args:
            batch: B rows.
            keep: whether the prefix cache may keep rows that are new to it.
        """
        return self.microbatches.run(batch, lambda part, _: self._forward(part, keep), lambda: None)

    @abstractmethod
    def _forward(self, part: Batch, keep: bool) -> FloatArray:
        """Return logits of a part of a batch."""

    def train_step(self, batch: Batch, lr: float, weights: FloatArray | None = None) -> FloatArray:
        """Update once on the mean loss of the whole batch; return logits (B, C) from before it.

        The losses are those of `metrics.cross_entropy`, of class ids or of multi-hot labels.

        Args:
            batch: B rows.
            lr: learning rate of this step.
            weights: (B,) factors of the rows' losses, whose mean is still over B; None: all are 1.
        """

        def gradients(part: Batch, place: slice) -> FloatArray:
            factors = None if weights is None else weights[place]
            return self._gradients(part, factors, len(part) / len(batch))

        logits = self.microbatches.run(batch, gradients, self._forget, self.most_tokens)
        self._update(lr)
        return logits

    def _gradients(self, part: Batch, weights: FloatArray | None, share: float) -> FloatArray:
        """Add `share` of the gradients of a part's mean loss; return its logits."""
        raise NotImplementedError("this backend fits a linear probe and trains nothing")

    def _forget(self) -> None:
        """Drop the gradients."""
        raise NotImplementedError

    def _update(self, lr: float) -> None:
        """Update once from the gradients, and drop them."""
        raise NotImplementedError

    def end_training(self) -> None:  # noqa: B027  # the default has nothing to free
        """Free what only further train steps need; there are none after this."""

    @abstractmethod
    def state(self) -> bytes:
        """Return parameters and optimizer, for a bit-exact `load_state`."""

    @abstractmethod
    def load_state(self, state: bytes) -> None:
        """Continue exactly where `state()` was taken, with the same cut."""

    @abstractmethod
    def save(self, folder: Path, label_names: tuple[str, ...], skip_onnx: bool = False) -> None:
        """Write `model/` (Hugging Face layout) and `onnx/` into an existing folder.

        Args:
            folder: existing and empty.
            label_names: by class id.
            skip_onnx: leave out `onnx/` where it takes long to write.
        """


def write_tokenizer_and_config(
    targets: Iterable[Path],
    tokenizer_folder: Path,
    config: Mapping[str, Any],
    label_names: tuple[str, ...],
    *,
    multi_label: bool,
) -> None:
    """Put the files beside a trained model's weights into some folders.

    Args:
        targets: existing folders.
        tokenizer_folder: whatever tokenizer files it has are copied. Settings that name no pad token, such as
            GPT-2's, get that of the config's `pad_token_id`: programs pad batches with it.
        config: the model's; `config.json` has the run's labels instead of its own.
        label_names: by class id.
        multi_label: whether a row may have several of them.
    """
    said = {
        **{name: value for name, value in config.items() if name != "num_labels"},
        "id2label": {str(number): name for number, name in enumerate(label_names)},
        "label2id": {name: number for number, name in enumerate(label_names)},
        "problem_type": f"{'multi' if multi_label else 'single'}_label_classification",
    }
    for target in targets:
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file():
                shutil.copyfile(tokenizer_folder / name, target / name)
        if tokenizers_pad_token(target) is None and (target / "tokenizer.json").is_file():
            path = target / "tokenizer_config.json"
            settings = read_json_file(path) if path.is_file() else {}
            token = open_tokenizer(target / "tokenizer.json").id_to_token(config["pad_token_id"])
            path.write_text(json.dumps({**settings, "pad_token": token}, indent=2) + "\n", encoding="utf-8")
        text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
        (target / "config.json").write_text(text, encoding="utf-8")
