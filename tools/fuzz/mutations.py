"""What happens to a file on its way from a stranger: torn, spliced, repeated, re-encoded, or made up."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

TOKENS = (
    b'"',
    b'""',
    b'","',
    b"\n",
    b"\r",
    b"\t",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"\\u0000",
    b"\\ud800",
    b"\\u202e",
    b"\x1b[2J",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 5_000,
    b"[" * 300,
    b'{"a":' * 300,
    b"[[",
    b"= ",
    b"a.a.a.a.a.a",
    b"'''",
    b"\xe2\x80\xa8",
    b"PAR1",
    b"ARROW1",
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x80\x00\x00\x00",
)


def _flip(rng: Random, data: bytearray) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _set(rng: Random, data: bytearray) -> bytearray:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x22))
    return data


def _cut(rng: Random, data: bytearray) -> bytearray:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 2, 16, 256, len(data)))]
    return data


def _truncate(rng: Random, data: bytearray) -> bytearray:
    return data[: rng.randrange(len(data))]


def _insert(rng: Random, data: bytearray) -> bytearray:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(TOKENS) * rng.choice((1, 1, 1, 3, 50))
    return data


def _overwrite(rng: Random, data: bytearray) -> bytearray:
    token = rng.choice(TOKENS)[: len(data)]
    at = rng.randrange(len(data) - len(token) + 1)
    data[at : at + len(token)] = token
    return data


def _repeat(rng: Random, data: bytearray) -> bytearray:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice((1, 5, 60, 400))]
    data[start:start] = piece * rng.choice((2, 30, 1_000))
    return data


def _swap(rng: Random, data: bytearray) -> bytearray:
    first, second = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[second:] + data[first:second] + data[:first]


def _noise(rng: Random, data: bytearray) -> bytearray:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 8, 200)))
    return data


def _text(rng: Random, data: bytearray) -> bytearray:
    """Insert what text may hold: the file stays text."""
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(PRINTABLE) * rng.choice((1, 1, 1, 3, 50))
    return data


PRINTABLE = tuple(token for token in TOKENS if token.isascii() and b"\x00" not in token)
GENTLE: tuple[Callable[[Random, bytearray], bytearray], ...] = (_text, _text, _cut, _repeat)
MUTATIONS: tuple[Callable[[Random, bytearray], bytearray], ...] = (
    _flip,
    _set,
    _cut,
    _truncate,
    _insert,
    _insert,
    _overwrite,
    _repeat,
    _swap,
    _noise,
)
MOST_BYTES = 1 << 21


def mutated(rng: Random, content: bytes) -> bytes:
    """Return content after some mutations; now and then it stays, now and then nothing of it does."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.choice((0, 1, 7, 300, 5_000)))
    data = bytearray(content)
    kinds, n_times = (GENTLE, (0, 1, 1, 2, 4)) if rng.random() < 0.6 else (MUTATIONS, (1, 1, 2, 4, 12))
    for _ in range(rng.choice(n_times)):
        if not data:
            break
        data = rng.choice(kinds)(rng, data)[:MOST_BYTES]
    return bytes(data)


def scratched(rng: Random, content: bytes) -> bytes:
    """Return binary content with a few bits changed, or as it was: more would only be refused at its head."""
    if not content or rng.random() < 0.3:
        return content
    if rng.random() < 0.2:
        return mutated(rng, content)
    return bytes(rng.choice((_flip, _set, _overwrite))(rng, bytearray(content)))
