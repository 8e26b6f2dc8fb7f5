"""Names on the Hugging Face hub: the prefix that asks for it, and what a commit looks like."""

from __future__ import annotations

import re

HUB_PREFIX = "hub:"
COMMIT = re.compile(r"[0-9a-f]{40}")
