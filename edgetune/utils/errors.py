"""Every error a user can meet. Only `cli.app` prints them: one sentence, then the exit code below.

    EdgetuneError                 exit 1
    ├── UsageError                exit 2   the command or a setting is wrong
    │   └── BudgetError           exit 2   nothing fits into the time, energy or memory given
    ├── DataError                 exit 1   the labelled text cannot be used as it is
    ├── ModelError                exit 1   the model, its weights or its tokenizer
    ├── ArtifactsError            exit 1   ONNX Runtime training artifacts
    ├── MissingDependencyError    exit 1   a package is not installed
    ├── ResourceError             exit 1   no memory, disk space, permission or network
    ├── ProfileError              exit 1   a device profile
    └── RunError                  exit 1   a run folder
    Interrupted                   exit 130 asked to stop; what was trained is saved

A message says what is wrong (with the value and where), then what to do next.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

NEAR = 0.6
"""How alike two words must be, from 0 to 1, for one to be offered in place of the other."""
WORSE_THAN_MAJORITY = 3
"""Exit code of a run whose model is worse than always predicting the most frequent class."""
NEEDS_MENDING = 3
"""Exit code of a check that found what should be mended in the data."""


class EdgetuneError(Exception):
    """Something a user can put right; the message is one whole sentence or two."""

    exit_code = 1


class UsageError(EdgetuneError):
    """The command line or a setting asks for something that cannot be."""

    exit_code = 2


class BudgetError(UsageError):
    """Nothing can be trained within the time, energy or memory that was given."""


class DataError(EdgetuneError):
    """A file of labelled text cannot be used as it is."""


class ModelError(EdgetuneError):
    """A model, its weights or its tokenizer cannot be used."""


class ArtifactsError(EdgetuneError):
    """Training artifacts are missing, stale, or made for something else."""


class MissingDependencyError(EdgetuneError):
    """A package that is needed is not installed."""


@contextlib.contextmanager
def requires_extra(extra: str, purpose: str) -> Iterator[None]:
    """Turn a failed import, required for `purpose`, into a sentence that names the extra to install.

    Raises:
        MissingDependencyError: a package is not installed, or does not work.
    """
    try:
        yield
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        fault = "is not installed" if missing else f"cannot be imported ({error})"
        raise MissingDependencyError(
            f"{error.name or 'A package'} {fault} and is required for {purpose}; "
            f'run `pip install "edgetune[{extra}]"`.'
        ) from error


class ResourceError(EdgetuneError):
    """This machine lacks memory, disk space, a permission or a network."""


class ProfileError(EdgetuneError):
    """A device profile is missing, unreadable, or makes no sense."""


class RunError(EdgetuneError):
    """A run folder is missing, incomplete, or already there."""


class Interrupted(EdgetuneError):
    """The run was asked to stop; a usable model was saved first."""

    exit_code = 130


def is_near(word: str, known: str) -> bool:
    """Return whether one word may be a misspelling of the other."""
    return bool(difflib.get_close_matches(word, [known], cutoff=NEAR))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question that names the nearest known word, with a space before it; "" if none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=NEAR)
    return f' Did you mean "{close[0]}"?' if close else ""
