"""A dataset of the Hugging Face hub, through the `datasets` library."""

from __future__ import annotations

import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from edgetune.data.rows import Table
from edgetune.data.tables import BATCH_ROWS, arrow_table, first_line
from edgetune.errors import DataError, EnvironmentError_

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


def read_hub(address: str) -> Table:
    """Open `NAME` or `NAME:SPLIT` of the Hugging Face hub, downloaded or already in its cache.

    Raises:
        EnvironmentError_: `datasets` is not installed, or the hub cannot be reached.
        DataError: there is no such dataset or split.
    """
    name, _, split = address.partition(":")
    split = split or "train"
    if not reachable():
        os.environ.setdefault(
            "HF_HUB_OFFLINE", "1"
        )  # else it tries again for 20 s; what it cached still opens
    try:
        import datasets
    except ImportError as error:
        raise EnvironmentError_('Reading from the hub needs: pip install "edgetune[cpu]"') from error
    try:
        dataset = datasets.load_dataset(name, split=split)
    except Exception as error:
        raise _hub_error(name, split, error) from error

    def batches(columns: list[str]) -> Iterator[Any]:
        yield from dataset.select_columns(columns).with_format("arrow").iter(batch_size=BATCH_ROWS)

    return arrow_table(f"hub:{name}:{split}", dataset.features.arrow_schema, batches)


def reachable() -> bool:
    """Whether the hub answers; behind a proxy this is taken for granted."""
    if urllib.request.getproxies():
        return True
    address = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=PROBE_TIMEOUT_S).close()
    except (OSError, UnicodeError):
        return False
    return True


def _hub_error(name: str, split: str, error: Exception) -> DataError | EnvironmentError_:
    """Say whether the hub could not be reached or does not have it."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    kinds = {kind.__name__ for link in chain for kind in type(link).__mro__}
    offline = {
        "ConnectionError",
        "OfflineModeIsEnabled",
        "ConnectError",
        "Timeout",
        "TimeoutException",
        "ProxyError",
    }
    if kinds & offline or "LocalEntryNotFoundError" in kinds:
        return EnvironmentError_(
            f'The dataset "{name}" is not on this machine and the hub cannot be reached. On a machine with a '
            f'network run datasets.load_dataset("{name}", split="{split}").save_to_disk("FOLDER"), copy the '
            "folder here and pass it instead."
        )
    return DataError(f'The hub\'s dataset "{name}", split "{split}", cannot be read: {first_line(error)}')
