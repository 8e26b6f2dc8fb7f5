"""JSON, Parquet, Arrow, folders and the hub."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from conftest import RunCli

from edgetune.config.toml_config import column_names
from edgetune.data import data_hub
from edgetune.data.examples import DataOptions, Example, find_parts, open_texts, read_examples
from edgetune.data.table import BadRow
from edgetune.utils.errors import DataError, MissingDependencyError, ResourceError, UsageError

ROWS = [{"text": f"text {i}", "label": i % 2} for i in range(2_500)]
EXPECTED = [(i + 1, f"text {i}", str(i % 2)) for i in range(2_500)]


def load(path: Path | str, options: DataOptions | None = None) -> tuple[list[Example], list[BadRow]]:
    bad: list[BadRow] = []
    return list(read_examples(str(path), options or DataOptions(), bad.append)), bad


def triples(path: Path | str, options: DataOptions | None = None) -> list[tuple[int, str, str]]:
    examples, bad = load(path, options)
    assert not bad
    return [(example.line, example.text, example.label) for example in examples]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.unknown"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    assert triples(write(tmp_path / name, "\n".join(map(json.dumps, ROWS)))) == EXPECTED


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.unknown"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_list(tmp_path: Path, name: str, indent: int | None) -> None:
    assert triples(write(tmp_path / name, json.dumps(ROWS, indent=indent))) == EXPECTED


@pytest.mark.parametrize(
    "value",
    [
        {"version": "1", "n": [], "data": ROWS, "more": 3},
        {"text": [row["text"] for row in ROWS], "label": [row["label"] for row in ROWS]},
        {
            "text": {str(i): row["text"] for i, row in enumerate(ROWS)},
            "label": {str(i): row["label"] for i, row in enumerate(ROWS)},
        },
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_json_objects_of_rows(tmp_path: Path, value: dict[str, Any], indent: int | None) -> None:
    if "n" in value:
        value = {key: item for key, item in value.items() if key != "n"}
    assert triples(write(tmp_path / "a.json", json.dumps(value, indent=indent))) == EXPECTED


def test_json_lines_that_cannot_be_used(tmp_path: Path) -> None:
    lines = [
        '{"text": "fine", "label": true}',
        '{"text": "cut',
        "[1, 2]",
        "",
        '{"label": 1}',
        '{"text": "no label"}',
        '{"text": "null", "label": null}',
        '{"text": ["a"], "label": 1}',
        '{"text": "a", "label": [1, 2]}',
        '{"text": "half \\ud83d", "label": 1}',
        '{"text": "nan", "label": NaN}',
        '{"text": "raw\ttab", "label": 3.0}',
        '{"text": 12, "label": 2.5, "extra": {}}',
        '{"text": "huge", "label": ' + "9" * 5_000 + "}",
        "[" * 100_000,
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    examples, bad = load(path, DataOptions(multi_label=False))
    assert [(e.line, e.text, e.label) for e in examples] == [
        (1, "fine", "true"),
        (12, "raw\ttab", "3"),
        (13, "12", "2.5"),
    ]
    assert [(row.line, row.reason) for row in bad] == [
        (2, "unreadable JSON"),
        (3, "not an object"),
        (5, "empty text"),
        (6, "no label"),
        (7, "no label"),
        (8, "text is not a string"),
        (9, "label is not a single value"),
        (10, "bad bytes"),
        (11, "no label"),
        (14, "unreadable JSON"),
        (15, "unreadable JSON"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a", "label": 1}, {"text": ',
        '[{"text": "a", "label": 1} {"text": "b", "label": 1}]',
        '[{"text": "a", "label": 1}, oops]',
        '{"text": ["a", "b"], "label": [1]}',
        '{"text": "a"',
        "{}",
        "[]",
        "[1, 2, 3]",
        '"text"',
        "12",
        "nonsense",
        "[" * 100_000,
    ],
)
def test_unusable_json(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match="JSON"):
        load(write(tmp_path / "a.json", content))


FASTTEXT = "".join(f"__label__{i % 2} text {i}\n" for i in range(40))


@pytest.mark.parametrize("name", ["a.txt", "a.ft", "a.csv", "a.tsv"])
def test_fasttext_lines(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, FASTTEXT.replace(" text 7", "\ttext 7"))
    assert triples(path) == SHORT
    assert [row.text for row in open_texts(str(path), DataOptions()).rows] == [text for _, text, _ in SHORT]
    write(path, FASTTEXT + "__label__0 __label__1 both\nno label\n\n__label__1\n")
    examples, bad = load(path)
    assert len(examples) == 40
    assert [(row.line, row.reason) for row in bad] == [
        (41, "label is not a single value"),
        (42, "no label"),
        (44, "empty text"),
    ]


@pytest.mark.parametrize(
    "line", ["text {i} __label__{label}", "__label__{label},text {i}", "__label__{label}\ttext {i}"]
)
def test_fasttext_lines_in_other_orders(tmp_path: Path, line: str) -> None:
    lines = (line.format(i=i, label=i % 2) for i in range(40))
    assert triples(write(tmp_path / "a.txt", "\n".join(lines))) == SHORT


@pytest.mark.parametrize("between", [" ", ", ", ",", " words "])
def test_fasttext_lines_with_several_labels_are_faults_where_there_is_one(
    tmp_path: Path, between: str
) -> None:
    lines = [f"__label__{i % 2}{between}__label__x text {i}" for i in range(40)]
    path = write(tmp_path / "a.txt", "\n".join(lines))
    assert load(path)[0][1].labels == ("1", "x")
    examples, bad = load(path, DataOptions(multi_label=False))
    assert not examples
    assert {row.reason for row in bad} == {"label is not a single value"}


def test_a_fasttext_label_in_a_column(tmp_path: Path) -> None:
    lines = [f"__label__{i % 2},text {i}" for i in range(40)]
    assert [
        label for _, _, label in triples(write(tmp_path / "a.csv", "\n".join(["label,text", *lines])))
    ] == [label for _, _, label in SHORT]


def test_annotations_that_were_not_accepted(tmp_path: Path) -> None:
    answers = ["accept", "accept", "reject", "ignore"]
    rows = [{"text": f"text {i}", "label": "x", "answer": answers[i % 4]} for i in range(8)]
    examples, bad = load(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert [example.line for example in examples] == [1, 2, 5, 6]
    assert {row.reason for row in bad} == {"no label"}
    as_labels = load(tmp_path / "a.jsonl", DataOptions(label="answer"))[0]
    assert {example.label for example in as_labels} == set(answers)
    own = [{**row, "answer": f"it was {i}"} for i, row in enumerate(rows)]
    assert len(load(write(tmp_path / "b.jsonl", "\n".join(map(json.dumps, own))))[0]) == 8


def test_chosen_options_as_prodigy_has_them(tmp_path: Path) -> None:
    rows = [
        {"text": f"some text {i}", "accept": [str(i % 2)], "answer": "accept" if i % 5 else "ignore"}
        for i in range(40)
    ]
    examples, bad = load(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert [example.label for example in examples] == [str(i % 2) for i in range(40) if i % 5]
    assert len(bad) == 8


def test_cancelled_annotations_of_label_studio(tmp_path: Path) -> None:
    rows = [
        {**row, "annotations": [{**row["annotations"][0], "was_cancelled": i % 4 == 0}]}
        for i, row in enumerate(STUDIO)
    ]
    examples, bad = load(write(tmp_path / "a.json", json.dumps(rows)))
    assert [example.label for example in examples] == [str(i % 2) for i in range(40) if i % 4]
    assert len(bad) == 10


def test_lists_of_one_label_in_cells_of_text(tmp_path: Path) -> None:
    lines = ["text,label", *(f"text {i},['{i % 2}']" for i in range(40))]
    path = write(tmp_path / "a.csv", "\n".join(lines))
    assert [label for _, _, label in triples(path)] == [label for _, _, label in SHORT]
    write(path, "\n".join([*lines, "several,\"['0', '1']\"", "none,[]", "word,[sic]", "code,[it's]"]))
    examples, bad = load(path)
    assert [example.label for example in examples[40:]] == ["[sic]", "[it's]"]
    assert [row.reason for row in bad] == ["label is not a single value", "no label"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_column_for_each_label(tmp_path: Path, kind: str) -> None:
    rows = [{"id": i, "text": f"text {i}", "neg": 1 - i % 2, "pos": i % 2} for i in range(40)]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        write(path, "\n".join(["id,text,neg,pos", *(",".join(map(str, row.values())) for row in rows)]))
    elif kind == "jsonl":
        write(path, "\n".join(map(json.dumps, rows)))
    else:
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    found = triples(path, DataOptions(label="neg,pos"))
    assert [(text, label) for _, text, label in found[:2]] == [("text 0", "neg"), ("text 1", "pos")]
    assert len(found) == 40
    with pytest.raises(UsageError, match='--label "neg,pos"'):
        load(path)


def test_several_or_no_labels_of_a_row(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", "text,a,b,c\nfine,1,0,0\nboth,1,1,0\nnone,0,0,0\nodd,0,2,0\nend,0,0,1.0\n"
    )
    examples, bad = load(path, DataOptions(label="a,b,c"))
    assert [(e.text, e.label) for e in examples] == [("fine", "a"), ("end", "c")]
    assert [(row.line, row.reason) for row in bad] == [
        (3, "label is not a single value"),
        (4, "no label"),
        (5, "label is not a single value"),
    ]
    with pytest.raises(UsageError, match='no column "d"'):
        load(path, DataOptions(label="a,d"))


@pytest.mark.parametrize("given", ["Please explain, in your words", "please explain,in your words"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_column_name_that_holds_a_comma(tmp_path: Path, given: str, name: str) -> None:
    column, label = "Please explain, in your words", "Good, or bad"
    rows = [{"id": i, column: f"text {i}", label: f"say {i % 2}"} for i in range(40)]
    lines = [f"{row['id']},{row[column]},{row[label]}" for row in rows]
    as_csv = "\n".join([f'id,"{column}","{label}"', *lines])
    path = write(tmp_path / name, as_csv if name == "a.csv" else "\n".join(map(json.dumps, rows)))
    found = triples(path, DataOptions(text=column_names(given), label=label))
    assert [(text, name) for _, text, name in found] == [(f"text {i}", f"say {i % 2}") for i in range(40)]
    both = triples(path, DataOptions(text=column_names(f"id,{given}"), label=label))
    assert both[3][1] == "3 text 3"


def test_a_single_json_line(tmp_path: Path) -> None:
    assert triples(write(tmp_path / "a.jsonl", '{"text": "a", "label": 1}')) == [(1, "a", "1")]


LABELLED = [{"text": f"text {i}", "label": i % 2} for i in range(40)]
SHORT = [(i + 1, f"text {i}", str(i % 2)) for i in range(40)]


def content_of(shape: str) -> str:
    """Write the same rows in a shape that people have."""
    one_each = [json.dumps(row) for row in LABELLED]
    arrays = [[row["text"], row["label"]] for row in LABELLED]
    columns = {"columns": ["text", "label"], "index": list(range(40))}
    return {
        "joined": "".join(one_each),
        "commas": ",\n".join(one_each),
        "pretty": "\n".join(json.dumps(row, indent=2) for row in LABELLED),
        "two a line": "\n".join(a + b for a, b in zip(one_each[::2], one_each[1::2], strict=True)),
        "arrays": json.dumps([["text", "label"], *arrays]),
        "array lines": "\n".join(json.dumps(row) for row in [["text", "label"], *arrays]),
        "split": json.dumps({**columns, "data": arrays}),
        "split, spaced": json.dumps({**columns, "data": arrays}, indent=1),
        "index": json.dumps({str(i): row for i, row in enumerate(LABELLED)}),
        "named rows": json.dumps({f"row {i}": row for i, row in enumerate(LABELLED)}),
        "table": json.dumps({"schema": {"fields": [{"name": "text"}]}, "data": LABELLED}),
        "lists": "\n".join(json.dumps({**row, "label": [row["label"]]}) for row in LABELLED),
        "nested lists": "\n".join(
            json.dumps({**row, "label": [[str(row["label"])] * 2]}) for row in LABELLED
        ),
    }[shape]


SHAPES = "joined|commas|pretty|two a line|arrays|array lines|split|split, spaced|index|named rows|table"


@pytest.mark.parametrize("shape", [*SHAPES.split("|"), "lists", "nested lists"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_shapes(tmp_path: Path, shape: str, name: str) -> None:
    found = triples(write(tmp_path / name, content_of(shape)))
    shift = shape.startswith("array")  # the header is an array, too
    assert found == [(line + shift, text, label) for line, text, label in SHORT]


def test_arrays_without_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps([["good", 1], ["bad", 0], ["odd"]]))
    examples, bad = load(path, DataOptions(text=("1",), label="2"))
    assert [(e.text, e.label) for e in examples] == [("good", "1"), ("bad", "0")]
    assert [(row.line, row.reason) for row in bad] == [(3, "wrong number of values")]
    with pytest.raises(UsageError, match=r'"1" \(good\)'):
        load(path)


NESTED = [
    {"id": i, "data": {"text": f"text {i}"}, "annotations": [{"label": str(i % 2), "by": "me"}]}
    for i in range(40)
]
STUDIO = [
    {
        "data": {"text": f"text {i}"},
        "annotations": [{"result": [{"type": "choices", "value": {"choices": [str(i % 2)]}}]}],
    }
    for i in range(40)
]


@pytest.mark.parametrize(
    ("rows", "label"), [(NESTED, "annotations.label"), (STUDIO, "annotations.result.value.choices")]
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_columns_deeper_in_json(tmp_path: Path, rows: list[Any], label: str, name: str) -> None:
    path = write(tmp_path / name, "\n".join(map(json.dumps, rows)) if "l" in name[-1] else json.dumps(rows))
    assert triples(path, DataOptions(text=("data.text",), label=label)) == SHORT
    assert triples(path) == SHORT
    with pytest.raises(UsageError, match=rf'"data\.text".*"{label}"'):
        load(path, DataOptions(label="verdict"))


def test_annotators_who_disagree_give_no_label(tmp_path: Path) -> None:
    rows = [{"text": "a", "notes": [{"label": "x"}, {"label": name}]} for name in "xy"]
    options = DataOptions(label="notes.label", text=("text",), multi_label=False)
    examples, bad = load(write(tmp_path / "a.json", json.dumps(rows)), options)
    assert [example.label for example in examples] == ["x"]
    assert [row.reason for row in bad] == ["label is not a single value"]


def test_chats_have_a_column_for_each_speaker(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Say which kind of text this is."},
                {"role": "user", "content": f"some text {i}"},
                {"role": "assistant", "content": str(i % 2)},
            ]
        }
        for i in range(40)
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    expected = [(i + 1, f"some text {i}", str(i % 2)) for i in range(40)]
    assert triples(path) == expected
    assert triples(path, DataOptions(text=("messages.user",), label="messages.assistant")) == expected


def test_a_key_with_a_dot_is_a_key(tmp_path: Path) -> None:
    rows = [{"data.text": "flat", "data": {"text": "deep"}, "label": 1}]
    options = DataOptions(text=("data.text",))
    assert triples(write(tmp_path / "a.json", json.dumps(rows)), options) == [(1, "flat", "1")]


def test_categories_as_spacy_has_them(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "cats": {"1": float(i % 2), "0": 1.0 - i % 2}} for i in range(40)]
    rows.append({"text": "several", "cats": {"1": 1.0, "0": 1.0}})
    rows.append({"text": "none", "cats": {"1": 0.0, "0": 0.0}})
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    examples, bad = load(path)
    assert [(e.line, e.text, e.label) for e in examples] == SHORT
    assert [row.reason for row in bad] == ["label is not a single value", "no label"]
    pairs = [[row["text"], {"cats": row["cats"]}] for row in rows]
    assert (
        load(write(tmp_path / "a.json", json.dumps(pairs)), DataOptions(text=("1",), label="2"))[0]
        == examples
    )
    old = [
        {**row, "cats": [{"label": name, "value": value} for name, value in row["cats"].items()]}
        for row in rows
    ]
    assert load(write(tmp_path / "b.json", json.dumps(old)), DataOptions(label="cats"))[0] == examples


PARTS = {"version": 2, "train": LABELLED, "validation": LABELLED[:6], "test": LABELLED[:2]}


def validation_of(path: Path) -> str | None:
    parts = find_parts(str(path), DataOptions())
    return None if parts is None else parts.validation


def test_parts_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps(PARTS))
    assert triples(path) == SHORT
    assert validation_of(path) == "validation"
    assert len(triples(path, DataOptions(part="validation"))) == 6
    del PARTS["validation"]
    assert validation_of(write(path, json.dumps(PARTS))) == "test"
    write(path, json.dumps({"good": LABELLED, "rejected": LABELLED}))
    with pytest.raises(DataError, match=r"\(good, rejected\)"):
        load(path)


def table(metadata: dict[str, str] | None = None) -> pa.Table:
    return pa.Table.from_pylist(ROWS).replace_schema_metadata(metadata)


def test_parquet(tmp_path: Path) -> None:
    pa.parquet.write_table(table(), tmp_path / "a.parquet", row_group_size=900)
    assert triples(tmp_path / "a.parquet") == EXPECTED


@pytest.mark.parametrize(
    ("rows", "label"), [(NESTED, "annotations.label"), (STUDIO, "annotations.result.value.choices")]
)
def test_columns_deeper_in_parquet(tmp_path: Path, rows: list[Any], label: str) -> None:
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    assert triples(path, DataOptions(text=("data.text",), label=label)) == SHORT
    assert triples(path) == SHORT
    with pytest.raises(UsageError, match=rf'"data\.text".*"{label}"'):
        load(path, DataOptions(label="verdict"))


def test_feather(tmp_path: Path) -> None:
    pa.feather.write_feather(table(), tmp_path / "a.feather")
    assert triples(tmp_path / "a.feather") == EXPECTED


def write_stream(path: Path, rows: pa.Table) -> None:
    with pa.ipc.new_stream(str(path), rows.schema) as writer:
        writer.write_table(rows)


def test_arrow_stream_and_file(tmp_path: Path) -> None:
    write_stream(tmp_path / "s.arrow", table())
    assert triples(tmp_path / "s.arrow") == EXPECTED
    with pa.ipc.new_file(str(tmp_path / "f.arrow"), table().schema) as writer:
        writer.write_table(table())
    assert triples(tmp_path / "f.arrow") == EXPECTED
    (tmp_path / "f.arrow").rename(tmp_path / "f")
    assert triples(tmp_path / "f") == EXPECTED


CLASSES = {"info": {"features": {"text": {"dtype": "string", "_type": "Value"}, "label": {}}}}
CLASSES["info"]["features"]["label"] = {"names": ["neg", "pos"], "_type": "ClassLabel"}  # type: ignore[dict-item]


def save_to_disk(folder: Path, labels: list[int]) -> None:
    """Write what `datasets.Dataset.save_to_disk` writes, in two shards."""
    folder.mkdir(parents=True)
    rows = pa.table({"text": [f"t{i}" for i in range(len(labels))], "label": labels})
    rows = rows.replace_schema_metadata({"huggingface": json.dumps(CLASSES)})
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    write_stream(folder / names[0], rows.slice(0, 2))
    write_stream(folder / names[1], rows.slice(2))
    write(folder / "state.json", json.dumps({"_data_files": [{"filename": name} for name in names]}))


def test_saved_dataset(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "d", [0, 1, 1, -1, 0])
    examples, bad = load(tmp_path / "d")
    assert [(e.line, e.text, e.label) for e in examples] == [
        (1, "t0", "neg"),
        (2, "t1", "pos"),
        (3, "t2", "pos"),
        (5, "t4", "neg"),
    ]
    assert [(row.line, row.reason) for row in bad] == [(4, "no label")]


def test_saved_dataset_with_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save_to_disk(tmp_path / "d" / split, [0, 1, 1])
    write(tmp_path / "d" / "dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
    assert len(load(tmp_path / "d")[0]) == 3
    assert validation_of(tmp_path / "d") == "test"
    assert len(load(tmp_path / "d" / "test")[0]) == 3
    write(tmp_path / "d" / "dataset_dict.json", json.dumps({"splits": ["test"]}))
    with pytest.raises(DataError, match=r"splits test,.*test"):
        load(tmp_path / "d")
    write(tmp_path / "d" / "dataset_dict.json", json.dumps({"splits": ["train", "../.."]}))
    with pytest.raises(DataError, match="outside"):
        load(tmp_path / "d")


@pytest.mark.parametrize("state", ["{", "[]", '{"_data_files": []}', '{"_data_files": [{"filename": "x"}]}'])
def test_damaged_saved_dataset(tmp_path: Path, state: str) -> None:
    write(tmp_path / "state.json", state)
    with pytest.raises(DataError):
        load(tmp_path)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW1", b"nonsense", b"PAR1" + b"\xff" * 100 + b"PAR1"])
def test_damaged_tables(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / name)


def test_compressed_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="decompress"):
        load(tmp_path / "a.parquet.gz")


def test_folder_of_labels(tmp_path: Path) -> None:
    for label, texts in {"pos": ["good\nfilm", " "], "neg": ["bad", "caf\udce9"], ".hidden": ["x"]}.items():
        (tmp_path / label).mkdir()
        for i, text in enumerate(texts):
            (tmp_path / label / f"{i}.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    write(tmp_path / "pos" / "notes.md", "no text")
    write(tmp_path / "readme.txt", "no text")
    examples, bad = load(tmp_path)
    assert [(e.line, e.text, e.label) for e in examples] == [(1, "bad", "neg"), (3, "good\nfilm", "pos")]
    assert [(row.line, row.reason) for row in bad] == [(2, "bad bytes"), (4, "empty text")]


def test_folders_of_parts_and_of_texts_without_a_label(tmp_path: Path) -> None:
    for label in ("train/pos", "train/neg", "train/unsup", "test/pos", "test/neg"):
        (tmp_path / label).mkdir(parents=True)
        write(tmp_path / label / "1.txt", "some text")
    write(tmp_path / "README", "about")
    for place in (tmp_path, tmp_path / "train"):
        examples, bad = load(place)
        assert [example.label for example in examples] == ["neg", "pos"]
        assert [row.reason for row in bad] == ["no label"]
    assert validation_of(tmp_path) == "test"
    (tmp_path / "train").rename(tmp_path / "mine")
    with pytest.raises(DataError, match=r"mine, .*test") as refused:
        load(tmp_path)
    assert "README" not in str(refused.value)


def test_other_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="subfolder"):
        load(tmp_path)
    write(tmp_path / "rows.csv", "text,label\n")
    with pytest.raises(DataError, match=r"rows\.csv"):
        load(tmp_path)


def test_missing_files_name_their_neighbours(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        load(tmp_path / "x.csv")
    write(tmp_path / "reviews.csv", "text,label\n")
    with pytest.raises(DataError, match=r"reviews\.csv"):
        load(tmp_path / "reviws.csv")
    with pytest.raises(DataError, match=r"contains reviews\.csv"):
        load(tmp_path / "zzz")
    with pytest.raises(DataError, match="exist"):
        load(tmp_path / "no" / "reviews.csv")
    with pytest.raises(DataError):
        load("a\x00b")
    with pytest.raises(DataError, match="folder"):
        load(os.devnull)


class FakeHub(ModuleType):
    """Stands in for `datasets`."""

    def __init__(self, result: Any) -> None:
        super().__init__("datasets")
        self.__spec__ = ModuleSpec("datasets", None)  # others look whether it is there
        self.result = result
        self.asked: list[tuple[str, ...]] = []

    def load_dataset(self, *names: str, split: str, revision: str | None) -> Any:
        self.asked.append((*names, split, *([revision] if revision else [])))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class FakeDataset:
    """The few methods of a `datasets.Dataset` that are used."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows
        self.features = self
        self.arrow_schema = rows.schema.with_metadata({"huggingface": json.dumps(CLASSES)})

    def select_columns(self, names: list[str]) -> FakeDataset:
        return FakeDataset(self._rows.select(names))

    def with_format(self, _: str) -> FakeDataset:
        return self

    def iter(self, batch_size: int) -> Any:
        return iter(self._rows.to_batches(max_chunksize=batch_size))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(data_hub, "reachable", lambda: False)


@pytest.mark.usefixtures("no_network")
def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub(FakeDataset(table()))
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert triples("hub:owner/name:test")[:2] == [(1, "text 0", "neg"), (2, "text 1", "pos")]
    assert len(triples("hub:owner/name")) == 2_500
    load("hub:glue:sst2:validation")
    load("hub:glue@refs/pr/1:sst2:validation")
    assert fake.asked == [
        ("owner/name", "test"),
        ("owner/name", "train"),
        ("glue", "sst2", "validation"),
        ("glue", "sst2", "validation", "refs/pr/1"),
    ]
    for nothing in ("hub:", "hub:@main", "hub:a:b:c:d"):
        with pytest.raises(UsageError, match="hub:NAME"):
            load(nothing)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("hub:owner/name", f"hub:owner/name@{'a' * 40}"),
        ("hub:owner/name@main:sst2:test", f"hub:owner/name@{'a' * 40}:sst2:test"),
        (f"hub:owner/name@{'b' * 40}:test", f"hub:owner/name@{'b' * 40}:test"),
        ("hub:gone/name:test", "hub:gone/name:test"),
        ("reviews.csv", "reviews.csv"),
    ],
)
def test_a_hub_dataset_is_pinned(asked: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def dataset_info(self, name: str, revision: str | None) -> SimpleNamespace:
            if name != "owner/name":
                raise ConnectionError("no such dataset")
            assert revision in (None, "main")
            return SimpleNamespace(sha="a" * 40)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(data_hub, "reachable", lambda: True)
    assert data_hub.pinned_dataset(asked) == named
    monkeypatch.setattr(data_hub, "reachable", lambda: False)
    assert data_hub.pinned_dataset(asked) == asked


def test_a_run_keeps_the_commit_that_it_read(
    run_cli: RunCli, artifacts_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeHub(FakeDataset(table()))
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr(data_hub, "pinned_dataset", lambda path: path.replace("name", "name@" + "a" * 40))
    monkeypatch.setattr(data_hub, "reachable", lambda: True)
    fixed = (
        "--artifacts",
        artifacts_of().folder,
        "--max-steps",
        1,
        "--no-ngrams",
        "--cache-dir",
        tmp_path / "cache",
    )
    code, _, err = run_cli("finetune", "hub:owner/name", *fixed, "--out", tmp_path / "run")
    assert code == 0, err
    assert fake.asked == [("owner/name", "train", "a" * 40)]
    assert f'train = "hub:owner/name@{"a" * 40}"' in (tmp_path / "run" / "config.toml").read_text()


@pytest.mark.usefixtures("no_network")
def test_hub_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(ConnectionError("no route")))
    with pytest.raises(ResourceError, match="save_to_disk"):
        load("hub:owner/name")
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(ValueError('Unknown split "tset".\nMore')))
    with pytest.raises(DataError, match=r'"tset"\.$'):
        load("hub:owner/name:tset")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"edgetune\[cpu\]"):
        load("hub:owner/name")


def test_whether_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    data_hub.reachable.cache_clear()
    assert not data_hub.reachable()
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy"})
    data_hub.reachable.cache_clear()
    assert data_hub.reachable()
    data_hub.reachable.cache_clear()


def split_rows(names: Sequence[str]) -> str:
    return "text,label,split\n" + "".join(f"{i} {name},l{i % 2},{name}\n" for i, name in enumerate(names))


def part_texts(path: Path, part: str | None = None, **options: Any) -> list[str]:
    return [one.text for one in load(path, DataOptions(part=part, **options))[0]]


def test_parts_told_by_a_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", split_rows(["Train", "test", "dev", "train"]))
    assert part_texts(path) == ["0 Train", "3 train"]
    assert validation_of(path) == "dev"
    assert part_texts(path, "dev") == ["2 dev"]
    assert "test" in find_parts(str(path), DataOptions()).describe("a.csv")
    assert validation_of(write(path, split_rows(["train", "test"]))) == "test"
    assert validation_of(write(path, split_rows(["train"] * 200 + ["dev", "mine"]))) is None
    assert len(part_texts(path)) == 202
    assert part_texts(write(path, split_rows(["test", "test"]))) == ["0 test", "1 test"]
    assert len(part_texts(write(path, split_rows(["train", "test"])), label="split")) == 2
    assert len(list(open_texts(str(path), DataOptions()).rows)) == 2  # a prediction for every row


@pytest.mark.parametrize("names", [("train.csv", "test.csv"), ("train.jsonl", "validation.jsonl")])
def test_parts_told_by_files_of_a_folder(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        row = {"text": name, "label": "a"}
        content = json.dumps(row) if name.endswith("jsonl") else f"text,label\n{name},a\n"
        write(tmp_path / "data" / name, content)
    write(tmp_path / "data" / "README.md", "about the data")
    assert part_texts(tmp_path / "data") == [names[0]]
    validation = validation_of(tmp_path / "data")
    assert validation == names[1].split(".")[0]
    assert part_texts(tmp_path / "data", validation) == [names[1]]
    write(tmp_path / "data" / "train.tsv", "text\tlabel\na\tb\n")
    with pytest.raises(DataError, match=r"train\..* train\."):
        load(tmp_path / "data")
