"""Examples and texts: how columns are joined, labels written, and rows to predict read."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from edgetune.data.examples import DataOptions, Example, open_texts, read_examples
from edgetune.data.table import BadRow
from edgetune.utils.errors import DataError, UsageError


def parquet(tmp_path: Path, **columns: list[object]) -> str:
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1, 2], ["1", "2"]),
        ([1.0, 2.5], ["1", "2.5"]),
        ([True, False], ["true", "false"]),
        ([" a ", "b"], ["a", "b"]),
        ([b"a", b"b"], ["a", "b"]),
        ([Decimal("1.5"), Decimal("2.0")], ["1.5", "2"]),
    ],
)
def test_labels_are_text(tmp_path: Path, values: list[object], labels: list[str]) -> None:
    path = parquet(tmp_path, text=["x", "y"], label=values)
    assert [e.label for e in read_examples(path, DataOptions(), pytest.fail)] == labels


def test_columns_are_joined_by_a_space_or_kept_as_a_pair(tmp_path: Path) -> None:
    path = parquet(
        tmp_path, question1=["a ", "", None, "x"], question2=["b", "c", "", None], label=[1, 2, 3, 4]
    )
    bad: list[BadRow] = []
    joined = list(read_examples(path, DataOptions(), bad.append))
    assert joined == [Example(1, "a b", None, "1"), Example(2, "c", None, "2"), Example(4, "x", None, "4")]
    assert [(row.line, row.reason) for row in bad] == [(3, "empty text")]
    paired = list(read_examples(path, DataOptions(pair=True), bad.append))
    assert paired == [Example(1, "a", "b", "1"), Example(2, "", "c", "2"), Example(4, "x", "", "4")]


def texts(path: Path, options: DataOptions) -> list[tuple[int, str, str | None]]:
    return [(row.line, row.text, row.text_pair) for row in open_texts(str(path), options).rows]


def test_texts_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text('one, "two"\n\n three\tfour \r\nlast')
    assert texts(path, DataOptions()) == [
        (1, 'one, "two"', None),
        (2, "", None),
        (3, "three\tfour", None),
        (4, "last", None),
    ]
    with pytest.raises(UsageError, match="two columns"):
        texts(path, DataOptions(pair=True))
    path.write_bytes(b"fine\n" * 10 + b"caf\xe9\n")
    with pytest.raises(DataError, match=r"a\.txt:11 .*--encoding"):
        texts(path, DataOptions())


def test_texts_of_a_table_need_no_label(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,good\n2,\n3,bad\n")
    options = DataOptions(label="label")
    assert texts(path, options) == [(2, "good", None), (3, "", None), (4, "bad", None)]
    path.write_text("text\nwell, yes\nno\nhm\nso\nall\n")
    with pytest.raises(DataError, match=r"a\.csv:2 "):
        texts(path, options)
    path.write_text('{"text": ["no"]}\n{"text": "yes"}\n')
    with pytest.raises(DataError, match="not a string"):
        texts(path.rename(tmp_path / "a.jsonl"), options)
    path.write_text("question,sentence\nwho,me\n")
    assert texts(path, DataOptions(pair=True)) == [(2, "who", "me")]


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, edgetune.data.examples; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "transformers", "datasets", "pyarrow", "zstandard", "numpy", "tokenizers"}
    assert not heavy & set(loaded.split())
    code = "import sys, edgetune.data.tokens; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not (heavy - {"numpy"}) & set(loaded.split())
