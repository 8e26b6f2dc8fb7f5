r"""Untrusted text, made safe to show on a page, on a terminal, in Markdown, in printed JSON and in CSV.

    page        `visible`       a character that would act instead of being seen becomes U+FFFD
    CSV         `csv_cell`      the same, and a text that would start a formula gets an apostrophe
    terminal    `on_terminal`   the same, marks of direction too; `brief` is that on one short line
    Markdown    `in_markdown`   on one line, and nothing in it is markup
    JSON        `json_text`     nothing is lost: such characters are written as \uXXXX

Labels, file names and texts come from strangers: an escape sequence in one must not reach a terminal.
"""

from __future__ import annotations

import json
import re
from typing import Any

BRIEF = 60  # characters of a label or a name in a sentence
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")

# Control characters but tab and newline, overrides and isolates of direction, surrogates, noncharacters.
_ACTING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
_UNSEEN = re.compile(f"[{_ACTING}]")
# A page isolates what it quotes (`bdi`); on a terminal even a mark reorders the words around it.
_UNSEEN_ON_TERMINAL = re.compile(f"[{_ACTING}\u061c\u200e\u200f\u2028\u2029]")
_MARKUP = re.compile(r"([\\|<>`*\[\]])")


def visible(text: object) -> str:
    """Return a text with U+FFFD for every character that would act instead of being seen."""
    return _UNSEEN.sub("\ufffd", str(text))


def on_terminal(text: object) -> str:
    """Return a text that a terminal only shows; line ends and tabs stay."""
    return _UNSEEN_ON_TERMINAL.sub("\ufffd", str(text))


def one_line(text: object) -> str:
    """Return a text for a terminal with a blank for every line end and tab."""
    return on_terminal(text).replace("\n", " ").replace("\t", " ")


def brief(text: object, most: int = BRIEF) -> str:
    """Return the beginning of a text for a terminal: its words, at most so many characters."""
    text = str(text)
    shown = " ".join(text[: 4 * most].split())
    shown = shown if shown.isascii() and shown.isprintable() else on_terminal(shown)
    return shown if len(shown) <= most and len(text) <= 4 * most else f"{shown[: most - 1]}…"


def in_markdown(text: object) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(visible(text).split()))


def json_text(value: Any) -> str:
    """Return one line of JSON that a terminal only shows and that reads back as it was."""
    return _UNSEEN_ON_TERMINAL.sub(
        lambda found: f"\\u{ord(found.group()):04x}", json.dumps(value, ensure_ascii=False)
    )


def csv_cell(value: Any) -> Any:
    """Return a value for a spreadsheet: a text that would start a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    starts_formula = value.startswith(_FORMULA) and _NUMBER.fullmatch(value) is None
    return f"'{visible(value)}" if starts_formula else visible(value)
