r"""What n-grams are made of: texts as tokens, and n-grams of them as integer keys.

Tokens get numbers, and an n-gram is the numbers of its tokens in one 64-bit integer, so that counting is
sorting: a third of the time of `CountVectorizer`, and no string for an n-gram that is dropped.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgetune.data.token_format import PAIR_SEPARATOR
from edgetune.learners.ngrams.derived_tokens import LETTERS, PREFIXES, SUFFIXES, pair_tokens, word_parts
from edgetune.utils.types import IntArray

Analyzer = Literal["word", "subword", "char"]
Keys = npt.NDArray[np.int64]

WORD = rf"[{LETTERS}]+|[^{LETTERS}\s\ud800-\udfff]+"
"""A token: a word, or a run of symbols such as "...", ":-)", "=>" or an emoji."""
EARLIER_WORD = rf"[{LETTERS}]+|[!?]"
"""The same before schema version `FIRST_OF_SYMBOLS`, without other symbols than these two."""
LONGEST = {"word": 2, "subword": 2, "char": 3}  # tokens of an n-gram
BITS = {"word": 31, "subword": 31, "char": 21}  # of a token's number in a key; a code point has 21
PART_BIT = 1 << 62  # of the key of a part of a word
MAX_REMEMBERED = 1 << 17  # words whose parts are kept
MAX_CHARS = 20_000  # of a text that are read, ten times what an encoder reads
MAX_NGRAM_CHARS = 100  # longer ones are no words
_WORD = re.compile(rf"[{LETTERS}]+")
# Thai, Lao, Tibetan, Burmese; Khmer; kana; Han with its extensions; half-width kana.
_WITHOUT_SPACES = re.compile(
    r"[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    r"\U00020000-\U0003ffff]"
)
SAMPLED_TEXTS, SAMPLED_CHARS = 1_000, 500  # that the analyzer is chosen by
FEWEST_WITHOUT_SPACES = 0.25  # of the characters of words, from where on characters are taken
LONGEST_MEAN_WORD = 20  # characters; the words of Finnish have 7 to 8


def choose_analyzer(texts: Sequence[str]) -> Analyzer:
    """Return "char" where a word pattern would take whole clauses, by an even sample of the texts.

    That is so where a quarter of the characters of words are of scripts without spaces between words
    (Chinese, Japanese, Thai, …), or where words have more than 20 characters in the mean (sequences, codes).
    """
    step = max(1, len(texts) // SAMPLED_TEXTS)
    n_words = n_chars = n_without = 0
    for at in range(0, len(texts), step):
        words = _WORD.findall(texts[at][:SAMPLED_CHARS])
        joined = "".join(words)
        n_words, n_chars = n_words + len(words), n_chars + len(joined)
        n_without += len(_WITHOUT_SPACES.findall(joined))
    dense = n_without > FEWEST_WITHOUT_SPACES * n_chars
    return "char" if dense or n_chars > LONGEST_MEAN_WORD * n_words else "word"


def settings_of(analyzer: Analyzer, word: str = WORD) -> dict[str, Any]:
    """Return what a vocabulary means, as the metadata say it; a change of it needs another schema version.

    Args:
        analyzer: what n-grams are made of.
        word: the pattern of a word.
    """
    pattern = "." if analyzer == "char" else word
    found = {"token_pattern": pattern, "ngram_range": [1, LONGEST[analyzer]], "most_chars": MAX_CHARS}
    return found | {"prefixes": [*PREFIXES], "suffixes": [*SUFFIXES]} if analyzer == "subword" else found


def tokens_of(ngram: str, analyzer: Analyzer) -> list[str]:
    """Return the tokens that an n-gram of a vocabulary is made of."""
    return list(ngram) if analyzer == "char" else ngram.split(" ")


class NgramReader:
    """Reads texts as keys of n-grams.

    Its caller numbers the words; a word with the number 0 is unknown, and in no n-gram.
    """

    def __init__(self, analyzer: Analyzer, number: Callable[[str], int], word: str = WORD) -> None:
        self._analyzer: Analyzer = analyzer
        self._number = number
        self._word = re.compile(word)
        self._known_parts: dict[str, list[int]] = {}

    def keys(self, texts: Sequence[str]) -> tuple[Keys, IntArray]:
        """Return the key and the row of every known n-gram, and of every known part of a word."""
        if self._analyzer == "char":
            return _ngram_keys(*_read_chars(texts), "char")
        tokens, lengths, words = self._read_words(texts)
        keys, rows = _ngram_keys(tokens, lengths, self._analyzer)
        if self._analyzer == "word":
            return keys, rows
        if len(self._known_parts) > MAX_REMEMBERED:
            self._known_parts.clear()
        parts = [[part for word in of_text for part in self._parts_of(word)] for of_text in words]
        part_keys = np.array([*itertools.chain.from_iterable(parts)], dtype=np.int64) | PART_BIT
        part_rows = np.repeat(np.arange(len(texts), dtype=np.int32), [*map(len, parts)])
        return np.concatenate([keys, part_keys]), np.concatenate([rows, part_rows])

    def _read_words(self, texts: Sequence[str]) -> tuple[Keys, Keys, list[list[str]]]:
        """Return the numbers of all words in a row (T,), how many each text has (B,), and the words.

        The two texts of a pair are read apart, and words that say how they relate follow (`pair_tokens`).
        """
        found: list[int] = []
        lengths, every = [], []
        for text in texts:
            before = len(found)
            first, separator, second = text.partition(PAIR_SEPARATOR)
            words = self._word.findall(first[:MAX_CHARS].lower())
            found.extend(map(self._number, words))
            if separator:
                others = self._word.findall(second[:MAX_CHARS].lower())
                found.append(0)  # no n-gram reaches over it
                found.extend(map(self._number, others))
                found.append(0)
                found.extend(map(self._number, pair_tokens(words, others)))
            every.append(words)
            lengths.append(len(found) - before)
        return np.array(found, dtype=np.int64), np.array(lengths, dtype=np.int64), every

    def _parts_of(self, word: str) -> list[int]:
        """Return the numbers of the known parts of a word."""
        parts = self._known_parts.get(word)
        if parts is None:
            parts = [number for number in map(self._number, word_parts(word)) if number]
            self._known_parts[word] = parts
        return parts


def _read_chars(texts: Sequence[str]) -> tuple[Keys, Keys]:
    """Return the code points of all texts in a row (T,), and how many each has (B,).

    White space is one blank, half a surrogate pair is "?".
    """
    cut = (" ".join(part[:MAX_CHARS] for part in text.split(PAIR_SEPARATOR)) for text in texts)
    plain = [" ".join(text.lower().split()) for text in cut]
    points = np.frombuffer("".join(plain).encode("utf-32-le", "replace"), dtype="<u4")
    return points.astype(np.int64), np.array([len(text) for text in plain], dtype=np.int64)


def _ngram_keys(tokens: Keys, lengths: Keys, analyzer: Analyzer) -> tuple[Keys, IntArray]:
    """Return the key and the row of every n-gram without an unknown token (number 0).

    Args:
        tokens: (T,) numbers of the tokens of all rows.
        lengths: (B,) tokens of each row.
        analyzer: how long n-grams are.
    """
    rows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    keys, known = tokens, tokens > 0
    all_keys, all_rows = [keys[known]], [rows[known]]
    for n in range(1, LONGEST[analyzer]):
        keys = keys[:-1] | (tokens[n:] << (BITS[analyzer] * n))
        known = known[:-1] & (tokens[n:] > 0)
        whole = known & (rows[: len(keys)] == rows[n:])
        all_keys.append(keys[whole])
        all_rows.append(rows[: len(keys)][whole])
    return np.concatenate(all_keys), np.concatenate(all_rows)


def key_tokens(keys: Keys, analyzer: Analyzer) -> Keys:
    """Return the tokens (F, n) of keys (F,), with 0 after the last one."""
    bits = BITS[analyzer]
    parts = [(keys >> (bits * n)) & ((1 << bits) - 1) for n in range(LONGEST[analyzer])]
    return np.stack(parts, axis=1)
