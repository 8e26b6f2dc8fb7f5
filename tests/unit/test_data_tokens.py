"""The token cache: what is in it, when it is used, and what is left behind when it cannot be built."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgetune.config.toml_config import make_config
from edgetune.data import quality, token_build, tokens
from edgetune.data.batches import sequential_batches
from edgetune.data.examples import DataOptions
from edgetune.data.splits import open_splits
from edgetune.data.token_format import PAIR_SEPARATOR, TokenizerSpec, joined_text
from edgetune.data.token_store import TokenStore
from edgetune.data.tokens import open_tokens
from edgetune.utils.errors import DataError, ModelError, ResourceError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "b", "c"]
IDS = {word: i for i, word in enumerate(WORDS)}
CONTENT = "text,label\ngood film,pos\nbad film,neg\na b c a b c a b c,pos\nGOOD  film,neg\n"


def make_tokenizer(path: Path, special: bool = True, extra_id: int = 0) -> Path:
    vocab = {**IDS, "extra": extra_id} if extra_id else IDS
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    tokenizer.enable_padding(length=128)
    tokenizer.save(str(path))
    return path


@pytest.fixture
def spec(tmp_path: Path) -> TokenizerSpec:
    return TokenizerSpec(make_tokenizer(tmp_path / "tokenizer.json"), max_length=8, pad_id=0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    path.write_text(CONTENT)
    return path


def opened(
    data: Path,
    spec: TokenizerSpec,
    options: DataOptions | None = None,
    max_bad_rows: float = 0.0,
    **more: Any,
) -> TokenStore:
    return open_tokens(str(data), options or DataOptions(), spec, data.parent / "cache", max_bad_rows, **more)


def warnings_of(store: TokenStore) -> list[str]:
    return [finding.text for finding in store.findings()]


def left_in(data: Path) -> list[str]:
    cache = data.parent / "cache" / "tokens"
    return sorted(entry.name for entry in cache.iterdir()) if cache.exists() else []


def test_what_a_store_holds(data: Path, spec: TokenizerSpec) -> None:
    store = opened(data, spec)
    assert (len(store), store.meta.n_read, store.meta.n_bad, store.meta.n_truncated) == (4, 4, 0, 1)
    assert store.label_names == ("neg", "pos")
    assert store.labels.tolist() == [1, 0, 1, 0]
    assert store.labels.dtype == np.int32
    assert store.counts == {"neg": 2, "pos": 2}
    assert store.lengths.tolist() == [4, 4, 8, 4]
    assert store.text_hashes.dtype == np.uint64
    assert store.text_hashes[0] == store.text_hashes[3] != store.text_hashes[1]
    batch = store.batch(np.array([2, 0]))
    assert batch.rows.tolist() == [2, 0]
    assert batch.labels.tolist() == [1, 1]
    assert batch.tokens.tolist() == [2, 7, 8, 9, 7, 8, 9, 3, 2, 4, 6, 3]
    assert batch.offsets.tolist() == [0, 8, 12]
    assert batch.first_lengths.tolist() == [8, 4]
    assert not batch.scored.any()
    assert batch.tokens.dtype == np.int32
    store.release()
    assert store.batch(np.array([0])).tokens.tolist() == [2, 4, 6, 3]
    assert len(store.batch(np.array([], dtype=np.int64))) == 0
    assert sorted(row for b in sequential_batches(store, 3) for row in b.rows.tolist()) == [0, 1, 2, 3]


def test_a_store_goes_with_its_last_view(data: Path, spec: TokenizerSpec) -> None:
    store = opened(data, spec)
    gone, view = weakref.ref(store), store.subset(np.array([1, 0]))
    del store
    assert view.texts() == ["bad film", "good film"]
    del view
    assert gone() is None  # at once, not when garbage is collected


def test_pairs_keep_where_the_first_text_ends(tmp_path: Path, spec: TokenizerSpec) -> None:
    path = tmp_path / "p.csv"
    path.write_text("premise,hypothesis,label\na b,c,1\na b c,a b c,0\n")
    store = opened(path, spec, DataOptions(pair=True))
    batch = store.batch(np.array([0, 1]))
    assert batch.first_lengths.tolist() == [4, 4]
    assert batch.lengths.tolist() == [6, 8]
    types = batch.padded(0)["token_type_ids"]
    assert types.tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]]
    joined = opened(path, spec, DataOptions())
    assert joined.text_hashes[0] != store.text_hashes[0]
    assert joined.batch(np.array([0])).first_lengths.tolist() == [5]


def test_wide_token_ids(data: Path, tmp_path: Path) -> None:
    wide = TokenizerSpec(make_tokenizer(tmp_path / "w.json", extra_id=70_000), 8, 0)
    data.write_text(CONTENT + "extra film,pos\n")
    store = opened(data, wide)
    assert store.meta.token_dtype == "uint32"
    assert store.batch(np.array([4])).tokens.tolist() == [2, 70_000, 6, 3]


def test_many_chunks(tmp_path: Path, spec: TokenizerSpec) -> None:
    path = tmp_path / "m.csv"
    path.write_text("text,label\n" + "".join(f"{'a ' * (i % 5 + 1)},{i % 3}\n" for i in range(2_345)))
    seen: list[int] = []
    store = opened(path, spec, progress=seen.append)
    assert seen == [1_000, 2_000, 2_345]
    assert store.lengths.tolist() == [i % 5 + 3 for i in range(2_345)]
    assert store.labels.tolist() == [i % 3 for i in range(2_345)]
    for row in (0, 999, 1_000, 2_344):
        assert store.batch(np.array([row])).tokens.tolist() == [2, *[7] * (row % 5 + 1), 3]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["b", "10", "9"], ("10", "9", "b")),
        (["2", "02"], ("02", "2")),
    ],
)
def test_order_of_labels(
    tmp_path: Path, spec: TokenizerSpec, labels: list[str], names: tuple[str, ...]
) -> None:
    path = tmp_path / "l.csv"
    path.write_text("text,label\n" + "".join(f"a,{label}\n" for label in labels))
    store = opened(path, spec)
    assert store.label_names == names
    assert [names[i] for i in store.labels] == labels


def test_views(data: Path, spec: TokenizerSpec) -> None:
    store = opened(data, spec)
    view = store.subset(np.array([3, 1, 2]))
    assert (len(view), view.counts) == (3, {"neg": 2, "pos": 1})
    assert view.labels.tolist() == [0, 0, 1]
    assert view.lengths.tolist() == [4, 4, 8]
    assert view.batch(np.array([0, 2])).rows.tolist() == [3, 2]
    inner = view.subset(np.array([2]))
    assert inner.batch(np.array([0])).rows.tolist() == [2]
    assert inner.label_names == ("neg", "pos")
    assert view.text_hashes.tolist() == store.text_hashes[[3, 1, 2]].tolist()
    view.release()


def test_relabel(data: Path, spec: TokenizerSpec) -> None:
    store = opened(data, spec)
    view = store.relabel(["pos", "other", "neg"])
    assert view.labels.tolist() == [0, 2, 0, 2]
    assert view.lengths is store.lengths
    assert view.label_names == ("pos", "other", "neg")
    assert view.counts == {"pos": 2, "other": 0, "neg": 2}
    assert view.batch(np.array([1])).labels.tolist() == [2]
    assert view.subset(np.array([1, 2])).relabel(["neg", "pos", "other"]).labels.tolist() == [0, 1]
    partly = store.relabel(["pos", "x"])
    assert partly.label_names == ("pos", "x", "neg")
    assert partly.labels.tolist() == [0, 2, 0, 2]
    with pytest.raises(DataError, match=r'"neg" \(2 rows\), "pos" .* "x", "y"'):
        store.relabel(["x", "y"])
    only_pos = store.subset(np.array([0, 2]))
    assert only_pos.relabel(["pos"]).labels.tolist() == [0, 0]


def test_second_open_reads_the_cache(
    data: Path, spec: TokenizerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(data, spec)
    monkeypatch.setattr(tokens, "build_tokens", None)
    again = opened(data, spec)
    assert again.folder == first.folder
    assert again.meta == first.meta
    copy = data.with_name("copy.csv")
    shutil.copy(data, copy)
    assert opened(copy, spec).folder == first.folder


def test_what_makes_another_cache(data: Path, spec: TokenizerSpec, tmp_path: Path) -> None:
    folders = [opened(data, spec).folder]
    folders.append(opened(data, TokenizerSpec(spec.path, 9, 0)).folder)
    folders.append(opened(data, spec, DataOptions(text=("text",))).folder)
    folders.append(
        opened(data, TokenizerSpec(make_tokenizer(tmp_path / "t.json", special=False), 8, 0)).folder
    )
    data.write_text(CONTENT + "bad,neg\n")
    folders.append(opened(data, spec).folder)
    assert len(set(folders)) == len(folders) == len(left_in(data))
    same = TokenizerSpec(spec.path, 8, 99)
    assert opened(data, same).folder == folders[-1]


def test_folders_are_cached_by_what_is_in_them(tmp_path: Path, spec: TokenizerSpec) -> None:
    root = tmp_path / "root"
    for label in ("pos", "neg"):
        (root / label).mkdir(parents=True)
        (root / label / "1.txt").write_text("film")
    first = opened(root, spec).folder
    assert opened(root, spec).folder == first
    (root / "pos" / "2.txt").write_text("good film")
    assert opened(root, spec).folder != first


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "tokens.bin").write_bytes(b""),
        lambda folder: (folder / "labels.bin").unlink(),
        lambda folder: (folder / "labels.bin").write_bytes(np.full(4, 7, dtype=np.int32).tobytes()),
        lambda folder: (folder / "labels.bin").write_bytes(np.full(4, -1, dtype=np.int32).tobytes()),
        lambda folder: (folder / "offsets.bin").write_bytes(bytes(40)),
        lambda folder: (folder / "meta.json").write_text("{"),
        lambda folder: (folder / "meta.json").write_text("[1]"),
        lambda folder: (folder / "meta.json").write_text("{}"),
        lambda folder: (folder / "meta.json").write_text(
            (folder / "meta.json").read_text().replace('"n_read": 4', '"n_read": "4"')
        ),
    ],
)
def test_a_damaged_cache_is_rebuilt(data: Path, spec: TokenizerSpec, damage: Any) -> None:
    folder = opened(data, spec).folder
    damage(folder)
    store = opened(data, spec)
    assert store.folder == folder
    assert store.labels.tolist() == [1, 0, 1, 0]
    assert store.batch(np.array([1])).tokens.tolist() == [2, 5, 6, 3]
    assert left_in(data) == [folder.name]


def test_bad_rows_up_to_the_allowed_share(data: Path, spec: TokenizerSpec) -> None:
    data.write_text(CONTENT + "too,many,columns\nno label,\n,pos\n" + "a,pos\n" * 3)
    with pytest.raises(DataError) as caught:
        opened(data, spec, max_bad_rows=0.22)
    said = str(caught.value)
    assert "2 of the 9 rows" in said
    assert "22.22%" in said
    assert "22.00%" in said
    assert f'(1 row, first: {data}:6 "too,many,columns")' in said
    assert f"(1 row, first: {data}:8" in said
    assert "no label" not in said
    assert "--max-bad-rows" in said
    assert left_in(data) == []
    store = opened(data, spec, max_bad_rows=0.23)
    assert (len(store), store.meta.n_bad, store.meta.n_unlabelled, store.meta.n_read) == (7, 2, 1, 10)
    lines = [json.loads(line) for line in store.bad_rows_file.read_text().splitlines()]
    assert [(line["line"], line["reason"]) for line in lines] == [
        (6, "wrong column count"),
        (7, "no label"),
        (8, "empty text"),
    ]
    with pytest.raises(DataError, match="2 of the 9 rows"):
        opened(data, spec, max_bad_rows=0.1)
    assert left_in(data) == [store.folder.name]


def test_bad_bytes_suggest_an_encoding(data: Path, spec: TokenizerSpec) -> None:
    data.write_bytes(CONTENT.encode() + b"a,pos\n" * 10 + b"caf\xe9,pos\n")
    with pytest.raises(DataError, match="--encoding cp1252"):
        opened(data, spec)


def test_rows_of_which_no_token_is_left(data: Path, tmp_path: Path) -> None:
    plain = Tokenizer(models.WordPiece({"[UNK]": 0, "film": 1}, unk_token="[UNK]"))
    plain.normalizer = normalizers.Replace("x", "")
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.save(str(tmp_path / "plain.json"))
    data.write_text("text,label\nxx,pos\nfilm,neg\nfilm film,pos\n")
    store = opened(data, TokenizerSpec(tmp_path / "plain.json", 8, 0), max_bad_rows=0.5)
    assert store.lengths.tolist() == [1, 2]
    assert store.meta.bad_reasons == {"no tokens": 1}
    assert store.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "is empty"),
        ("text,label\n", "has no rows"),
        ("text,label\n,a\n,b\n", r"no usable rows \(2 read\): empty text \(2 rows, first: "),
        ("text,label\na,pos\nb,pos\n", 'has the label "pos"; a classifier needs at least 2'),
    ],
)
def test_unusable_data(data: Path, spec: TokenizerSpec, content: str, match: str) -> None:
    data.write_text(content)
    with pytest.raises(DataError, match=match):
        opened(data, spec, max_bad_rows=1.0)


def test_a_single_class_may_be_allowed(data: Path, spec: TokenizerSpec) -> None:
    data.write_text("text,label\na,pos\nb,pos\n")
    assert opened(data, spec, min_classes=1).label_names == ("pos",)


def test_missing_file(data: Path, spec: TokenizerSpec) -> None:
    with pytest.raises(DataError, match=r"data\.csv"):
        opened(data.with_name("date.csv"), spec)
    with pytest.raises(DataError) as caught:  # alike in nothing but the extension
        opened(data.with_name("nofile.csv"), spec)
    assert "?" not in str(caught.value)


def test_too_many_labels(data: Path, spec: TokenizerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "MAX_LABELS", 3)
    data.write_text("text,label\n" + "".join(f"a,name {i}\n" for i in range(5)))
    with pytest.raises(DataError, match="more than 3 "):
        opened(data, spec)
    assert left_in(data) == []


@pytest.mark.parametrize("content", ["{", "", '{"model": {}}'])
def test_broken_tokenizer(data: Path, spec: TokenizerSpec, content: str) -> None:
    spec.path.write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        opened(data, spec)
    assert left_in(data) == []


def half_written(error: BaseException) -> Any:
    """Return a `TokenWriter.add` that writes its rows and then fails."""
    real = token_build.TokenWriter.add

    def add(self: Any, examples: Any) -> None:
        real(self, examples)
        raise error

    return add


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full(data: Path, spec: TokenizerSpec, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    error = OSError(code, os.strerror(code))
    monkeypatch.setattr(token_build.TokenWriter, "add", half_written(error))
    with pytest.raises(ResourceError, match=r"--cache-dir"):
        opened(data, spec)
    assert left_in(data) == []


def test_interrupt_leaves_nothing(data: Path, spec: TokenizerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_build.TokenWriter, "add", half_written(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        opened(data, spec)
    assert left_in(data) == []


def test_cache_folder_that_cannot_be_made(data: Path, spec: TokenizerSpec) -> None:
    with pytest.raises(ResourceError, match=r"--cache-dir"):
        open_tokens(str(data), DataOptions(), spec, data / "cache", 0.0)


def test_a_cache_finished_meanwhile_is_used(
    data: Path, spec: TokenizerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tokens.build_tokens

    def slow(*args: Any) -> Any:
        monkeypatch.setattr(tokens, "build_tokens", real)
        opened(data, spec)
        return real(*args)

    monkeypatch.setattr(tokens, "build_tokens", slow)
    store = opened(data, spec)
    assert len(store) == 4
    assert left_in(data) == [store.folder.name]


def test_what_a_killed_build_left_is_swept_up(data: Path, spec: TokenizerSpec) -> None:
    cache = data.parent / "cache" / "tokens"
    old, new = cache / ".building-old", cache / ".building-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 10**6,) * 2)
    opened(data, spec)
    assert not old.exists()
    assert new.exists()


def test_warnings(data: Path, spec: TokenizerSpec) -> None:
    assert warnings_of(opened(data, spec)) == [
        "1 row (25.0%) is a duplicate of an earlier row.",
        "1 text appears with conflicting labels.",
        'Labels with fewer than 10 rows: "neg" (2), "pos" (2).',
        "1 row (25.0%) was truncated to 8 tokens.",
    ]
    rows = [f"a {i:04},{'rare' if i < 10 else 'many'}" for i in range(120)]
    data.write_text("\n".join(["text,label", *rows]))
    assert warnings_of(opened(data, spec)) == [
        'The labels are strongly imbalanced: "many" has 110 rows, "rare" has 10.'
    ]
    data.write_text("\n".join(["text,label", *rows[:109]]))
    assert warnings_of(opened(data, spec)) == []


def test_overlap(data: Path, spec: TokenizerSpec) -> None:
    store = opened(data, spec)
    other = data.with_name("other.csv")
    other.write_text("text,label\n Good film ,a\nnew,b\nbad FILM,b\nbad film,a\n")
    evaluation = opened(other, spec)
    for rows, says in ([0, 1, 2, 3], "3 of 4 evaluation texts"), ([1], "2 of 4 evaluation texts"):
        (found,) = quality.overlap_findings(store.text_hashes[rows], evaluation.text_hashes)
        assert says in found.text
    assert quality.overlap_findings(store.text_hashes[:0], evaluation.text_hashes) == []


@pytest.mark.parametrize("limit", [4, 5, 7, 8, 20])
def test_a_cut_view_is_what_the_tokenizers_truncation_gives(
    limit: int, data: Path, spec: TokenizerSpec
) -> None:
    whole = opened(data, TokenizerSpec(spec.path, 64, 0))
    short = opened(data, TokenizerSpec(spec.path, limit, 0))
    rows = np.arange(len(whole))
    view = whole.relabel(["neg", "pos"]).cut(limit)
    cut, expected = view.batch(rows), short.relabel(["neg", "pos"]).batch(rows)
    assert cut.tokens.tolist() == expected.tokens.tolist()
    assert cut.offsets.tolist() == expected.offsets.tolist()
    assert cut.first_lengths.tolist() == expected.first_lengths.tolist()
    assert view.lengths.tolist() == short.lengths.tolist()
    assert view.longest == min(limit, whole.lengths.max())
    assert view.subset(rows[:2]).relabel(["pos", "neg"]).longest <= limit


def test_a_validation_part_of_the_same_file_is_evaluated_on(tmp_path: Path, spec: TokenizerSpec) -> None:
    rows = [{"text": text, "label": label} for text, label in (("good film", "pos"), ("bad film", "neg"))]
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"train": rows * 30, "validation": [*rows, *rows[:1]]}))
    config = make_config({"data": {"train": str(path)}})
    splits = open_splits(config, spec, tmp_path / "cache", (), lambda text: None)
    assert splits.evaluation.counts == {"neg": 1, "pos": 2}
    assert len(splits.train) + len(splits.held_out or ()) == 60
    assert "validation" in splits.eval_source
    assert "held out" not in splits.eval_source


def test_rows_read_loosely_are_a_warning(tmp_path: Path, spec: TokenizerSpec) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + '"good, film",pos\n"bad, film",neg\n' * 9 + '"a "b" c",pos\n')
    (said,) = [text for text in warnings_of(opened(path, spec)) if "--escape" in text]
    assert "1 row" in said
    assert "data.csv:20" in said


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "good film", "label": ["pos", "neg"]}, "--multi-label"),
        ({"text": "good film", "label": {"pos": 1, "neg": 1}}, "--multi-label"),
    ],
)
def test_several_labels_are_told_how_to_become_one(
    tmp_path: Path, spec: TokenizerSpec, row: dict[str, Any], says: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in [{"text": "a", "label": "pos"}] * 40 + [row]))
    with pytest.raises(DataError, match=says):
        opened(path, spec)


def test_a_separator_in_a_text_makes_no_pair() -> None:
    assert joined_text("a\x1fb") == "a b"
    assert joined_text(("a\x1fb", "c")).split(PAIR_SEPARATOR) == ["a b", "c"]
