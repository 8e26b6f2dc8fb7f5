"""A dataset of the Hugging Face hub, through the `datasets` library."""

from __future__ import annotations

import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
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
    """Open a dataset of the Hugging Face hub, downloaded or already in its cache.

    Args:
        address: `NAME`, `NAME:SPLIT` (else `train`) or, where it has several configurations,
            `NAME:CONFIGURATION:SPLIT`.

    Raises:
        EnvironmentError_: `datasets` is not installed, or the hub cannot be reached.
        DataError: there is no such dataset or split.
    """
    *names, split = address.split(":") if ":" in address else (address, "train")
    if not reachable():  # else `datasets` tries again for 20 s; what it has cached still opens
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import datasets
    except ImportError as error:
        raise EnvironmentError_('Reading from the hub needs: pip install "edgetune[cpu]"') from error
    try:
        dataset = datasets.load_dataset(*names, split=split)
    except Exception as error:
        raise _hub_error(names, split, error) from error

    def batches(columns: list[str]) -> Iterator[tuple[None, Any]]:
        for batch in dataset.select_columns(columns).with_format("arrow").iter(batch_size=BATCH_ROWS):
            yield None, batch

    return arrow_table(f"hub:{':'.join(names)}:{split}", dataset.features.arrow_schema, batches)


def reachable() -> bool:
    """Whether the hub answers; behind a proxy this is taken for granted."""
    if urllib.request.getproxies():
        return True
    address = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=PROBE_TIMEOUT_S).close()
    except (OSError, ValueError):
        return False
    return True


def _hub_error(names: Sequence[str], split: str, error: Exception) -> DataError | EnvironmentError_:
    """Say whether the hub could not be reached or does not have it."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    quoted = ", ".join(f'"{name}"' for name in names)
    if {kind.__name__ for link in chain for kind in type(link).__mro__} & _OFFLINE:
        return EnvironmentError_(
            f'The dataset "{names[0]}" is not on this machine and the hub cannot be reached. On a machine '
            f'with a network run datasets.load_dataset({quoted}, split="{split}").save_to_disk("FOLDER"), '
            "copy the folder here and pass it instead."
        )
    return DataError(f'The hub\'s dataset {quoted}, split "{split}", cannot be read: {first_line(error)}')
