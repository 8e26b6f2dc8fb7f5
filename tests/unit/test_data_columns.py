"""Which columns are text and label, and what is said when they cannot be found."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgetune.data.columns import Columns, choose_columns
from edgetune.utils.errors import UsageError


@pytest.mark.parametrize(
    ("names", "text", "label"),
    [
        (["text", "label"], (0,), 1),
        (["Sentence", "LABEL"], (0,), 1),
        (["index", "question", "sentence", "label"], (1, 2), 3),
        (["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], (3, 4), 5),
        (["premise", "hypothesis", "label"], (0, 1), 2),
        (["sentence2", "sentence1", "gold_label"], (1, 0), 2),
        (["label", "title", "content"], (1, 2), 0),
        (["Class Index", "Title", "Description"], (1, 2), 0),
        (["review", "sentiment"], (0,), 1),
        (["stars", "comment"], (1,), 0),
        (["category", "message"], (1,), 0),
        (["utterance", "intent"], (0,), 1),
    ],
)
def test_usual_names(names: Sequence[str], text: tuple[int, ...], label: int) -> None:
    assert choose_columns("f", names) == Columns(text, label)


def test_columns_by_name_and_number() -> None:
    names = ["a", "B", "3", "d"]
    assert choose_columns("f", names, ("b", "4"), "3") == Columns((1, 3), 2)
    assert choose_columns("f", names, ("3",), "1") == Columns((2,), 0)


def test_a_misspelt_column_is_answered_with_the_right_one() -> None:
    with pytest.raises(UsageError) as caught:
        choose_columns("f.csv", ["review_text", "stars"], ("reveiw_text",))
    said = str(caught.value)
    assert 'f.csv has no column "reveiw_text"' in said
    assert 'Did you mean --text "review_text"?' in said
    assert '"review_text", "stars"' in said


@pytest.mark.parametrize("number", ["0", "3", "-1", "²", "99999999999999"])
def test_numbers_out_of_range(number: str) -> None:
    with pytest.raises(UsageError, match="--label"):
        choose_columns("f", ["text", "b"], (), number)


def test_what_cannot_be_guessed() -> None:
    with pytest.raises(UsageError, match=r'the text; specify it with --text. Its columns are "a", "label"'):
        choose_columns("f", ["a", "label"])
    with pytest.raises(UsageError, match=r"the label; specify it with --label"):
        choose_columns("f", ["text", "b"])
    with pytest.raises(UsageError, match="cannot be both"):
        choose_columns("f", ["text", "label"], ("label",), "label")
    with pytest.raises(UsageError, match="and 180 more"):
        choose_columns("f", [f"c{i}" for i in range(200)])


def test_pairs_have_two_columns() -> None:
    assert choose_columns("f", ["a", "b", "label"], ("a", "b"), pair=True) == Columns((0, 1), 2)
    with pytest.raises(UsageError, match="needs two columns, not 1"):
        choose_columns("f", ["text", "label"], pair=True)


def test_without_label() -> None:
    assert choose_columns("f", ["body"], need_label=False) == Columns((0,), None)
    assert choose_columns("f", ["anything"], need_label=False) == Columns((0,), None)
