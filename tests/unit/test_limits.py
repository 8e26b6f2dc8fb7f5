"""Each limit of `data/limits.py`, and each kind of bomb: what is beyond it is refused in a sentence."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard
from conftest import child_environment
from test_data_formats import load as read
from test_data_formats import write
from tokenizers import Tokenizer, models, pre_tokenizers

from edgetune.compare.grid import cells_of, load_grid, make_grid
from edgetune.config.toml_config import load_config, make_config
from edgetune.data import arrow, json_rows
from edgetune.data.examples import DataOptions, read_examples
from edgetune.data.readers import open_rows
from edgetune.data.table import LONG_LABEL, LONG_TEXT, UNREADABLE_JSON
from edgetune.data.token_format import TokenizerSpec
from edgetune.data.tokens import open_tokens, tokens_cache_key
from edgetune.devices.profile_store import load_profile, profile_files, read_profile
from edgetune.report.collect import collect
from edgetune.run_files.example_stats import ExampleStats, load_example_stats
from edgetune.run_files.history import read_history
from edgetune.utils import limits
from edgetune.utils.errors import DataError, EdgetuneError, RunError, UsageError
from edgetune.utils.parsing import read_json_file

MB = 1_000_000
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": zstandard.ZstdCompressor().compress,
}


# Lines, cells, columns


@pytest.mark.parametrize("text", ["word " * (2 * MB), 'a""b' * (10 * MB // 4)])
@pytest.mark.parametrize("name", ["a.csv", "headless.csv", "a.jsonl", "a.json", "a.parquet"])
def test_a_cell_of_10_mb_works(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    rows = [{"text": text, "label": "pos"}, {"text": "short", "label": "neg"}]
    expected = text.replace('""', '"').strip() if name.endswith("csv") else text.strip()
    if name == "a.parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith("csv"):
        header = "text,label\n" if name == "a.csv" else ""
        write(path, f'{header}"{text}",pos\nshort,neg\n')
    else:
        write(path, json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows)))
    options = DataOptions(text=("1",), label="2") if name == "headless.csv" else DataOptions()
    examples, bad = read(path, options)
    assert [(len(one.text), one.label) for one in examples] == [(len(expected), "pos"), (5, "neg")]
    assert not bad


def test_a_line_beyond_the_limit_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\nfine,pos\n" + "x" * (limits.MAX_LINE_CHARS + 1) + ",neg\n")
    with pytest.raises(DataError, match=r"a\.csv:3 .* 16,777,216 "):
        read(path)


def test_a_json_row_beyond_the_limit_is_named(tmp_path: Path) -> None:
    row = {"text": "x" * (limits.MAX_LINE_CHARS + 1), "label": 1}
    path = write(tmp_path / "a.json", json.dumps([{"text": "a", "label": 1}, row]))
    with pytest.raises(DataError, match=r"a\.json "):
        read(path)


def test_a_cell_beyond_the_limit_is_a_bad_row(tmp_path: Path) -> None:
    text = "x" * (limits.MAX_LINE_CHARS + 1)
    table = pa.table({"text": [text, "short"], "label": ["a", "b"]})
    pa.parquet.write_table(table, tmp_path / "a.parquet", compression="none")
    examples, bad = read(tmp_path / "a.parquet")
    assert [one.text for one in examples] == ["short"]
    assert [(row.line, row.reason) for row in bad] == [(1, LONG_TEXT)]


def test_a_label_beyond_the_limit_is_a_bad_row(tmp_path: Path) -> None:
    longest = "l" * limits.MAX_LABEL_CHARS
    examples, bad = read(write(tmp_path / "a.csv", f"text,label\na,{longest}\nb,{longest}l\n"))
    assert [one.label for one in examples] == [longest]
    assert [row.reason for row in bad] == [LONG_LABEL]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.arrow", "a.jsonl", "a.json"])
def test_too_many_columns(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    row = {"text": "a", "label": "b", **{f"c{i}": "1" for i in range(limits.MAX_COLUMNS - 1)}}
    if name == "a.csv":
        write(path, f"{','.join(row)}\n{','.join(row.values())}\n")
    elif name == "a.jsonl":
        write(path, json.dumps(row) + "\n" + json.dumps(row))
    elif name == "a.json":
        write(path, json.dumps({key: [value] for key, value in row.items()}))
    else:
        table = pa.table({key: [value] for key, value in row.items()})
        (pa.parquet.write_table if name == "a.parquet" else pa.feather.write_feather)(table, path)
    with pytest.raises(DataError, match=r"10,001 .* 10,000 "):
        read(path)


# Quotes that are never closed


def test_open_quotes_are_not_read_ahead_for_ever(tmp_path: Path) -> None:
    """Each of these lines opens a quote, and is inside of one that an earlier line opened."""
    n_good, n_bad = 25_000, 20_000
    path = write(tmp_path / "a.csv", "text,label\n" + 'a,"b, c"\n' * n_good + 'a","b\n' * n_bad)
    started_s = time.process_time()
    assert len(read(path)[0]) >= n_good
    assert time.process_time() - started_s < 10  # a second; read ahead for every line: minutes


def test_a_few_open_quotes_do_not_shorten_records(tmp_path: Path) -> None:
    text = "\n".join(f"line {i}" for i in range(limits.MAX_RECORD_LINES - 10))
    stray = "".join(f'"stray {i},neg\n' + "x,neg\n" * 20 for i in range(3))
    path = write(tmp_path / "a.csv", f'text,label\n"a, b",pos\n{stray}"{text}",pos\n')
    examples, _ = read(path)
    assert examples[-1].text == text


def test_a_record_of_too_many_lines_was_never_closed(tmp_path: Path) -> None:
    text = "line\n" * (limits.MAX_RECORD_LINES + 10)
    path = write(tmp_path / "a.csv", f'text,label\n"a, b",pos\n"{text}",pos\n')
    examples, bad = read(path)
    assert examples[0].text == "a, b"
    assert not any("line" in one.text for one in examples)
    assert len(bad) > limits.MAX_RECORD_LINES


# JSON


@pytest.mark.parametrize("deeper", [0, 1])
def test_nested_json(tmp_path: Path, deeper: int) -> None:
    levels = limits.MAX_JSON_DEPTH - 1 + deeper
    row = '{"text": "a", "label": "b", "more": ' + "[" * levels + "]" * levels + "}"
    examples, bad = read(write(tmp_path / "a.jsonl", f'{row}\n{{"text": "c", "label": "d"}}'))
    assert [len(examples), len(bad)] == [2 - deeper, deeper]
    assert all(one.reason == UNREADABLE_JSON for one in bad)


def test_json_that_would_fill_the_memory(tmp_path: Path) -> None:
    many = ",".join(["{}"] * (limits.MAX_JSON_VALUES + 2))
    row = f'{{"text": "a", "label": [{many}]}}'
    _, bad = read(write(tmp_path / "a.jsonl", f'{row}\n{{"text": "c", "label": "d"}}'))
    assert [one.reason for one in bad] == [UNREADABLE_JSON]
    with pytest.raises(DataError, match="JSON value"):
        read(write(tmp_path / "a.json", f"[{row}]"))
    with pytest.raises(DataError, match="JSON value"):
        read(write(tmp_path / "b.json", f'{{"text": [{many.replace("{}", "[]")}]}}'))


def test_a_file_of_columns_is_read_whole_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"text": ["word " * 30_000] * 4, "label": [0, 1, 0, 1]}
    path = write(tmp_path / "a.json", json.dumps(columns))
    assert len(read(path)[0]) == 4
    monkeypatch.setattr(json_rows, "MAX_COLUMN_FILE_CHARS", 300_000)
    with pytest.raises(DataError, match="300,000 "):
        read(path)


# Bombs


@pytest.mark.parametrize("kind", PACK)
def test_several_packed_pieces_follow_each_other(tmp_path: Path, kind: str) -> None:
    pieces = ["text,label\n", "".join(f"row {i},{i % 3}\n" for i in range(5_000)), "b,2\n" * 3]
    path = write(tmp_path / f"a.csv{kind}", b"".join(PACK[kind](piece.encode()) for piece in pieces))
    assert len(read(path)[0]) == 5_003


@pytest.mark.parametrize("kind", PACK)
def test_a_bomb_is_refused(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"a.csv{kind}", PACK[kind](b"text,label\n" + b"good film,label\n" * 250_000))
    with pytest.raises(DataError, match=r"a\.csv\.\w+ .* 200 "):
        read(path)


@pytest.mark.parametrize("kind", PACK)
def test_more_than_can_be_unpacked_at_all(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_UNPACKED_BYTES", 1_000)
    path = write(tmp_path / f"a.csv{kind}", PACK[kind](os.urandom(4_000).hex().encode()))
    with pytest.raises(DataError, match=r"decompressed"):
        read(path)


def test_what_an_unpacker_must_remember_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = b"text,label\n" + b"".join(b"text %d,%d\n" % (i, i % 2) for i in range(1_000))
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    write(tmp_path / "a.csv.zst", packer.compress(rows) + packer.flush())
    write(tmp_path / "a.csv.xz", lzma.compress(rows, preset=6))
    assert len(read(tmp_path / "a.csv.zst")[0]) == len(read(tmp_path / "a.csv.xz")[0]) == 1_000
    monkeypatch.setattr(limits, "MAX_WINDOW_BYTES", 1 << 20)
    for name in ("a.csv.zst", "a.csv.xz"):
        with pytest.raises(DataError, match="damaged"):
            read(tmp_path / name)


@pytest.mark.parametrize("kind", PACK)
def test_a_torn_packed_file(tmp_path: Path, kind: str) -> None:
    whole = PACK[kind](os.urandom(200_000).hex().encode())
    for content in (whole[: len(whole) // 2], b"nonsense", whole[:3]):
        with pytest.raises(DataError, match=r"a\.csv\.\w+ (cannot be read: .*damaged|is not text|is empty)"):
            read(write(tmp_path / f"a.csv{kind}", content))


def dictionary_bomb(n_rows: int) -> pa.Table:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * n_rows, pa.int32()), pa.array(["a" * 10 * MB]))
    return pa.table({"text": texts, "label": ["pos", "neg"] * (n_rows // 2)})


def test_a_text_that_parquet_repeats(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(dictionary_bomb(5_000), path, compression="zstd")
    with pytest.raises(DataError, match=r"a\.parquet .* 200 times"):
        read(path)


def test_parquet_values_that_repeat_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["a" * MB] * 20, "label": list("ab") * 10})
    encodings = {"text": "DELTA_BYTE_ARRAY", "label": "PLAIN"}
    pa.parquet.write_table(table, path, use_dictionary=False, column_encoding=encodings, compression="none")
    with pa.parquet.ParquetFile(path) as opened:
        stored = opened.metadata.row_group(0).column(0).total_uncompressed_size
        assert stored < 2 * MB
        assert arrow.batch_rows(opened, ["text"], [0]) * stored <= limits.MAX_BATCH_BYTES


def test_parquet_that_says_that_it_is_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["a" * 1_000] * 20_000, "label": ["b"] * 20_000})
    pa.parquet.write_table(table, path, use_dictionary=False, compression="zstd")
    with pytest.raises(DataError, match=r"a\.parquet .* 200 times"):
        arrow.read_parquet(path)


def test_a_batch_of_parquet_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    texts = [os.urandom(20_000 if i < 10 else 20).hex() for i in range(1_000)]
    pa.parquet.write_table(pa.table({"text": texts, "label": ["a", "b"] * 500}), path, use_dictionary=False)
    assert len(read(path)[0]) == 1_000
    monkeypatch.setattr(arrow, "MAX_BATCH_BYTES", 100_000)
    with pytest.raises(DataError, match="texts"):
        read(path)


CHANGE_EVERY_BYTE = """
import sys
from pathlib import Path
from edgetune.data.examples import DataOptions, read_examples
from edgetune.utils.errors import EdgetuneError

path = Path(sys.argv[1])
whole = path.read_bytes()
footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
n_refused = 0
for at in range(footer, len(whole) - 8):
    for value in {0, 0x19, whole[at] ^ 1} - {whole[at]}:
        path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
        try:
            for _ in read_examples(str(path), DataOptions(), lambda bad: None):
                pass
        except EdgetuneError:
            n_refused += 1
print(n_refused)
"""


def test_a_damaged_parquet_footer_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array(["good", None, "film", "bad"])
    pa.parquet.write_table(pa.table({"text": texts, "label": ["a", "b", "c", "d"]}), path)
    done = subprocess.run(
        [sys.executable, "-c", CHANGE_EVERY_BYTE, str(path)],
        capture_output=True,
        text=True,
        env=child_environment(),
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def write_arrow(path: Path, table: pa.Table, compression: str | None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
        writer.write_table(table)
    return path


def test_an_arrow_batch_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [os.urandom(100).hex() for _ in range(10_000)]
    path = write_arrow(tmp_path / "a.arrow", pa.table({"text": texts, "label": ["a", "b"] * 5_000}), "zstd")
    assert len(read(path)[0]) == 10_000
    monkeypatch.setattr(arrow, "MAX_BATCH_BYTES", MB)
    with pytest.raises(DataError, match=r" 2 MB "):
        read(path)


@pytest.mark.parametrize("repeated", [True, False])
def test_an_arrow_bomb(tmp_path: Path, repeated: bool) -> None:
    table = dictionary_bomb(1_000) if repeated else pa.table({"text": ["a" * MB] * 20, "label": ["b"] * 20})
    with pytest.raises(DataError, match="200 times"):
        read(write_arrow(tmp_path / "a.arrow", table, "zstd"))


def test_a_text_that_arrow_repeats_is_counted_each_time(tmp_path: Path) -> None:
    text = pa.array([os.urandom(500_000).hex()])
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int32()), text)
    table = pa.table({"text": texts, "label": ["pos", "neg"] * 2_500})
    path = write_arrow(tmp_path / "a.arrow", table, None)
    n_rows = 0
    with pytest.raises(DataError, match="200 times"):  # noqa: PT012
        for _ in read_examples(str(path), DataOptions(), lambda bad: None):
            n_rows += 1
    assert 100 < n_rows < 400


def test_arrow_offsets_that_lie_do_not_crash(tmp_path: Path) -> None:
    offsets = pa.py_buffer(struct.pack("<4i", 0, 5, 1 << 30, 10))
    lying = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"good film!")])
    table = pa.table({"text": lying, "label": ["a", "b", "c"]})
    with pytest.raises(DataError, match=r"a\.arrow"):
        read(write_arrow(tmp_path / "a.arrow", table, None))


# Labels and tokens


@pytest.fixture
def spec(tmp_path: Path) -> TokenizerSpec:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "word": 1, "a": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return TokenizerSpec(tmp_path / "tokenizer.json", max_length=8, pad_id=0)


def test_too_many_labels(tmp_path: Path, spec: TokenizerSpec) -> None:
    def labelled(n: int) -> Path:
        return write(tmp_path / "a.csv", "text,label\n" + "".join(f"word,l{i}\n" for i in range(n)))

    store = open_tokens(str(labelled(limits.MAX_LABELS)), DataOptions(), spec, tmp_path / "cache", 0.0)
    assert len(store.label_names) == limits.MAX_LABELS
    with pytest.raises(DataError, match=" 2,000 "):
        open_tokens(str(labelled(limits.MAX_LABELS + 1)), DataOptions(), spec, tmp_path / "cache", 0.0)


def test_a_long_text_is_tokenized_as_far_as_it_is_kept(tmp_path: Path, spec: TokenizerSpec) -> None:
    long = "word " * (2 * MB)
    path = write(tmp_path / "a.csv", f"text,label\n{long},x\na,y\n{' ' * 70_000}a{' ' * 70_000}a,x\n")
    store = open_tokens(str(path), DataOptions(), spec, tmp_path / "cache", 0.0)
    assert store.batch(np.array([0, 1])).tokens.tolist() == [1] * 8 + [2]
    assert store.meta.n_truncated == 2  # the long one, and the one of which the end was not even looked at


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a,0\nb,1\nc,neg\nd,pos\n", r'from numbers \("0"\) to words \("neg", first on line 4\)'),
        ("a,neg\nb,pos\nc,1\n", r'from words \("neg"\) to numbers \("1", first on line 4\)'),
        ("a,0\nb,1.0\n", None),
        ("a,neg\nb,pos\n", None),
    ],
)
def test_labels_that_change_their_kind(
    tmp_path: Path, spec: TokenizerSpec, rows: str, says: str | None
) -> None:
    path = write(tmp_path / "a.csv", f"text,label\n{rows}")
    findings = open_tokens(str(path), DataOptions(), spec, tmp_path / "cache", 0.0).findings()
    told = [finding.text for finding in findings if "labels change" in finding.text]
    assert len(told) == (says is not None)
    assert says is None or re.search(says, told[0])


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("pos", "neg"):
        write(tmp_path / "d" / label / "1.txt", f"a {label} text")
    write(tmp_path / "secret.txt", "not theirs")
    return tmp_path / "d"


@pytest.mark.parametrize("link", ["pos/2.txt", "out"])
def test_a_folder_does_not_lead_out_of_itself(folder: Path, spec: TokenizerSpec, link: str) -> None:
    target = folder.parent / "secret.txt" if link.endswith(".txt") else folder.parent
    (folder / link).symlink_to(target)
    with pytest.raises(DataError, match=rf"{link} .*d, to "):
        read(folder)
    with pytest.raises(DataError, match="points outside"):
        tokens_cache_key(str(folder), DataOptions(), spec)


def test_a_link_inside_a_folder_is_followed(folder: Path) -> None:
    (folder / "pos" / "2.txt").symlink_to(folder / "neg" / "1.txt")
    assert [(one.text, one.label) for one in read(folder)[0]] == [
        ("a neg text", "neg"),
        ("a pos text", "pos"),
        ("a neg text", "pos"),
    ]


def test_pipes_loops_and_folders_that_are_named_like_texts_are_left_out(folder: Path) -> None:
    os.mkfifo(folder / "pos" / "pipe.txt")
    (folder / "pos" / "folder.txt").mkdir()
    (folder / "pos" / "loop.txt").symlink_to(folder / "pos" / "loop.txt")
    assert len(read(folder)[0]) == 2


def test_too_many_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_FOLDER_FILES", 3)
    assert len(read(folder)[0]) == 2
    for i in range(3):
        write(folder / "pos" / f"more{i}.txt", "text")
    with pytest.raises(DataError, match=r"pos .* 3 "):
        read(folder)


def test_a_file_that_is_too_long_for_a_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_LINE_CHARS", 20)
    write(folder / "pos" / "2.txt", "x" * 21)
    examples, bad = read(folder)
    assert len(examples) == 2
    assert [(Path(row.file).name, row.reason) for row in bad] == [("2.txt", LONG_TEXT)]


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "link.arrow"])
def test_a_saved_dataset_does_not_lead_out_of_itself(tmp_path: Path, spec: TokenizerSpec, name: str) -> None:
    table = pa.table({"text": ["a"], "label": ["b"]})
    folder = tmp_path / "d"
    folder.mkdir()
    write_arrow(tmp_path / "secret.arrow", table, None)
    (folder / "link.arrow").symlink_to(tmp_path / "secret.arrow")
    write(folder / "state.json", json.dumps({"_data_files": [{"filename": name}]}))
    for look in (read, lambda path: tokens_cache_key(str(path), DataOptions(), spec)):
        with pytest.raises(DataError, match="points outside"):
            look(folder)


def test_a_saved_dataset_that_names_a_file_as_no_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "state.json", json.dumps({"_data_files": [{"filename": "x" * 100_000}]}))
    with pytest.raises(DataError, match="dataset folder") as caught:
        read(tmp_path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.arrow"])
def test_a_file_that_vanishes_between_opening_and_reading(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pa.parquet.write_table(pa.table({"text": ["a"], "label": ["b"]}), path)
    elif name == "a.arrow":
        write_arrow(path, pa.table({"text": ["a"], "label": ["b"]}), None)
    else:
        write(path, "text,label\na,b\n" if name == "a.csv" else '{"text": "a", "label": "b"}\n{}')
    opened = open_rows(str(path), DataOptions())
    path.unlink()
    with pytest.raises(DataError, match=rf"{name} "):
        list(opened.read((0, 1)))


# Settings, grids, profiles


LOADERS: list[Callable[[Path], object]] = [load_config, load_grid, read_profile]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a = " + "[" * 4_000, "nested too deeply"),
        ("a." * 3_000 + "a = 1", "line 1 has more than 4,096 characters"),
        ("# comment\n" * 30_000, "more than 262,144 bytes"),
        (
            "a = " + "1" * 4_000 + "2" * 90,
            "is not TOML|outside any section|no setting|not a device profile|limit",
        ),
        ("a = \x00", "TOML"),
        (b"a = '\xff'", "TOML"),
        ("[a]\nx = 1\n[a]\n", "TOML"),
    ],
)
def test_toml_that_no_settings_are(
    tmp_path: Path, load: Callable[[Path], object], content: str | bytes, says: str
) -> None:
    with pytest.raises(EdgetuneError, match=rf"a\.toml.*({says})"):
        load(write(tmp_path / "a.toml", content))


@pytest.mark.parametrize("load", LOADERS)
def test_a_pipe_is_no_settings(tmp_path: Path, load: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "a.toml")
    with pytest.raises(EdgetuneError, match="file"):
        load(tmp_path / "a.toml")


def test_stored_profiles_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGETUNE_PROFILES", str(tmp_path))
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    assert not {"pipe", "folder"} & set(profile_files())
    with pytest.raises(UsageError, match="profile"):
        load_profile("~nobody-of-that-name/x.toml")


@pytest.mark.parametrize("preset", [[], {}, 1, ["default"]])
def test_a_preset_of_another_type(preset: Any) -> None:
    with pytest.raises(UsageError, match="preset"):
        make_config({"data": {"train": "x"}, "selection": {"preset": preset}})


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("train", "seed", 2**32),
        ("budget", "deadline_s", float("inf")),
        ("selection", "threshold", float("nan")),
    ],
)
def test_numbers_that_no_run_can_have(section: str, name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        make_config({"data": {"train": "x"}, section: {name: value}})


def test_a_file_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.train: caf.\.csv "):
        make_config({"data": {"train": "caf\udce9.csv"}})


def test_a_grid_of_too_many_runs() -> None:
    data = [{"name": "a", "train": "a.csv"}]
    with pytest.raises(UsageError, match=r"110,000 .* 10,000 "):
        cells_of(make_grid({"data": data, "methods": ["random"] * 4, "seeds": list(range(11_000))}, "x"))
    with pytest.raises(UsageError, match="seeds"):
        make_grid({"data": data, "seeds": [-1]}, "x")


# Run folders


def test_a_history_has_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = '{"kind":"note","t_s":0}\n'
    path = write(tmp_path / "history.jsonl", line * 100)
    assert len(read_history(path)) == 100
    with monkeypatch.context() as patch:
        patch.setattr("edgetune.run_files.history.MAX_HISTORY_LINES", 99)
        with pytest.raises(RunError, match="too large"):
            read_history(path)
    with monkeypatch.context() as patch:
        patch.setattr("edgetune.run_files.history.MAX_HISTORY_BYTES", 1_000)
        with pytest.raises(RunError, match="too large"):
            read_history(path)
    write(path, line + '{"kind":"note","t_s":0,"x":"' + "x" * limits.MAX_HISTORY_LINE_BYTES + '"}\n')
    with pytest.raises(RunError, match=r"line 2: "):
        read_history(path)


@pytest.mark.parametrize(
    "line",
    [
        '{"kind":[],"t_s":0}',
        '{"kind":"note","t_s":"0"}',
        '{"kind":"note","t_s":1e400}',
        '{"kind":"step","t_s":0,"loss":"high"}',
        '{"kind":"stage","t_s":0}',
        '{"kind":"note","t_s":0,"x":' + "[" * 200 + "]" * 200 + "}",
        '{"kind":"note","t_s":' + "9" * 5_000 + "}",
        "[" * 3_000,
        "\udcff",
    ],
)
def test_lines_that_no_history_has(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(RunError, match=r"history\.jsonl, line 1"):
        read_history(path)


def test_a_summary_of_too_many_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "r" / "summary.json", "{}")
    os.truncate(path, limits.MAX_SUMMARY_BYTES + 1)
    with pytest.raises(ValueError, match="67,108,864 "):
        read_json_file(path)
    with pytest.raises(RunError, match=r"summary\.json"):
        collect([tmp_path / "r"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stages", [{"stage": "all"}] * 300_000),
        ("dataset", "x" * 9_000_000),
        ("confusion", [[1] * 3_000]),
        ("confusion", [[1]] * 3_000),
        ("label_names", ["a"] * 600_000),
    ],
)
def test_a_summary_that_tells_too_much(tmp_path: Path, name: str, value: Any) -> None:
    write(tmp_path / "r" / "summary.json", json.dumps({name: value}))
    with pytest.raises(RunError, match=r"summary\.json"):
        collect([tmp_path / "r"])


@pytest.mark.parametrize("spoil", ["packed", "claims", "shape", "type", "short", "noise"])
def test_a_record_of_rows_that_is_none(tmp_path: Path, spoil: str) -> None:
    columns = dict(ExampleStats.empty(10_000).__dict__)
    if spoil == "shape":
        columns["n_seen"] = np.zeros((10, 1_000), dtype=np.int32)
    if spoil == "type":
        columns["n_seen"] = np.array(["x"] * 10_000)
    if spoil == "short":
        columns["n_seen"] = columns["n_seen"][:10]
    (np.savez_compressed if spoil == "packed" else np.savez)(tmp_path / "rows.npz", **columns)
    if spoil == "claims":  # a column of 99 billion rows
        content = (tmp_path / "rows.npz").read_bytes()
        (tmp_path / "rows.npz").write_bytes(content.replace(b"(10000,), }    ", b"(99999999999,),"))
    if spoil == "noise":
        (tmp_path / "rows.npz").write_bytes(b"PK\x03\x04" + bytes(range(256)))
    with pytest.raises(RunError, match=r"rows\.npz"):
        load_example_stats(tmp_path)
