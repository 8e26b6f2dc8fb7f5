"""Which columns are text and label, and what is said when they cannot be found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from edgetune.data.columns import Columns, find_columns
from edgetune.data.table import DataOptions, Table
from edgetune.utils.errors import UsageError


def choose_columns(
    file: str,
    names: Sequence[str],
    text: tuple[str, ...] = (),
    label: str | None = None,
    pair: bool = False,
    need_label: bool = True,
    sample: Callable[[], Sequence[Sequence[Any]]] = lambda: (),
) -> Columns:
    def read(columns: Sequence[int]) -> Any:
        return enumerate([row[i] for i in columns] for row in sample())

    table = Table(file, tuple(names), True, (), read)
    return find_columns(table, DataOptions(text=text, label=label, pair=pair), need_label)


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
    assert '--text "review_text"' in said
    assert '"review_text", "stars"' in said


@pytest.mark.parametrize("number", ["0", "3", "-1", "²", "99999999999999"])
def test_numbers_out_of_range(number: str) -> None:
    with pytest.raises(UsageError, match="--label"):
        choose_columns("f", ["text", "b"], (), number)


def test_what_cannot_be_guessed() -> None:
    with pytest.raises(UsageError, match=r'--text.* "a", "label"'):
        choose_columns("f", ["a", "label"])
    with pytest.raises(UsageError, match=r"--label"):
        choose_columns("f", ["text", "b"])
    with pytest.raises(UsageError, match="both"):
        choose_columns("f", ["text", "label"], ("label",), "label")
    with pytest.raises(UsageError, match="and 180 more"):
        choose_columns("f", [f"c{i}" for i in range(200)])


def test_pairs_have_two_columns() -> None:
    assert choose_columns("f", ["a", "b", "label"], ("a", "b"), pair=True) == Columns((0, 1), 2)
    with pytest.raises(UsageError, match="two columns"):
        choose_columns("f", ["text", "label"], pair=True)


def test_without_label() -> None:
    assert choose_columns("f", ["body"], need_label=False) == Columns((0,), None)
    assert choose_columns("f", ["anything"], need_label=False) == Columns((0,), None)


TICKETS = [(i, f"the printer on floor {i} is broken", "AB"[i % 2], i / 7) for i in range(30)]


def sampled(*columns: int) -> list[list[object]]:
    return [[row[i] for i in columns] for row in TICKETS]


@pytest.mark.parametrize(
    ("names", "text", "label"),
    [
        (["text", "type"], (0,), 1),
        (["message", "spam"], (0,), 1),
        (["message", "is_spam"], (0,), 1),
        (["stars", "feedback"], (1,), 0),
        (["v1", "v2", "", ""], (1,), 0),
        (["Class Index", "Title", "Description"], (1, 2), 0),
    ],
)
def test_more_usual_names_are_no_guess(names: Sequence[str], text: tuple[int, ...], label: int) -> None:
    assert choose_columns("f", names) == Columns(text, label)


def test_the_last_word_of_a_name_counts() -> None:
    assert choose_columns("f", ["Customer message", "Ticket type"]) == Columns((0,), 1, guessed=True)
    assert choose_columns("f", ["message id", "customer_message", "type"]) == Columns((1,), 2, guessed=True)
    with pytest.raises(UsageError, match="--text"):
        choose_columns("f", ["customer message", "agent message", "type"])


def test_columns_are_told_apart_by_what_they_hold() -> None:
    both = choose_columns("f", ["was", "wie"], sample=lambda: sampled(1, 2))
    assert both == Columns((0,), 1, guessed=True)
    with_numbers = choose_columns("f", ["nr", "was", "wie", "x"], sample=lambda: sampled(0, 1, 2, 3))
    assert with_numbers == Columns((1,), 2, guessed=True)
    words = [[f"name{i}", "mf"[i % 2]] for i in range(30)]
    assert choose_columns("f", ["1", "2"], sample=lambda: words) == Columns((0,), 1, guessed=True)
    texts_alone = choose_columns("f", ["nr", "was"], need_label=False, sample=lambda: sampled(0, 1))
    assert texts_alone == Columns((1,), None, guessed=True)


@pytest.mark.parametrize("columns", [(0, 1), (1, 3), (1, 2, 2), (1, 1, 2), (0, 3)])
def test_the_user_is_asked_where_no_column_would_do_or_several(columns: tuple[int, ...]) -> None:
    names = [f"c{i}" for i in range(len(columns))]
    with pytest.raises(UsageError, match=r"--(text|label)"):
        choose_columns("f", names, sample=lambda: sampled(*columns))


def test_few_rows_tell_nothing() -> None:
    with pytest.raises(UsageError, match=r"--(text|label)"):
        choose_columns("f", ["was", "wie"], sample=lambda: sampled(1, 2)[:5])


def test_a_name_that_two_columns_have() -> None:
    with pytest.raises(UsageError, match=r'2 columns named "label".*2, 3'):
        choose_columns("f", ["text", "label", "label"], (), "label")
    assert choose_columns("f", ["text", "label", "label"], (), "3") == Columns((0,), 2)
