"""How a data set of the hub is named.

hub:org/name[:[CONFIGURATION:]SPLIT]             the newest commit, or what is in the library's cache
hub:org/name@REVISION[:[CONFIGURATION:]SPLIT]    a branch, tag or commit
"""

from __future__ import annotations

from typing import NamedTuple

from edgetune.errors import UsageError

HUB_PREFIX = "hub:"


class HubAddress(NamedTuple):
    """What `hub:` is followed by.

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
        """Take `hub:NAME[@REVISION][:[CONFIGURATION:]SPLIT]` apart.

        Raises:
            UsageError: there is no name, or there are too many parts.
        """
        first, *parts = path.removeprefix(HUB_PREFIX).split(":")
        name, _, revision = first.partition("@")
        if not name or len(parts) > 2:
            raise UsageError(
                f'"{path}" names no dataset; "hub:NAME" or "hub:NAME[:CONFIGURATION]:SPLIT" does.'
            )
        return cls(name, revision, tuple(parts))

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return HUB_PREFIX + ":".join([self.name + at, *self.parts])
