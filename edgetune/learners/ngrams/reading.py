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
"""The same in models of earlier versions, without other symbols than these two."""
AROUND = " "
"""Before and after the characters of a text, so that n-grams know where it begins and ends."""
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
MOST_NEW = 0.75  # of the words of some texts that others do not have; 100 phrases of film reviews have 0.6


def choose_analyzer(texts: Sequence[str]) -> Analyzer:
    """Return "char" where words tell little, by an even sample of the texts.

    That is so where a word pattern would take whole clauses: where a quarter of the characters of words are
    of scripts without spaces between words (Chinese, Japanese, Thai, …), or where words have more than 20
    characters in the mean (sequences, codes). It is also so where three quarters of the words of half of the
    texts are not in the other half (names, single words of a language).
    """
    sampled = [_WORD.findall(text[:SAMPLED_CHARS]) for text in texts[:: max(1, len(texts) // SAMPLED_TEXTS)]]
    words = [*itertools.chain.from_iterable(sampled)]
    joined = "".join(words)
    is_dense = len(_WITHOUT_SPACES.findall(joined)) > FEWEST_WITHOUT_SPACES * len(joined)
    known = {word.lower() for of_text in sampled[::2] for word in of_text}
    is_known = [word.lower() in known for of_text in sampled[1::2] for word in of_text]
    are_new = sum(is_known) < (1 - MOST_NEW) * len(is_known)
    return "char" if is_dense or are_new or len(joined) > LONGEST_MEAN_WORD * len(words) else "word"


def settings_of(analyzer: Analyzer, *, earlier: bool = False) -> dict[str, Any]:
    """Return what a vocabulary means, as the metadata say it; a change of it needs another schema version.

    Args:
        analyzer: what n-grams are made of.
        earlier: whether the model was made before schema version `ngram_files.FIRST_OF_SYMBOLS`.
    """
    pattern = "." if analyzer == "char" else EARLIER_WORD if earlier else WORD
    found = {"token_pattern": pattern, "ngram_range": [1, LONGEST[analyzer]], "most_chars": MAX_CHARS}
    if analyzer == "char" and not earlier:
        return found | {"around": AROUND}
    return found | {"prefixes": [*PREFIXES], "suffixes": [*SUFFIXES]} if analyzer == "subword" else found


def tokens_of(ngram: str, analyzer: Analyzer) -> list[str]:
    """Return the tokens that an n-gram of a vocabulary is made of."""
    return list(ngram) if analyzer == "char" else ngram.split(" ")


class NgramReader:
    """Reads texts as keys of n-grams.

    Its caller numbers the words; a word with the number 0 is unknown, and in no n-gram.
    """

    def __init__(self, analyzer: Analyzer, number: Callable[[str], int], settings: dict[str, Any]) -> None:
        """Read as `settings_of` says."""
        self._analyzer: Analyzer = analyzer
        self._number = number
        self._word, self._around = re.compile(settings["token_pattern"]), settings.get("around", "")
        self._known_parts: dict[str, list[int]] = {}

    def keys(self, texts: Sequence[str]) -> tuple[Keys, IntArray]:
        """Return the key and the row of every known n-gram, and of every known part of a word."""
        if self._analyzer == "char":
            return _ngram_keys(*_read_chars(texts, self._around), "char")
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


def _read_chars(texts: Sequence[str], around: str) -> tuple[Keys, Keys]:
    """Return the code points of all texts in a row (T,), and how many each has (B,).

    White space is one blank, half a surrogate pair is "?"; `around` is put around texts that are not empty.
    """
    cut = (" ".join(part[:MAX_CHARS] for part in text.split(PAIR_SEPARATOR)) for text in texts)
    found = (" ".join(text.lower().split()) for text in cut)
    plain = [f"{around}{text}{around}" if text else "" for text in found]
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
