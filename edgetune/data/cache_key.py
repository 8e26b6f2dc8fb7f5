"""The name of a token cache: a hash of everything its content depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgetune import __version__
from edgetune.data.hub_address import HUB_PREFIX
from edgetune.data.readers import existing, folder_files
from edgetune.data.textio import reading

if TYPE_CHECKING:
    from edgetune.data.dataset import DataOptions

_BLOCK_BYTES = 1 << 20


def cache_key(path: str, options: DataOptions, tokenizer: Path, max_length: int, cache_version: int) -> str:
    """Hash the data's content, how it is read and how it is tokenized.

    A hub dataset counts by its name and commit alone, so that a cached one opens without a network.

    Raises:
        DataError: the data or the tokenizer cannot be read.
    """
    digest = hashlib.sha256()
    settings = {
        "version": __version__,
        "cache": cache_version,
        "options": asdict(options),
        "max_length": max_length,
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    _add_file(digest, tokenizer)
    if path.startswith(HUB_PREFIX):
        digest.update(path.encode())
        return digest.hexdigest()[:32]
    place = existing(path)
    if place.is_file():
        digest.update("".join(place.suffixes[-2:]).lower().encode())
        _add_file(digest, place)
        return digest.hexdigest()[:32]
    for file in folder_files(place):
        with reading(file):
            stat = file.stat()
        name = file.relative_to(place).as_posix()
        digest.update(f"\n{name} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        _add_file(digest, file)
    return digest.hexdigest()[:32]


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    with reading(path), path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
