"""Labels: their normal form, their order, and which of them are one label in several spellings.

a cell of any type ─→ normal_label ─→ "3", "true", "billing"; None if there is no label
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

NO_LABEL_WORDS = frozenset(
    ["", "nan", "NaN", "-nan", "None", "null", "NULL", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NaT"]
)
"""What pandas, R, SQL and spreadsheets write into a cell that is empty."""
FASTTEXT_PREFIX = "__label__"
"""Marks a label in a fastText file, and stays on labels that were taken over from one."""
SEPARATORS = ";|,"
"""Separators of several labels in one text; the first one that occurs in any text is used."""
DASH = "-"
"""Also marks an empty cell, unless the other label is a plus."""
NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*|(?=\.[0-9]))(\.[0-9]*)?")
"""A number as text; with leading zeros, it is a code."""
# Some format characters have a visible effect: inside a label, the joiners U+200C and U+200D shape words and
# combine several emoji into one, and tags distinguish flags.
_KEPT = frozenset(map(chr, (0x200C, 0x200D, *range(0xE0020, 0xE0080))))
_REMOVED = frozenset("\ufe0e\ufe0f\u034f\u115f\u1160\u3164\uffa0")


def normal_label(value: Any) -> str | None:
    """Return the normal form of a label, whatever its type in the file; None for no label.

    3, 3.0, "3.0" and " 3" are "3"; True, "True" and "TRUE" are "true"; text is composed (NFC), without
    invisible characters, and with single blanks.
    """
    if isinstance(value, bytes):
        return _normal(value.decode("utf-8", "surrogateescape"))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return _normal(f"{value:f}" if isinstance(value, Decimal) else str(value))


@lru_cache(maxsize=4096)
def _normal(text: str) -> str | None:
    if not (text.isascii() and text.isprintable()):
        text = "".join(filter(_is_seen, unicodedata.normalize("NFC", text)))
        text = text.strip("\u200c\u200d" + "".join(filter(str.isspace, text)))
    text = " ".join(text.split()).removeprefix(FASTTEXT_PREFIX)
    if text in NO_LABEL_WORDS:
        return None
    if text.lower() in ("true", "false"):
        return text.lower()
    return _plain_number(text) if text[-1:] in "0123456789." and NUMBER.fullmatch(text) else text


def _is_seen(char: str) -> bool:
    """Whether a character is seen, or separates what is seen."""
    if char in _KEPT or char.isspace():
        return True
    return unicodedata.category(char) not in ("Cf", "Cc") and char not in _REMOVED


def _plain_number(text: str) -> str:
    """Write a number without a plus, without redundant zeros, and with a zero before the point."""
    sign = "-" if text.startswith("-") else ""
    whole, _, fraction = text.lstrip("+-").partition(".")
    fraction = fraction.rstrip("0")
    number = (whole or "0") + (f".{fraction}" if fraction else "")
    return number if number == "0" else sign + number


def label_order(names: Iterable[str]) -> list[str]:
    """Sort labels: by number if all are numbers, else by letter."""
    names = list(names)
    if all(map(NUMBER.fullmatch, names)):
        return sorted(names, key=lambda name: (Decimal(name), name))
    return sorted(names)


@lru_cache(maxsize=4096)
def variant_key(label: str) -> str:
    """Return a key that labels share if they are probably one label.

    Such labels differ in letter case, width, a final full stop, leading zeros, or `_`, `-` and blank.
    """
    folded = unicodedata.normalize("NFKC", label).casefold().rstrip(" .") or label
    folded = re.sub(r"^0+(?=[0-9]+$)", "", folded)
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", folded)


def variants(counts: Mapping[str, int]) -> list[list[str]]:
    """Return groups of labels, given rows per label, that are probably one each, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(variant_key(name), []).append(name)
    return [sorted(group, key=lambda name: -counts[name]) for group in groups.values() if len(group) > 1]


def merged_spelling(counts: Mapping[str, int]) -> dict[str, str]:
    """Return the most frequent spelling for each label that has several spellings."""
    return {name: group[0] for group in variants(counts) for name in group}


def find_labels(wanted: Iterable[str], known: Sequence[str], merge: bool = False) -> dict[str, int]:
    """Return the positions of labels among those of a model; those that it does not know are left out.

    Args:
        wanted: in their normal form.
        known: as written by whoever made the model.
        merge: whether a variant of a known label is that label.
    """
    exact = {name: i for i, name in enumerate(known)}
    normal = {normal_label(name): i for i, name in enumerate(known)}
    loose = {variant_key(name): i for i, name in enumerate(known)} if merge else {}
    found = {name: exact.get(name, normal.get(name, loose.get(variant_key(name)))) for name in wanted}
    return {name: place for name, place in found.items() if place is not None}


def merge_hint(unknown: Iterable[str], known: Sequence[str]) -> str:
    """Return a sentence that names the option that would make labels known; "" if none would."""
    if not find_labels(unknown, known, merge=True):
        return ""
    return " With --merge-labels, labels that differ only in case are the same."
