"""In which scripts texts are written, and how well a tokenizer's vocabulary writes them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgetune.utils.types import IntArray

LOOKED_AT = 500
"""Characters of a text by which its script is told."""
_EAST_ASIAN = {"CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean"}
NO_LETTERS = "no letters"


@dataclass(frozen=True)
class ScriptCoverage:
    """Texts of one script.

    Attributes:
        script: such as `Latin`; of Chinese characters, kana and Hangul, the language.
        rows: texts most of whose letters are of this script.
        share: of all texts.
        tokens_per_word: in the mean; a character of a script without spaces between words is a word.
        unknown_rate: share of the tokens that stand for words which the vocabulary cannot write.
    """

    script: str
    rows: int
    share: float
    tokens_per_word: float
    unknown_rate: float


def coverage_by_script(
    texts: Sequence[str], n_words: IntArray, n_tokens: IntArray, n_unknown: IntArray
) -> list[ScriptCoverage]:
    """Return the scripts of texts (n,), the most frequent first.

    Words, tokens without special ones, and unknown tokens among these are (n,) numbers of each text.
    """
    scripts = np.array([script_of(text) for text in texts])
    found = []
    for script, rows in Counter(scripts.tolist()).most_common():
        words, tokens, unknown = (int(n[scripts == script].sum()) for n in (n_words, n_tokens, n_unknown))
        per_word, unknown_rate = tokens / max(1, words), unknown / max(1, tokens)
        found.append(ScriptCoverage(script, rows, rows / len(texts), per_word, unknown_rate))
    return found


def script_of(text: str) -> str:
    """Return the script that most letters of a text have; kana make Chinese characters Japanese."""
    counts = Counter(map(_script, filter(str.isalpha, text[:LOOKED_AT])))
    if not counts:
        return NO_LETTERS
    script = counts.most_common(1)[0][0]
    return "Japanese" if script == "Chinese" and counts["Japanese"] else script


@lru_cache(maxsize=65_536)
def _script(letter: str) -> str:
    word = unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
    return _EAST_ASIAN.get(word, word.capitalize())
