"""The encoding of text files: as the user says, by a byte order mark, or as charset-normalizer judges.

Only the lines that are not ASCII are examined: the others are the same in nearly every encoding.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from edgetune.utils.errors import UsageError

AUTO = "auto"
SAMPLE_BYTES = 1 << 16  # of lines that are not ASCII
MOST_JUDGED = 4  # times as many bytes are tested for UTF-8
UTF8_RATE = 0.8  # of these lines: above this the file is UTF-8 with damaged rows
_WIDE = ("utf_16_le", "utf_16_be")
_NARROW = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
    *("koi8_r", "mac_roman", "gb18030", "big5", "cp932", "euc_jp", "cp949"),
)
"""Encodings in use today. Given all that it knows, charset-normalizer prefers DOS code pages."""
_COMMON = ("cp1252", "cp1250", "cp1251", "koi8_r", "cp932", "gb18030", "big5", "cp949")
"""Suggested if the encoding cannot be detected."""
_TYPOGRAPHY = frozenset("€‚ƒ„…†‡‰‹›‘’“”•–—˜™\u00a0¡¢£¤¥¦§¨©«¬®¯°±²³´·¸¹»¼½¾¿")
"""Characters of cp1252 that texts of plain ASCII letters have."""
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_MOST_CHAOS = 0.35  # that a sample may have; short lines of Greek have 0.2 and more
_EASTERN = {
    "Polish": "ąćęłńóśźż",
    "Czech": "áčďéěíňóřšťúůýž",
    "Slovak": "áäčďéíĺľňóôŕšťúýž",
    "Hungarian": "áéíóöőúüű",
    "Croatian": "čćđšž",
    "Slovene": "čšž",
    "Romanian": "ăâîşţ",
    "Lithuanian": "ąčęėįšųūž",
}
"""Letters of the languages of Eastern Europe beyond a to z: Spanish read as cp1250 has an ń beside í."""
_EASTERN_CODECS = ("cp1250", "cp1257")
_KANA = re.compile("[ぁ-んァ-ヶ]")
_KANA_RATE, _FEWEST_KANA = 0.3, 5
"""Share of the characters that are not ASCII, and distinct ones: Korean has no kana, but rows of one jamo."""
_CYRILLIC = ("cp1251", "koi8_r")  # each has small letters where the other has capitals
_MIXED_CASE = re.compile("[а-я][А-Я]")
_WORD = re.compile(rb"[A-Za-z\x80-\xff]*[\x80-\xff][A-Za-z\x80-\xff]*")
_FOREIGN_WORD = re.compile(rb"[\x80-\xff]{3,}")
_FOREIGN_RATE = 0.6  # of the words that are not ASCII: above this they are in another script
_SIMILAR_CHAOS, _SIMILAR_COHERENCE = 0.05, 0.1


def resolve_encoding(encoding: str, start: bytes) -> str:
    """Return the codec to use for a file, by the user's word, or `auto`, and by its first bytes.

    Raises:
        UsageError: there is no such encoding.
    """
    if encoding == AUTO:
        encoding = likely_encoding(start) or "utf-8"
    try:
        info: Any = codecs.lookup(encoding)
    except (LookupError, ValueError) as error:
        raise UsageError(f'Unknown encoding "{encoding}"; try --encoding auto.') from error
    if not getattr(info, "_is_text_encoding", True):
        raise UsageError(f'"{encoding}" is not a text encoding; try --encoding auto.')
    if info.name != "utf-8":
        return encoding
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"


def advice(start: bytes) -> str:
    """Say which encoding to try for a file that cannot be decoded as it was."""
    likely = likely_encoding(start)
    if likely is None:
        possible = ", ".join(_named(codec) for codec in _COMMON if _decodes(start[:SAMPLE_BYTES], codec))
        examples = f", for example one of these, which fit its bytes: {possible}" if possible else ""
        return f"Pass the encoding of the file with --encoding{examples}."
    return f"Try --encoding {likely}, or pass the actual encoding of the file."


def likely_encoding(start: bytes) -> str | None:
    """Return the likely encoding of the first bytes of a file; None for UTF-8, or if it is unknown."""
    import charset_normalizer

    if start.startswith(_BYTE_ORDER_MARKS):
        return None
    if b"\x00" in start:
        start = start[: SAMPLE_BYTES & ~1]
        found = charset_normalizer.from_bytes(start, cp_isolation=list(_WIDE), enable_fallback=False)
        return _named(found[0].encoding) if len(found) else None
    sample = _lines_to_judge(start)
    if not sample:
        return None
    if {char for char in sample.decode("cp1252", "replace") if not char.isascii()} <= _TYPOGRAPHY:
        return "cp1252"
    if (japanese := _japanese(sample)) is not None:
        return japanese
    found = charset_normalizer.from_bytes(
        _foreign_words(sample) or sample,
        cp_isolation=list(_NARROW),
        threshold=_MOST_CHAOS,
        enable_fallback=False,
    )
    if not len(found):
        return None
    best = found[0]
    if best.encoding in _EASTERN_CODECS and not _is_eastern(best):
        for other in found:
            if (
                "cp1252" in other.could_be_from_charset
                and other.chaos <= best.chaos + _SIMILAR_CHAOS
                and other.coherence >= best.coherence - _SIMILAR_COHERENCE
            ):
                return "cp1252"
    if best.encoding in _CYRILLIC:
        return _named(min((best.encoding, *_CYRILLIC), key=lambda codec: _n_mixed_case(sample, codec)))
    return _named(best.encoding)


def _n_mixed_case(sample: bytes, codec: str) -> int:
    """Return how often a capital follows a small letter, as if upper and lower case were exchanged."""
    return len(_MIXED_CASE.findall(sample.decode(codec, "ignore")))


def _foreign_words(sample: bytes) -> bytes:
    """Return the words without any ASCII letter; b"" unless most words that are not ASCII are such words.

    A phrase of another script within English text is then judged alone: with the English words around it,
    charset-normalizer takes it for accented Latin letters.
    """
    words = _WORD.findall(sample)
    foreign = [word for word in words if _FOREIGN_WORD.fullmatch(word)]
    return b" ".join(foreign) if len(foreign) >= _FOREIGN_RATE * len(words) else b""


def _is_eastern(match: Any) -> bool:
    """Whether a text is in a language of Eastern Europe, by the guess at it and by its letters."""
    letters = {char for char in str(match).lower() if char.isalpha() and not char.isascii()}
    return letters <= set(_EASTERN.get(match.language, ()))


def _japanese(sample: bytes) -> str | None:
    """Return the encoding in which bytes are Japanese text: in no other language are kana so frequent.

    Two or three lines are too few for the statistics of charset-normalizer, which takes them for Korean.
    """
    for codec in ("cp932", "euc_jp"):
        if not _decodes(sample, codec):
            continue
        text = sample.decode(codec, "ignore")
        kana = _KANA.findall(text)
        if len(set(kana)) >= _FEWEST_KANA and len(kana) >= _KANA_RATE * sum(not c.isascii() for c in text):
            return _named(codec)
    return None


def _lines_to_judge(start: bytes) -> bytes:
    """Return lines that are not ASCII; none if nearly all of them are UTF-8."""
    lines: list[bytes] = []
    size = 0
    for line in start.replace(b"\r", b"\n").split(b"\n"):
        if not line.isascii():
            lines.append(line)
            size += len(line)
        if size > MOST_JUDGED * SAMPLE_BYTES:
            break
    others = [line for line in lines if not _decodes(line, "utf-8")]
    if len(others) <= (1 - UTF8_RATE) * len(lines):
        return b""
    return b"\n".join(others)[:SAMPLE_BYTES]


def _decodes(sample: bytes, codec: str) -> bool:
    """Whether bytes are valid in an encoding, except for a character that may be cut off at their end."""
    try:
        codecs.getincrementaldecoder(codec)().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _named(codec: str) -> str:
    """Write a codec's name as people do."""
    return codec.replace("_", "-")
