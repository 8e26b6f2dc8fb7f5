"""A model of the hub: fetched when `hub:` asks for it, otherwise only looked up in the hub's own cache.

    hub:org/name            the newest commit, over the network
    hub:org/name@REVISION   a branch, tag or commit; a commit that is in the cache already needs no network
    org/name                what the cache has; never the network

What is fetched is pinned: the commit becomes a part of the name in settings, summary and model card.
"""

from __future__ import annotations

import contextlib
import re
from functools import partial
from pathlib import Path

from edgetune.models.checks import weight_files
from edgetune.utils.errors import MissingDependencyError, ModelError
from edgetune.utils.hub import COMMIT, HUB_PREFIX
from edgetune.utils.isolation import no_telemetry

# Weights as safetensors alone; sentencepiece models (.model, .bpe) are what older tokenizers consist of.
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.bpe"]
_NAME = re.compile(r"([\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@([\w-][\w./-]*))?")


def is_hub_name(name: str) -> bool:
    """Return whether a name could be one of the hub's, with or without `hub:`."""
    return _NAME.fullmatch(name.removeprefix(HUB_PREFIX)) is not None


def fetch_model(name: str) -> tuple[str, Path]:
    """Find a hub model's files; return its pinned name and the folder.

    Raises:
        MissingDependencyError: huggingface_hub is not installed.
        ModelError: there is no such model, or it cannot be had without a network.
    """
    found = _NAME.fullmatch(name.removeprefix(HUB_PREFIX))
    assert found is not None
    repository, revision = found.groups()
    no_telemetry()
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} is not a local folder, and fetching it from the hub requires huggingface_hub; "
            'install it with `pip install "edgetune[cpu]"`.'
        ) from error
    download = partial(snapshot_download, repository, revision=revision, allow_patterns=WANTED)
    may_fetch = name.startswith(HUB_PREFIX)
    folder = None
    if not may_fetch or (revision is not None and COMMIT.fullmatch(revision)):
        # What the hub's cache has, asking nobody; the errors for what is not there are many.
        with contextlib.suppress(Exception):
            folder = Path(download(local_files_only=True))
    if may_fetch and (folder is None or not weight_files(folder)):
        try:
            folder = Path(download())
        except Exception as error:
            raise ModelError(
                f"Unknown model {name}: it cannot be fetched from the hub ({type(error).__name__}). Without "
                "a network, download it on another machine and pass its folder, or omit --model to use the "
                "built-in model."
            ) from error
    elif folder is None or not weight_files(folder):
        raise ModelError(
            f"Unknown model {name}: it is neither a local folder nor in the hub cache. Fetch it with "
            f"--model {HUB_PREFIX}{name}, pass a folder with --model, or omit --model to use the built-in "
            "model."
        )
    pinned = f"{repository}@{folder.name}" if COMMIT.fullmatch(folder.name) else repository
    return pinned, folder  # a snapshot's folder has the name of its commit


def pinned_model(asked: str, name: str) -> str:
    """Return what stands in a run's settings for a model: what was asked for, with the commit that came."""
    if "@" not in name or not is_hub_name(asked) or Path(asked).exists():
        return asked
    return (HUB_PREFIX if asked.startswith(HUB_PREFIX) else "") + name
