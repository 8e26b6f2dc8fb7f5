"""Files that are large where no honest one is: bombs, endless lines, many columns, links that lead out."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet
from seeds import PACKERS, small_rows

MB = 1_000_000


@lru_cache(maxsize=16)
def _packed(kind: str, what: str) -> bytes:
    """Return 16 MB of one byte, or of one row, in a few kilobytes."""
    return PACKERS[kind]({"zeros": b"\0" * 16 * MB, "rows": b"good film,pos\n" * (16 * MB // 14)}[what])


def bomb(rng: Random, place: Path) -> Path:
    """Write a compressed file of which far too much comes out."""
    kind = rng.choice(list(PACKERS))
    path = place / f"bomb.{rng.choice(('csv', 'jsonl', 'tsv', 'txt'))}{kind}"
    path.write_bytes(_packed(kind, rng.choice(("zeros", "rows"))))
    return path


@lru_cache(maxsize=4)
def _table_bomb(form: str) -> bytes:
    """Return a table whose one text of 10 MB comes 20,000 times."""
    out = io.BytesIO()
    text = pa.array(["a" * 10 * MB], pa.string())
    n = 20_000
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), text)
    table = pa.table({"text": texts, "label": ["pos", "neg"] * (n // 2)})
    if form == "parquet":
        pa.parquet.write_table(table, out, compression="zstd", dictionary_pagesize_limit=100 * MB)
    else:
        if form == "wide":  # one batch of 100 MB
            table = pa.table(
                {"text": pa.array(["b" * 10 * MB] * 10, pa.large_string()), "label": ["x", "y"] * 5}
            )
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(out, table.schema, options=options) as writer:
            writer.write_table(table)
    return out.getvalue()


def table_bomb(rng: Random, place: Path) -> Path:
    """Write a Parquet or Arrow file of which far too much comes out."""
    form = rng.choice(("parquet", "arrow", "wide"))
    path = place / ("bomb.parquet" if form == "parquet" else "bomb.arrow")
    path.write_bytes(_table_bomb(form))
    return path


def long_cell(rng: Random, place: Path) -> Path:
    """Write a file with one cell of 10 MB, or of more than is allowed."""
    size = rng.choice((10 * MB, 10 * MB, 20 * MB))
    piece = rng.choice(("word ", "x", '""', "é,", "{}", " "))
    text = piece * (size // len(piece))
    form = rng.choice(("csv", "first.csv", "jsonl", "json", "txt"))
    rows = {
        "csv": f'text,label\n"{text}",pos\nother,neg\n',
        "first.csv": f"{text.replace(',', ' ')},pos\nother,neg\n",
        "jsonl": json.dumps({"text": text, "label": 1}) + "\n" + json.dumps({"text": "b", "label": 0}),
        "json": json.dumps([{"text": text, "label": 1}, {"text": "b", "label": 0}]),
        "txt": text,
    }
    path = place / f"long.{form}"
    path.write_text(rows[form], encoding="utf-8")
    return path


def many(rng: Random, place: Path) -> Path:
    """Write a file with too many columns, keys, labels, values or levels."""
    n = rng.choice((9_000, 20_000, 300_000))
    forms: dict[str, Callable[[], str]] = {
        "columns.csv": lambda: ",".join(f"c{i}" for i in range(n)) + "\n" + ",".join(["1"] * n),
        "keys.jsonl": lambda: json.dumps({f"k{i}": i for i in range(n)}) + "\n{}",
        "columns.json": lambda: json.dumps({f"k{i}": [i] for i in range(n)}),
        "labels.csv": lambda: "text,label\n" + "".join(f"a,l{i}\n" for i in range(n)),
        "deep.json": lambda: "[" * n + "]" * n,
        "deep.jsonl": lambda: '{"text": "a", "label": ' + "[" * 80 + "]" * 80 + "}\n" + '{"a":' * n,
        "empty.json": lambda: '[{"text": "a", "label": [' + ",".join(["{}"] * (20 * n)) + "]}]",
        "columns2.json": lambda: '{"text": [' + ",".join(["[]"] * (20 * n)) + "]}",
        "delimiters.tsv": lambda: "\t" * n + "\n" + "\t" * n,
        "deep.toml": lambda: "a = " + "[" * n,
        "dots.toml": lambda: "a." * n + "a = 1",
        "tables.toml": lambda: "".join(f"[a.b{i}]\n" for i in range(n // 10)),
        "digits.toml": lambda: "seeds = [" + "9" * n + "]",
        "seeds.toml": lambda: f"seeds = {list(range(min(n, 20_000)))}\n[[data]]\nname='a'\ntrain='b'\n",
    }
    name = rng.choice(list(forms))
    path = place / name
    path.write_text(forms[name](), encoding="utf-8")
    return path


def open_quotes(rng: Random, place: Path) -> Path:
    """Write rows each of which opens a quote that is never closed, after others that are well formed."""
    good = 'a,"b, c"\n' * rng.choice((0, 100, 25_000))
    bad = rng.choice(('a","b\n', '"a\n', 'a,"b\n', '"x","y\n', '"a""\n')) * rng.choice((3_000, 30_000))
    path = place / rng.choice(("quotes.csv", "quotes.tsv", "quotes.txt"))
    path.write_text("text,label\n" + good + bad, encoding="utf-8")
    return path


def odd_folder(rng: Random, place: Path) -> Path:
    """Write a folder of data with links that lead out, pipes, loops, or a name that no terminal likes."""
    folder = place / "folder"
    for label in ("pos", "neg"):
        (folder / label).mkdir(parents=True)
        (folder / label / "1.txt").write_bytes(small_rows(rng))
    secret = place / "secret.txt"
    secret.write_text("not theirs")
    inside = folder / "pos"
    made = rng.randrange(8)
    if made == 0:
        (inside / "out.txt").symlink_to(secret)
    elif made == 1:
        (folder / "out").symlink_to(place)
    elif made == 2:
        os.mkfifo(inside / "pipe.txt")
    elif made == 3:
        (inside / "loop.txt").symlink_to(inside / "loop.txt")
    elif made == 4:
        (inside / "dir.txt").mkdir()
    elif made == 5:
        (inside / "\x1b[31m\nevil\udcff.txt").write_bytes(b"text")
    elif made == 6:
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../secret.txt"}]}))
    else:
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": str(secret)}]}))
    return folder


EXTREMES: tuple[Callable[[Random, Path], Path], ...] = (
    bomb,
    table_bomb,
    long_cell,
    many,
    many,
    open_quotes,
    odd_folder,
)
