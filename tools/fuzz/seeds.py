"""Well-formed files of every format that edgetune reads, from a random generator: mutations start from them.

Texts are the ones that break programs: quotes, delimiters, line ends, NUL, half surrogate pairs, marks of
direction, escape sequences, formulae, other scripts.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import zstandard

TEXTS = (
    "the invoice is wrong",
    'he said "no", twice',
    "a,b;c\td|e",
    "two\nlines",
    "\r\nwindows\r",
    "\u202eevil\u2066 mark \u200f",
    "\x1b[31mred\x1b[0m \x9b2J",
    "=cmd|' /C calc'!A0",
    "@SUM(A1:A9)",
    "ελληνικά 漢字 😀 é",
    "<script>alert(1)</script> [x](javascript:y) `z` | $\\frac$",
    "half \\ud83d",
    "  spaces  ",
    "",
    "\ufeffbom",
    "../../etc/passwd",
    "0",
    "-1.5e308",
    "null",
)
LABELS = (
    "pos",
    "neg",
    "0",
    "1",
    "2.0",
    "true",
    "NaN",
    "",
    "a b",
    "\x1b]0;x\x07",
    "=1+1",
    "é",
    "\u202e",
    "|x|",
)
NAMES = ("text", "label", "sentence1", "sentence2", "idx", "title", "TEXT", "", "a,b", "\x1b[1m", "label")
PREAMBLES = ("sep=;\n", "sep=,\r\n", "# exported\n", "# by, hand; today\n\n", "Report\n\n", "#\n" * 30)
SURVEY = ('{"ImportId":"QID1"}', '{"ImportId":"QID2"}')
CODECS = ("latin-1", "cp1252", "cp1251", "koi8-r", "gb18030", "cp932", "utf-16-le", "mac-roman")
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, 1, mtime=0),
    ".bz2": lambda data: bz2.compress(data, 1),
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
}


def text_of(rng: Random) -> str:
    """Return one text, now and then several joined or a long one."""
    if rng.random() < 0.03:
        return rng.choice(TEXTS) * rng.randrange(1, 2_000)
    if rng.random() < 0.001:
        return "nul\x00inside"
    return " ".join(rng.choice(TEXTS) for _ in range(rng.randrange(1, 4)))


def rows_of(rng: Random) -> list[tuple[str, str]]:
    """Return texts with labels; mostly of two labels, so that most files can be used."""
    labels = rng.sample(LABELS[:2], 2) if rng.random() < 0.7 else rng.sample(LABELS, 4)
    return [(text_of(rng), rng.choice(labels)) for _ in range(rng.choice((0, 1, 3, 30, 30, 30, 300)))]


def names_of(rng: Random) -> tuple[str, str]:
    """Return names of a text and a label column; mostly the usual ones."""
    return ("text", "label") if rng.random() < 0.8 else (rng.choice(NAMES), rng.choice(NAMES))


def delimited(rng: Random, delimiter: str) -> bytes:
    """Return a CSV or TSV file; some of it without quoting, as people write it by hand."""
    out = io.StringIO()
    rows: list[Sequence[str]] = [names_of(rng), *rows_of(rng)] if rng.random() < 0.8 else [*rows_of(rng)]
    if rng.random() < 0.3:
        out.write("".join(delimiter.join(row) + "\n" for row in rows))
    else:
        csv.writer(
            out,
            delimiter=delimiter,
            quoting=rng.choice((0, 1)),
            lineterminator=rng.choice(("\n", "\r\n", "\r")),
        ).writerows(rows)
    text = out.getvalue()
    if rng.random() < 0.1:
        text = text.replace('""', '\\"')
    if rng.random() < 0.1:
        text = rng.choice(PREAMBLES) + text
    if rng.random() < 0.05:
        head, _, body = text.partition("\n")
        text = f"{head}\n{delimiter.join(SURVEY)}\n{body}"
    codec = rng.choice(("utf-8",) * 20 + ("utf-16", "utf-8-sig", "utf-32", *CODECS))
    return text.encode(codec, "replace")


def fasttext(rng: Random) -> bytes:
    """Return lines as fastText has them, some with several labels or none, before or after the text."""
    labels = [[label] if rng.random() < 0.95 else rng.sample(LABELS, 2) for _, label in rows_of(rng)]
    line = rng.choice(("{labels} {text}", "{labels},{text}", "{text} {labels}"))
    between = rng.choice((" ", " ", ",", ", "))
    named = (between.join(f"__label__{name}" for name in names) for names in labels)
    lines = (line.format(labels=names, text=text_of(rng)) for names in named)
    return "\n".join(lines).encode("utf-8", "replace")


def flags(rng: Random) -> bytes:
    """Return a CSV file that has a column for each label."""
    names = ["pos", "neg", rng.choice(LABELS)]
    out = io.StringIO()
    rows = [[text, *(int(label == name) for name in names)] for text, label in rows_of(rng)]
    csv.writer(out).writerows([["text", *names], *rows])
    return out.getvalue().encode("utf-8", "replace")


def _json_value(rng: Random, value: str) -> Any:
    """Return a value of any JSON type, mostly the text itself."""
    odd: tuple[Any, ...] = (
        None,
        True,
        0,
        -1.5,
        1e308,
        [],
        {},
        [[1]],
        {"a": [1]},
        10**30,
        float("nan"),
        "\ud83d",
    )
    return value if rng.random() < 0.93 else rng.choice(odd)


def json_rows(rng: Random) -> list[dict[str, Any]]:
    """Return rows as JSON objects; a key is missing or new now and then; in some files all lie deeper."""
    text, label = names_of(rng)
    rows: list[dict[str, Any]] = []
    is_deep, is_chat, is_judged = rng.random() < 0.15, rng.random() < 0.05, rng.random() < 0.05
    for words, name in rows_of(rng):
        if is_deep:
            notes = [{"label": _json_value(rng, name)}] * rng.choice((1, 1, 1, 0, 2))
            rows.append({"data": {"text": _json_value(rng, words)}, "annotations": notes})
            continue
        if is_chat:
            said = {"user": words, "assistant": name}
            chat = [{"role": who, "content": _json_value(rng, what)} for who, what in said.items()]
            rows.append({"messages": chat})
            continue
        row = {text: _json_value(rng, words), label: _json_value(rng, name)}
        if rng.random() < 0.02:
            row.pop(rng.choice(list(row)))
        if rng.random() < 0.02:
            row[rng.choice(NAMES)] = {"deep": [[{}]]}
        if is_judged:
            row["answer"] = rng.choice(("accept", "reject", "ignore"))
        rows.append(row)
    return rows


def json_lines(rng: Random) -> bytes:
    """Return a JSON lines file, or one whose objects or arrays are not one a line."""
    rows: list[Any] = json_rows(rng)
    if rng.random() < 0.15:
        rows = [list(row.values()) for row in rows]
    indent, joint = rng.choice(((None, "\n"),) * 7 + ((None, ""), (None, ",\n"), (2, "\n")))
    return joint.join(json.dumps(row, ensure_ascii=True, indent=indent) for row in rows).encode()


def json_whole(rng: Random) -> bytes:
    """Return a JSON file: rows in a list, under keys or by index, columns as pandas has them, or arrays."""
    rows = json_rows(rng)
    keys = list(rows[0]) if rows else ["text", "label"]
    columns = {key: [row.get(key) for row in rows] for key in keys}
    shapes: tuple[Any, ...] = (
        rows,
        {"version": "1", "data": rows, "n": len(rows)},
        columns,
        {key: {str(i): value for i, value in enumerate(values)} for key, values in columns.items()},
        rng.choice(rows) if rows else {},
        {"train": rows, "validation": rows[:3], "test": rows[3:5]},
        {"columns": keys, "index": list(range(len(rows))), "data": [list(row.values()) for row in rows]},
        {str(i): row for i, row in enumerate(rows)},
        [keys, *(list(row.values()) for row in rows)],
    )
    shape = rng.choice(shapes)
    return json.dumps(shape, ensure_ascii=True, indent=rng.choice((None, 1))).encode()


def arrow_rows(rng: Random) -> Any:
    """Return rows as an Arrow table whose columns have one of many types."""
    text, label = names_of(rng)
    rows = [(words.encode("utf-8", "replace").decode(), name) for words, name in rows_of(rng)]
    texts, labels = [row[0] for row in rows], [row[1] for row in rows]
    n = len(rows)
    columns: tuple[Any, ...] = (
        pa.array(labels, pa.string()),
        pa.array([hash(name) % 3 for name in range(n)], pa.int64()),
        pa.array([0.5 * (i % 3) for i in range(n)], pa.float32()),
        pa.array([i % 2 == 0 for i in range(n)], pa.bool_()),
        pa.array([None if i % 5 == 0 else 10**17 + i for i in range(n)], pa.timestamp("ns")),
        pa.array([[i % 9] for i in range(n)], pa.list_(pa.int8())),
        pa.array([b"\xff" * (i % 3) for i in range(n)], pa.binary()),
        pa.nulls(n),
        pa.array(labels, pa.string()).dictionary_encode(),
    )
    chosen = columns[0] if rng.random() < 0.6 else rng.choice(columns)
    first = pa.array(texts, rng.choice((pa.string(), pa.large_string(), pa.string())))
    table = pa.Table.from_arrays([first, chosen], names=[text or "text", label or "label"])
    if rng.random() < 0.3:
        names = {"names": ["neg", "pos"], "_type": "ClassLabel"}
        features = {"info": {"features": {label: names}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    return table


def parquet(rng: Random) -> bytes:
    """Return a Parquet file."""
    out = io.BytesIO()
    pa.parquet.write_table(
        arrow_rows(rng),
        out,
        row_group_size=rng.choice((7, 1_000)),
        compression=rng.choice(("none", "snappy", "zstd", "gzip")),
        use_dictionary=rng.random() < 0.7,
        data_page_version=rng.choice(("1.0", "2.0")),
    )
    return out.getvalue()


def arrow(rng: Random) -> bytes:
    """Return an Arrow file or stream."""
    table, out = arrow_rows(rng), io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=rng.choice((None, "lz4", "zstd")))
    opened = pa.ipc.new_stream if rng.random() < 0.5 else pa.ipc.new_file
    with opened(out, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rng.choice((5, 1_000)))
    return out.getvalue()


def lines_of_text(rng: Random) -> bytes:
    """Return a text file, one text a line."""
    return "\n".join(text for text, _ in rows_of(rng)).encode("utf-8", "replace")


def small_rows(rng: Random) -> bytes:
    """Return a CSV file that can be used, for what surrounds it to be broken."""
    return b"text,label\n" + b"".join(b"word %d,%d\n" % (i, i % 2) for i in range(rng.randrange(5, 60)))
