"""Loaders: what is written comes back row for row, and nothing but an EdgetuneError is ever raised."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgetune.data.examples import DataOptions, Example, open_texts, read_examples
from edgetune.data.splits import split_holdout
from edgetune.data.table import BadRow
from edgetune.utils.errors import EdgetuneError

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
BLANK = st.characters(exclude_categories=["Cs"])
NASTY = st.text(st.sampled_from("\"',;|\t\n\\ ab\u2028é😀{}[]") | BLANK, max_size=20)
PLAIN = st.text(st.sampled_from("\"',;| ab\u2028é{}[]\\") | BLANK, max_size=20).map(
    lambda text: " ".join(text.replace("\t", " ").replace("\r", " ").split("\n"))
)
LABEL = st.sampled_from(["0", "1", "spam and eggs"])


def rows_of(text: Any) -> st.SearchStrategy[list[tuple[str, str]]]:
    return st.lists(st.tuples(text.filter(lambda t: t.strip() not in ("", "\ufeff")), LABEL), min_size=1)


def read(name: str, content: bytes, options: DataOptions) -> tuple[list[Example], list[BadRow]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        bad: list[BadRow] = []
        return list(read_examples(str(path), options, bad.append)), bad


def newlines(text: str) -> str:
    """Line ends inside a field all come back as one kind."""
    return text.replace("\r\n", "\n").strip()


@FEW
@given(
    rows_of(NASTY.filter(lambda t: "\r" not in t and "\x00" not in t)),
    st.sampled_from([1, 0]),
    st.sampled_from("\r\n \n"),
)
def test_csv_round_trip(rows: list[tuple[str, str]], quoting: int, end: str) -> None:
    written = io.StringIO()
    csv.writer(written, quoting=quoting, lineterminator="\r\n" if end == "\r" else "\n").writerows(
        [("text", "label"), *rows]
    )
    examples, bad = read("a.csv", written.getvalue().encode(), DataOptions(header=True, delimiter=","))
    assert [(e.text, e.label) for e in examples] == [(newlines(text), label) for text, label in rows]
    assert not bad


@FEW
@given(rows_of(PLAIN.filter(lambda t: t.strip(' "') and "\x00" not in t)))
def test_tsv_round_trip(rows: list[tuple[str, str]]) -> None:
    """Plain tab-separated text with any quotes: every row comes back as a row."""
    content = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)
    examples, bad = read("a.tsv", content.encode(), DataOptions(header=True))
    assert [e.label for e in examples] == [label for _, label in rows]
    assert not bad
    assert [e.line for e in examples] == list(range(2, len(rows) + 2))
    unquoted = [
        (e.text, text.strip()) for e, (text, _) in zip(examples, rows, strict=True) if '"' not in text
    ]
    assert all(got == sent for got, sent in unquoted)


@FEW
@given(rows_of(NASTY), st.booleans())
def test_json_round_trip(rows: list[tuple[str, str]], ascii_only: bool) -> None:
    objects = [{"text": text, "label": label} for text, label in rows]
    expected = [(text.strip(), label) for text, label in rows]
    lines = "\n".join(json.dumps(item, ensure_ascii=ascii_only) for item in objects)
    whole = json.dumps(objects, ensure_ascii=ascii_only, indent=1)
    columns = json.dumps({key: [item[key] for item in objects] for key in ("text", "label")})
    for name, content in (("a.jsonl", lines), ("a.json", lines), ("a.json", whole), ("a.json", columns)):
        examples, bad = read(name, content.encode(), DataOptions())
        assert [(e.text, e.label) for e in examples] == expected
        assert not bad


NAMES = [
    "a.csv",
    "a.tsv",
    "a.jsonl",
    "a.json",
    "a.txt",
    "a",
    "a.parquet",
    "a.arrow",
    "a.csv.gz",
    "a.json.zst",
]
HEADED = st.sampled_from(
    [b"", b"text,label\n", b"text\tlabel\n", b'[{"text": "a", "label": 1}, ', b'{"text": "a']
)


@FEW
@given(
    st.sampled_from(NAMES),
    HEADED,
    st.binary(max_size=300) | st.text(st.sampled_from('",\n\t{}[]:1a'), max_size=100).map(str.encode),
    st.sampled_from(["utf-8", "latin-1", "utf-16", "ascii", "utf-32", "cp1252", "shift_jis"]),
    st.sampled_from([None, True, False]),
)
@example("a.json", b"", b'{"a":1}\n{"b":', "utf-8", None)
@example("a.csv", b"", b"\xff\xfe\x00", "utf-8", None)
def test_random_bytes(name: str, head: bytes, content: bytes, encoding: str, header: bool | None) -> None:
    for options in (
        DataOptions(encoding=encoding, header=header),
        DataOptions(("1",), "2", encoding=encoding, header=header),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(head + content)
            bad: list[BadRow] = []
            with suppress(EdgetuneError):
                for row in read_examples(str(path), options, bad.append):
                    assert row.text.strip()
                    (row.text + row.label).encode()
            assert all(row.excerpt.encode() is not None and row.line > 0 for row in bad)
            with suppress(EdgetuneError):
                list(open_texts(str(path), options).rows)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=200),
    st.floats(0, 1),
    st.integers(0, 50),
    st.integers(0, 2**32 - 1),
)
def test_holdout(labels: list[int], share: float, max_rows: int, seed: int) -> None:
    ids = np.array(labels, dtype=np.int32)
    train, held_out = split_holdout(ids, share, max_rows, np.random.default_rng(seed))
    again = split_holdout(ids, share, max_rows, np.random.default_rng(seed))
    assert np.array_equal(train, again[0])
    assert np.array_equal(held_out, again[1])
    assert sorted([*train, *held_out]) == list(range(len(ids)))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(held_out) > 0)
    assert len(held_out) <= max_rows
    assert set(ids[held_out]) <= set(ids[train])
    can_draw = len(ids) - len(set(labels))
    wanted = min(max(round(share * len(ids)), 1), max_rows, can_draw) if share > 0 else 0
    assert len(held_out) == wanted
    if 0 < wanted < can_draw:
        for name in set(labels):
            n_here = labels.count(name)
            drawn = int(np.count_nonzero(ids[held_out] == name))
            assert drawn <= n_here * wanted / len(ids) + 1 or can_draw - wanted < len(set(labels))


@pytest.mark.parametrize(("share", "expected"), [(0.1, [10, 20, 70]), (0.25, [25, 50, 175])])
def test_holdout_is_stratified(share: float, expected: list[int]) -> None:
    labels = np.repeat([0, 1, 2], [100, 200, 700]).astype(np.int32)
    _, held_out = split_holdout(labels, share, 10_000, np.random.default_rng(0))
    assert np.bincount(labels[held_out]).tolist() == expected
