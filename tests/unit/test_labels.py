"""Labels: one normal form however they were read, their order, and spellings of one label."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from test_data_tokens import make_tokenizer

from edgetune.data.examples import DataOptions, read_examples
from edgetune.data.labels import find_labels, label_order, merged_spelling, normal_label
from edgetune.data.table import BadRow
from edgetune.data.token_format import TokenizerSpec
from edgetune.data.tokens import open_tokens
from edgetune.utils.errors import DataError


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["1", "1.0", " 1", "+1", "1.", 1, 1.0, Decimal("1.00")], "1"),
        (["0", "-0", "0.0", -0.0], "0"),
        (["0.50", ".5", 0.5], "0.5"),
        (["true", "True", "TRUE", True], "true"),
        (["billing", "billing ", "\ufeffbilling", "bill\u200bing", "bil\u00adling", b"billing"], "billing"),
        (["caf\u00e9", "cafe\u0301"], "café"),
        (["new york", "new\u00a0york", "new  york"], "new york"),
        (["", " ", "\u200b", "nan", "NaN", "None", "N/A", "null", "<NA>", None, float("nan")], None),
    ],
)
def test_one_label_written_in_several_ways(written: list[object], expected: str | None) -> None:
    assert {normal_label(value) for value in written} == {expected}


@pytest.mark.parametrize(
    "label", ["01", "1e5", "none", "NONE", "C++", "👩\u200d💻", "🏴\U000e0067\U000e007f", "1.2.3"]
)
def test_what_stays_as_it_is(label: str) -> None:
    assert normal_label(label) == label


def test_numbers_are_ordered_as_numbers() -> None:
    assert label_order(["10", "2.5", "-1", "0.5"]) == ["-1", "0.5", "2.5", "10"]
    assert label_order(["b", "10", "9"]) == ["10", "9", "b"]


def test_spellings_of_one_label() -> None:
    counts = {
        "billing": 20,
        "Billing": 40,
        "billing.": 3,
        "not_spam": 2,
        "Not spam": 1,
        "C": 5,
        "C++": 5,
        "1": 2,
        "-1": 3,
    }
    assert merged_spelling(counts) == {
        **dict.fromkeys(("billing", "Billing", "billing."), "Billing"),
        **dict.fromkeys(("not_spam", "Not spam"), "not_spam"),
    }


def test_labels_of_a_model_that_were_written_otherwise() -> None:
    assert find_labels(["true", "1", "x"], ["True", "1.0", "y"]) == {"true": 0, "1": 1}
    assert find_labels(["billing"], ["Billing"]) == {}
    assert find_labels(["billing"], ["Billing"], merge=True) == {"billing": 0}


@pytest.fixture
def spec(tmp_path: Path) -> TokenizerSpec:
    return TokenizerSpec(make_tokenizer(tmp_path / "tokenizer.json"), max_length=8, pad_id=0)


def rows(tmp_path: Path, *labels: str, name: str = "rows.csv") -> str:
    path = tmp_path / name
    path.write_text("text,label\n" + "".join(f"film {i},{label}\n" for i, label in enumerate(labels)))
    return str(path)


def test_csv_and_parquet_of_one_frame_have_the_same_labels(tmp_path: Path, spec: TokenizerSpec) -> None:
    trained = open_tokens(rows(tmp_path, "0.0", "1.0", "True"), DataOptions(), spec, tmp_path / "cache", 0.0)
    table = pa.table({"text": ["a", "b"], "label": [0, 1]})
    pa.parquet.write_table(table, tmp_path / "rows.parquet")
    asked = open_tokens(str(tmp_path / "rows.parquet"), DataOptions(), spec, tmp_path / "cache", 0.0)
    assert asked.relabel(trained.label_names).labels.tolist() == [0, 1]


def test_rows_without_a_label_are_counted_and_listed_and_are_not_bad(
    tmp_path: Path, spec: TokenizerSpec
) -> None:
    path = rows(tmp_path, *"ab" * 5, "nan", "None", "N/A", "null", "-", "")
    store = open_tokens(path, DataOptions(), spec, tmp_path / "cache", 0.0)
    assert store.counts == {"a": 5, "b": 5}
    assert (store.meta.n_bad, store.meta.n_unlabelled) == (0, 6)
    assert store.bad_rows_file.read_text().count('"no label"') == 6


def test_a_dash_beside_a_plus_is_a_label(tmp_path: Path) -> None:
    path = rows(tmp_path, "-", "+", "-", "")
    bad: list[BadRow] = []
    assert [example.label for example in read_examples(path, DataOptions(), bad.append)] == ["-", "+", "-"]
    assert [row.reason for row in bad] == ["no label"]


def test_a_text_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\nnan,a\nNaN,b\nfine,a\n")
    bad: list[BadRow] = []
    assert [example.text for example in read_examples(str(path), DataOptions(), bad.append)] == ["fine"]
    assert [row.reason for row in bad] == ["empty text"] * 2


def test_labels_that_differ_in_case_are_told_and_merged(tmp_path: Path, spec: TokenizerSpec) -> None:
    path = rows(tmp_path, *["Billing", "Billing", "other", "billing", "billing.", "other"])
    cache, merging = tmp_path / "cache", DataOptions(merge_labels=True)
    findings = open_tokens(path, DataOptions(), spec, cache, 0.0).findings()
    (told,) = [finding.text for finding in findings if "--merge" in finding.text]
    assert '"Billing" (2), "billing" (1), "billing." (1)' in told
    merged = open_tokens(path, merging, spec, cache, 0.0)
    assert merged.counts == {"Billing": 4, "other": 2}
    other = open_tokens(rows(tmp_path, "BILLING", "other", name="dev.csv"), merging, spec, cache, 0.0)
    assert other.relabel(merged.label_names, merge=True).counts == {"Billing": 1, "other": 1}
    assert other.relabel(merged.label_names).label_names == ("Billing", "other", "BILLING")
    with pytest.raises(DataError, match="--merge-labels"):
        open_tokens(rows(tmp_path, "BILLING"), merging, spec, cache, 0.0, min_classes=1).relabel(
            merged.label_names
        )


def test_a_header_that_comes_again_is_not_bad(tmp_path: Path, spec: TokenizerSpec) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "good,1\nbad,0\n" * 5 + "text,label\n" + "good,1\nbad,0\n" * 5)
    store = open_tokens(str(path), DataOptions(), spec, tmp_path / "cache", 0.0)
    assert (len(store), store.meta.n_bad, store.meta.n_unlabelled) == (20, 0, 1)
