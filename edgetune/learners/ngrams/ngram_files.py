"""The files of an n-gram model, read with care: they may be damaged, or another edgetune's."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgetune.learners.ngrams.counting import Vocabulary
from edgetune.learners.ngrams.reading import Analyzer, settings_of
from edgetune.learners.ngrams.solving import LinearScores
from edgetune.utils.errors import RunError
from edgetune.utils.limits import MAX_LABELS
from edgetune.utils.parsing import read_json_file
from edgetune.utils.sanitize import brief
from edgetune.utils.types import FloatArray

SCHEMA_VERSION = 5
FIRST_OF_SIGMOIDS = 4
"""Since then probabilities are sigmoids divided by their sum; before, they were a softmax of the scores."""
FIRST_OF_SYMBOLS = 5
"""Since then runs of symbols are tokens, and texts that are read as characters have a blank on both sides."""
METADATA, VOCABULARY, WEIGHTS = "ngrams.json", "vocabulary.txt", "weights.safetensors"
MAX_FEATURES = 1_000_000
MAX_WEIGHTS = 30_000_000  # coefficients; SGD holds three copies of four bytes each
MAX_VOCABULARY_BYTES = 1 << 28
MAX_HEADER_BYTES = 10_000  # of the weights


def most_features(n_classes: int) -> int:
    """Return how large a vocabulary may be."""
    return max(1, min(MAX_FEATURES, MAX_WEIGHTS // n_classes))


class NgramMetadata(BaseModel):
    """`ngrams.json`."""

    model_config = ConfigDict(strict=True)

    schema_version: int
    analyzer: Analyzer
    n_classes: Annotated[int, Field(ge=1, le=MAX_LABELS)]
    n_features: Annotated[int, Field(ge=0, le=MAX_FEATURES)]
    n_rows: Annotated[int, Field(ge=1)]
    seen_classes: list[int]
    multi_label: bool = False
    settings: dict[str, Any]

    @model_validator(mode="after")
    def _fits(self) -> NgramMetadata:
        seen = self.seen_classes
        if not seen or sorted(set(seen)) != seen or seen[0] < 0 or seen[-1] >= self.n_classes:
            raise ValueError("its seen_classes are no ascending class ids")
        if self.n_features > most_features(self.n_classes):
            raise ValueError("it claims more weights than any model has")
        if self.settings != settings_of(self.analyzer, earlier=self.schema_version < FIRST_OF_SYMBOLS):
            raise ValueError("its settings are none that edgetune uses")
        return self


@contextlib.contextmanager
def _damage_errors(path: Path) -> Iterator[None]:
    """Turn what reading a file raises into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing, so the n-gram model cannot be used; train again.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = brief(f"{where}: {first['msg']}" if where else first["msg"], 200)
        raise RunError(f"{path} is damaged ({what}); train again.") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"{path} is damaged ({brief(error, 200)}); train again.") from error


def read_metadata(path: Path) -> NgramMetadata:
    """Read `ngrams.json`; RunError if it is missing, damaged, or of a newer edgetune."""
    with _damage_errors(path):
        found = read_json_file(path)
        version = found.get("schema_version") if isinstance(found, dict) else None
        if type(version) is not int or version < 1:
            raise ValueError("it has no schema_version")
        if version > SCHEMA_VERSION:
            raise RunError(f"{path} was written by a newer edgetune (schema {version}); update edgetune.")
        return NgramMetadata.model_validate(found)


def read_vocabulary(path: Path, metadata: NgramMetadata) -> Vocabulary:
    """Read the n-grams; RunError if the file is missing or damaged."""
    with _damage_errors(path):
        if path.stat().st_size > MAX_VOCABULARY_BYTES:
            raise ValueError(f"it has more than {MAX_VOCABULARY_BYTES:,} bytes")
        lines = path.read_bytes().decode("utf-8").split("\n")
        if lines.pop() or len(lines) != metadata.n_features:
            raise ValueError(f"it has not {metadata.n_features:,} lines, as {METADATA} says")
        return Vocabulary.of(metadata.analyzer, lines, metadata.settings)


def read_weights(path: Path, metadata: NgramMetadata) -> tuple[FloatArray, LinearScores]:
    """Read idf and weights; RunError if the file is missing or damaged."""
    from safetensors.numpy import load_file

    n_classes, n_features = metadata.n_classes, metadata.n_features
    shapes = {
        "idf": (n_features,),
        "coefficients": (n_classes, n_features),
        "intercept": (n_classes,),
    }
    most_bytes = 4 * sum(math.prod(shape) for shape in shapes.values()) + MAX_HEADER_BYTES
    with _damage_errors(path):
        if path.stat().st_size > most_bytes:
            raise ValueError(f"it has more than {most_bytes:,} bytes")
        found = load_file(path)
        if {name: array.shape for name, array in found.items()} != shapes:
            raise ValueError(f"its sizes are not those of {METADATA}")
        if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in found.values()):
            raise ValueError("it holds what are no finite 32-bit numbers")
    seen = metadata.seen_classes
    weights = np.ascontiguousarray(found["coefficients"][seen].T)
    return found["idf"], LinearScores(weights, found["intercept"][seen], metadata.n_rows)
