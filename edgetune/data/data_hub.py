"""Datasets of the Hugging Face hub, read with the `datasets` library, and their addresses.

    hub:org/name[:[CONFIGURATION:]SPLIT]             the newest commit, or what is in the library's cache
    hub:org/name@REVISION[:[CONFIGURATION:]SPLIT]    a branch, tag or commit

If the hub can be reached, a run's settings record the commit that was read (`pinned_dataset`).
"""

from __future__ import annotations

import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from edgetune.data.arrow import dataset_table, first_error_line
from edgetune.data.table import Table
from edgetune.utils.errors import DataError, MissingDependencyError, ResourceError, UsageError
from edgetune.utils.hub import COMMIT, HUB_PREFIX
from edgetune.utils.isolation import no_telemetry


class HubAddress(NamedTuple):
    """The parts of an address after `hub:`.

    Attributes:
        name: of the dataset.
        revision: branch, tag or commit; "" for the newest.
        parts: configuration, if one is named, and split.
    """

    name: str
    revision: str
    parts: tuple[str, ...]

    @classmethod
    def parsed(cls, path: str) -> HubAddress:
        """Take `hub:NAME[@REVISION][:[CONFIGURATION:]SPLIT]` apart."""
        first, *parts = path.removeprefix(HUB_PREFIX).split(":")
        name, _, revision = first.partition("@")
        if not name or len(parts) > 2:
            raise UsageError(
                f'"{path}" does not name a dataset; use "hub:NAME" or "hub:NAME[:CONFIGURATION]:SPLIT".'
            )
        return cls(name, revision, tuple(parts))

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return HUB_PREFIX + ":".join([self.name + at, *self.parts])


PROBE_TIMEOUT_S = 3.0
_OFFLINE = frozenset(
    {
        "ConnectionError",
        "ConnectError",
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "ProxyError",
        "Timeout",
        "TimeoutException",
    }
)


def pinned_dataset(path: str) -> str:
    """Return an address with its current commit, or unchanged if the hub cannot tell the commit."""
    if not path.startswith(HUB_PREFIX):
        return path
    address = HubAddress.parsed(path)
    if COMMIT.fullmatch(address.revision) or not reachable():
        return path
    no_telemetry()
    try:
        from huggingface_hub import HfApi

        commit = HfApi().dataset_info(address.name, revision=address.revision or None).sha
    except Exception:  # not found, or no answer: reading it raises an error that says which
        return path
    return str(address._replace(revision=commit)) if commit else path


def read_hub(path: str) -> Table:
    """Open a dataset of the Hugging Face hub, downloaded or already in its cache.

    Raises:
        UsageError: no dataset is named.
        MissingDependencyError: `datasets` is not installed.
        ResourceError: the hub cannot be reached.
        DataError: there is no such dataset or split.
    """
    address = HubAddress.parsed(path)
    *configuration, split = address.parts or ("train",)
    if not reachable():  # otherwise `datasets` retries for 20 s; cached datasets still open
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    no_telemetry()
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "Reading from the hub requires the datasets package; "
            'install it with `pip install "edgetune[cpu]"`.'
        ) from error
    names = [address.name, *configuration]
    try:
        dataset = datasets.load_dataset(*names, split=split, revision=address.revision or None)
    except Exception as error:
        raise _hub_error(names, split, error) from error
    return dataset_table(str(address), dataset)


@lru_cache
def reachable() -> bool:
    """Return whether the hub answers, checked once; behind a proxy it is assumed to."""
    if urllib.request.getproxies():
        return True
    address = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=PROBE_TIMEOUT_S).close()
    except (OSError, ValueError):
        return False
    return True


def _hub_error(names: Sequence[str], split: str, error: Exception) -> DataError | ResourceError:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    quoted = ", ".join(f'"{name}"' for name in names)
    if {kind.__name__ for link in chain for kind in type(link).__mro__} & _OFFLINE:
        return ResourceError(
            f'The dataset "{names[0]}" is not on this machine and the hub cannot be reached. On a '
            f'machine with a network, run datasets.load_dataset({quoted}, split="{split}")'
            '.save_to_disk("FOLDER"), then copy the folder here and pass its path instead.'
        )
    return DataError(f'The hub dataset {quoted}, split "{split}", cannot be read: {first_error_line(error)}')
