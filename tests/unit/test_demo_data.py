"""The demo file: the same for a seed, varied, and neither trivial nor hopeless."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from edgetune.data.demo import LABELS, demo_rows, demo_texts, write_demo


def test_a_seed_gives_the_same_bytes_on_every_machine(tmp_path: Path) -> None:
    path = tmp_path / "demo.csv"
    write_demo(path, n_rows=200, seed=7)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == "d7771dc5bf5dfc6b7a1ff06637b644ab513f5146261e4ce2fed9373fad0a896b"
    write_demo(path, n_rows=200, seed=8)
    assert hashlib.sha256(path.read_bytes()).hexdigest() != digest


def test_the_file_is_a_csv_of_text_and_label(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "demo.csv"
    write_demo(path, n_rows=300)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["text"], row["label"]) for row in rows] == demo_rows(300)
    assert [one.name for one in path.parent.iterdir()] == ["demo.csv"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(n_rows: int, seed: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("edgetune.data.demo.demo_rows", fail)
    with pytest.raises(OSError, match="disk full"):
        write_demo(tmp_path / "demo.csv")
    assert list(tmp_path.iterdir()) == []


def test_texts_differ_and_classes_are_balanced() -> None:
    rows = demo_rows(4000)
    assert len({text for text, _ in rows}) >= 3995
    counts = Counter(label for _, label in rows)
    assert set(counts) == set(LABELS)
    assert min(counts.values()) > 850
    words = [len(text.split()) for text, _ in rows]
    assert min(words) <= 8
    assert max(words) >= 45
    assert not any("{" in text or "}" in text for text, _ in rows)


def test_words_alone_help_but_do_not_settle_it() -> None:
    rows = demo_rows(4000)
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    counts = CountVectorizer()
    model = LogisticRegression(max_iter=1000).fit(counts.fit_transform(texts[:3200]), labels[:3200])
    assert 0.80 <= model.score(counts.transform(texts[3200:]), labels[3200:]) <= 0.92


def test_more_rows_than_the_grammar_likes_still_ends() -> None:
    assert len(demo_rows(0)) == 0
    assert len(demo_rows(1)) == 1


def test_example_texts_are_three_and_not_in_the_file() -> None:
    texts = demo_texts()
    assert len(texts) == 3
    assert not set(texts) & {text for text, _ in demo_rows(4000)}
