"""CSV, TSV and the like: delimiter, quoting, header, encoding, and every way in which they are broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetune.data.examples import DataOptions, Example, read_examples
from edgetune.data.table import BadRow
from edgetune.utils.errors import DataError, UsageError

OPTIONS = DataOptions()


def load(
    tmp_path: Path, name: str, content: str | bytes, options: DataOptions = OPTIONS
) -> tuple[list[Example], list[BadRow]]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    bad: list[BadRow] = []
    return list(read_examples(str(path), options, bad.append)), bad


def pairs(examples: list[Example]) -> list[tuple[str, str]]:
    return [(example.text, example.label) for example in examples]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.data"])
def test_finds_the_delimiter_whatever_the_name(tmp_path: Path, name: str, delimiter: str) -> None:
    lines = ["text,label", *(f"row number {i} is fine,{i % 2}" for i in range(30))]
    examples, bad = load(tmp_path, name, "\n".join(lines).replace(",", delimiter))
    assert len(examples) == 30
    assert not bad
    assert examples[0] == Example(2, "row number 0 is fine", None, "0")


def test_commas_in_tab_separated_text_do_not_count(tmp_path: Path) -> None:
    examples, _ = load(tmp_path, "a.csv", "sentence\tlabel\nwell, yes\t1\nno\t0\noh, my, word\t1\n")
    assert pairs(examples) == [("well, yes", "1"), ("no", "0"), ("oh, my, word", "1")]


def test_stray_quotes_in_plain_tsv_keep_every_row(tmp_path: Path) -> None:
    rows = []
    for i in range(60):
        text = {0: f'" Number {i} opens', 1: f'"Force {i}" (the first), and "more"', 2: f'it is 5" {i}'}
        rows.append(f"{i}\tWho was number {i}?\t{text.get(i % 6, f'Nobody was {i}.')}\tclass_{i % 2}")
    content = "index\tquestion\tsentence\tlabel\n" + "\n".join(rows) + "\n"
    examples, bad = load(tmp_path, "a.tsv", content)
    assert len(examples) == 60
    assert not bad
    assert examples[0].text == 'Who was number 0? " Number 0 opens'
    assert examples[1].text.endswith('"Force 1" (the first), and "more"')
    assert [example.line for example in examples] == list(range(2, 62))


def test_quoted_tsv_is_unwrapped(tmp_path: Path) -> None:
    rows = [
        f'{i}\t{i}\t{i + 1}\t"What does ""number {i}"" mean?"\tIs it 6\' 2" tall?\t{i % 2}'
        if i % 5 == 0
        else f"{i}\t{i}\t{i + 1}\tWhat is {i}?\tAnd {i + 1}?\t{i % 2}"
        for i in range(40)
    ]
    content = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n" + "\n".join(rows)
    examples, bad = load(tmp_path, "a.tsv", content, DataOptions(pair=True))
    assert len(examples) == 40
    assert not bad
    assert examples[0] == Example(2, 'What does "number 0" mean?', "Is it 6' 2\" tall?", "0")


def test_quoted_csv_without_header(tmp_path: Path) -> None:
    content = "".join(f'"{i % 4 + 1}","Title {i}","Text, with ""words"" #39;{i}"\n' for i in range(30))
    examples, bad = load(tmp_path, "a.csv", content, DataOptions(text=("2", "3"), label="1"))
    assert len(examples) == 30
    assert not bad
    assert examples[4] == Example(5, 'Title 4 Text, with "words" #39;4', None, "1")


def test_nameless_columns_must_be_named_by_number(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'no header; .*"1" \(3\), "2" \(Wall\), "3" \(Short') as caught:
        load(tmp_path, "a.csv", '"3","Wall","Short sellers, here"\n"4","Race","Is on"\n')
    assert "--text" in str(caught.value)


def test_quoted_fields_may_have_line_breaks(tmp_path: Path) -> None:
    content = 'text,label\r\n"one,\r\ntwo\r\n\r\nthree",a\r\nplain,b\r\n"four ""4""\r\nfive",a\r\n\r\n\r\n'
    examples, bad = load(tmp_path, "a.csv", content)
    assert pairs(examples) == [("one,\ntwo\n\nthree", "a"), ("plain", "b"), ('four "4"\nfive', "a")]
    assert [example.line for example in examples] == [2, 6, 7]
    assert not bad


def test_a_quote_that_is_never_closed_costs_no_other_row(tmp_path: Path) -> None:
    good = [f'"A film, number {i}",{i % 2}' for i in range(50)]
    content = "\n".join(["text,label", *good[:25], '"Oh, no,1', *good[25:], '"last one,0'])
    examples, bad = load(tmp_path, "a.csv", content)
    assert len(examples) == 51
    assert [(row.line, row.reason) for row in bad] == [(27, "wrong column count")]
    assert examples[-1].text == '"last one'


def test_unescaped_inner_quotes_are_kept_as_text(tmp_path: Path) -> None:
    good = [f'"A film, number {i}",{i % 2}' for i in range(50)]
    examples, bad = load(tmp_path, "a.csv", "\n".join(["text,label", *good, '"He said "hi" to me",1']))
    assert len(examples) == 51
    assert not bad
    assert "hi" in examples[-1].text


def test_csv_with_many_unescaped_quotes_is_still_csv(tmp_path: Path) -> None:
    rows = [f'"A film, number {i}",{i % 2}' if i % 4 else f'"A "film" {i}",{i % 2}' for i in range(80)]
    examples, bad = load(tmp_path, "a.csv", "\n".join(["text,label", *rows]))
    assert len(examples) == 80
    assert not bad
    assert examples[1].text == "A film, number 1"


def test_blanks_before_quotes(tmp_path: Path) -> None:
    content = "label, text\n" + "".join(f'{i % 2}, "well, {i}"\n' for i in range(20))
    examples, bad = load(tmp_path, "a.csv", content)
    assert pairs(examples)[:2] == [("well, 0", "0"), ("well, 1", "1")]
    assert not bad


def test_wrong_column_count_is_a_bad_row(tmp_path: Path) -> None:
    examples, bad = load(tmp_path, "a.csv", "text,label\na,1\nb,c,2\nd\ne,3\n")
    assert pairs(examples) == [("a", "1"), ("e", "3")]
    assert [(row.line, row.reason, row.excerpt) for row in bad] == [
        (3, "wrong column count", "b,c,2"),
        (4, "wrong column count", "d"),
    ]
    assert bad[0].file == str(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("content", "n_rows"),
    [
        ("text,label\ngood,1\nbad,0\n", 2),  # usual names
        ("Comment Body,Verdict\n" + "fine,1\nbad,0\n" * 10, 20),  # words over numbers
        ("note,verdict\n" + "".join(f"note {i},{'yes' if i % 2 else 'no'}\n" for i in range(24)), 24),
        ("good film,1\nbad film,0\n", None),  # a number in the first row
        ("good film,yes\nbad film,no\n", None),  # too little to tell
        ("good film,pos\n" + "".join(f"film {i},{'pos' if i % 2 else 'neg'}\n" for i in range(24)), None),
        ("text\tlabel\n", 0),
        ("text,label\nthe label,label\nother,text\n", 2),  # usual names, though one comes again
    ],
)
def test_header_is_found_only_where_it_is_plain(tmp_path: Path, content: str, n_rows: int | None) -> None:
    options = DataOptions(text=("1",), label="2")
    examples, _ = load(tmp_path, "a.csv", content, options)
    assert len(examples) == (len(content.splitlines()) if n_rows is None else n_rows)


def test_header_by_the_users_word(tmp_path: Path) -> None:
    numbered = DataOptions(text=("1",), label="2", header=False)
    assert pairs(load(tmp_path, "a.csv", "Text,Urteil\ngood,1\n", numbered)[0])[0] == ("Text", "Urteil")
    named = DataOptions(text=("uno",), label="dos")
    assert pairs(load(tmp_path, "a.csv", "uno,dos\nx,y\nz,w\n", named)[0]) == [("x", "y"), ("z", "w")]
    forced = DataOptions(text=("2024",), label="2025", header=True)
    assert pairs(load(tmp_path, "a.csv", "2024,2025\nx,y\n", forced)[0]) == [("x", "y")]


def test_delimiter_by_the_users_word(tmp_path: Path) -> None:
    examples, _ = load(tmp_path, "a.csv", "text~label\na,b~1\n", DataOptions(delimiter="~"))
    assert pairs(examples) == [("a,b", "1")]
    examples, _ = load(tmp_path, "a.csv", "text\tlabel\na,b\t1\n", DataOptions(delimiter="tab"))
    assert pairs(examples) == [("a,b", "1")]
    with pytest.raises(UsageError, match="delimiter"):
        load(tmp_path, "a.csv", "text,label\na,1\n", DataOptions(delimiter="::"))


@pytest.mark.parametrize(
    "encoded",
    [
        b"\xef\xbb\xbftext,label\ncaf\xc3\xa9,1\n",
        "text,label\ncafé,1\n".encode("utf-16"),
        "\ufefftext,label\ncafé,1\n".encode("utf-32-le"),
    ],
)
def test_byte_order_marks(tmp_path: Path, encoded: bytes) -> None:
    assert pairs(load(tmp_path, "a.csv", encoded)[0]) == [("café", "1")]


def test_old_mac_line_ends(tmp_path: Path) -> None:
    assert pairs(load(tmp_path, "a.csv", "text,label\rgood,1\rbad,0\r")[0]) == [("good", "1"), ("bad", "0")]


def test_a_header_that_comes_again_is_no_row(tmp_path: Path) -> None:
    part = "text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(10))
    examples, bad = load(tmp_path, "a.csv", part + part)
    assert {example.label for example in examples} == {"0", "1"}
    assert len(examples) == 20
    assert [(row.line, row.reason) for row in bad] == [(12, "the header comes again")]


def test_a_quoted_text_that_goes_on_after_a_tab(tmp_path: Path) -> None:
    lines = (f'{i % 2}\t"From: {i}\n\tSubject: {i}"\n' for i in range(40))
    examples, bad = load(tmp_path, "a.tsv", "".join(lines), DataOptions(text=("2",), label="1"))
    assert not bad
    assert [example.text for example in examples] == [f"From: {i}\n\tSubject: {i}" for i in range(40)]


def test_odd_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    examples, _ = load(tmp_path, "a.tsv", "text\tlabel\na\u2028b\x0bc\x85d\t1\n")
    assert pairs(examples) == [("a\u2028b\x0bc\x85d", "1")]


def test_bad_bytes_are_bad_rows(tmp_path: Path) -> None:
    rows = [f"row {i},{i % 2}".encode() for i in range(30)]
    rows[7] = b"caf\xe9,1"
    examples, bad = load(tmp_path, "a.csv", b"text,label\n" + b"\n".join(rows))
    assert len(examples) == 29
    assert [(row.line, row.reason) for row in bad] == [(9, "bad bytes")]
    bad[0].excerpt.encode()


def test_another_encoding_is_suggested_and_used(tmp_path: Path) -> None:
    content = ("text,label\n" + "café,1\nnaïve,0\n" * 5).encode("latin-1")
    with pytest.raises(DataError, match=r"10 of the first 11 .*--encoding cp1252"):
        load(tmp_path, "a.csv", content)
    assert pairs(load(tmp_path, "a.csv", content, DataOptions(encoding="latin-1"))[0])[0] == ("café", "1")


@pytest.mark.parametrize("encoding", ["klingon", "hex", "a\x00b", ""])
def test_unknown_encoding(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(UsageError, match="encoding"):
        load(tmp_path, "a.csv", "text,label\na,1\n", DataOptions(encoding=encoding))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"\n \n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        ("\u2003\n".encode(), "is empty"),
        (b"PK\x03\x04 and so on", "Excel"),
        (b"PAR1 and so on", "Parquet"),
        (b"\x1f\x8b\x08 and so on", "add .gz"),
        (b"text,label\na\x00b,1\n", "zero bytes.*utf-16"),
    ],
)
def test_what_is_not_text(tmp_path: Path, content: bytes, match: str) -> None:
    with pytest.raises(DataError, match=match):
        load(tmp_path, "a.csv", content)


def loosely(tmp_path: Path, content: str, options: DataOptions = OPTIONS) -> tuple[list[Example], list[int]]:
    path = tmp_path / "loose.csv"
    path.write_text(content)
    loose: list[BadRow] = []
    examples = list(read_examples(str(path), options, pytest.fail, loose.append))
    return examples, [row.line for row in loose]


ESCAPED = 'the \\"new\\" one, yes'


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([f'"{ESCAPED}",a', "plain,b"], 'the "new" one, yes'),  # Spark
        ([f'"{ESCAPED}","a"', '"plain","b"'], 'the "new" one, yes'),  # MySQL, with enclosing quotes
        (['"ends in \\"quotes\\"",a', "plain,b"], 'ends in "quotes"'),
        (['"one\\"\ntwo, \\"",a', "plain,b"], 'one"\ntwo, "'),
        (['"C:\\new, \\\\srv \\"x\\"",a', "plain,b"], 'C:\\new, \\srv "x"'),
        (['"broken\\\nline \\"x\\"",a', "plain,b"], 'broken\nline "x"'),
        (["no quotes\\, but commas,a", "plain\\, too,b"], "no quotes, but commas"),
    ],
)
def test_backslashes_that_escape(tmp_path: Path, rows: list[str], expected: str) -> None:
    examples, loose = loosely(tmp_path, "\n".join(["text,label", *rows, *["fine,a", "good,b"] * 20]))
    assert examples[0].text == expected
    assert len(examples) == 42
    assert not loose


def test_one_escaped_row_among_many_quoted_ones(tmp_path: Path) -> None:
    rows = [f'"film, number {i}","{i % 2}"' for i in range(300)]
    rows[200] = f'"{ESCAPED}","1"'
    examples, loose = loosely(tmp_path, "\n".join(['"text","label"', *rows]))
    assert examples[200].text == 'the "new" one, yes'
    assert not loose


def test_backslashes_that_escape_nothing(tmp_path: Path) -> None:
    content = 'text,label\n"C:\\temp\\",a\n"say ""\\"" now",b\n' + '"x, y",a\n' * 20
    examples, _ = loosely(tmp_path, content)
    assert [example.text for example in examples[:2]] == ["C:\\temp\\", 'say "\\" now']
    examples, _ = loosely(tmp_path, "text,label\na\\b,x\nC:\\dir,y\n")
    assert [example.text for example in examples] == ["a\\b", "C:\\dir"]


def test_escapes_by_the_users_word(tmp_path: Path) -> None:
    content = 'text,label\n"a \\"b\\"",1\n\\N,0\n'
    bad: list[BadRow] = []
    path = tmp_path / "a.csv"
    path.write_text(content)
    forced = list(read_examples(str(path), DataOptions(escape=True), bad.append))
    assert pairs(forced) == [('a "b"', "1")]
    assert [(row.line, row.reason) for row in bad] == [(3, "empty text")]
    examples, _ = loosely(tmp_path, content, DataOptions(escape=False))
    assert examples[0].text != 'a "b"'


def test_rows_read_loosely_are_counted(tmp_path: Path) -> None:
    rows = [f'"A film, number {i}",{i % 2}' for i in range(50)]
    content = "\n".join(["text,label", *rows, '"He said "hi" to me",1', '"Never closed,0'])
    path = tmp_path / "a.csv"
    path.write_text(content)
    bad: list[BadRow] = []
    loose: list[BadRow] = []
    assert len(list(read_examples(str(path), OPTIONS, bad.append, loose.append))) == 52
    assert [(row.line, row.reason) for row in loose] == [(52, "stray quotes"), (53, "stray quotes")]
    assert not bad


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_quote_at_one_end_of_a_label_is_no_class(tmp_path: Path, name: str) -> None:
    rows = [*(f"text {i},{('yes', 'no')[i % 2]}" for i in range(20)), 'odd,no"', 'size,5"']
    content = "\n".join(["text,label", *rows]).replace(",", "," if name == "a.csv" else "\t")
    examples, bad = load(tmp_path, name, content)
    assert {example.label for example in examples} == {"yes", "no", '5"'}
    assert [(row.line, row.reason) for row in bad] == [(22, "label has a stray quote")]


def test_a_label_that_spans_lines_is_a_quoting_error(tmp_path: Path) -> None:
    content = 'text,label\ngood 5,"yes\nmaybe 5,no"\n' + "fine,yes\nbad,no\n" * 20
    examples, bad = load(tmp_path, "a.csv", content)
    assert {example.label for example in examples} == {"yes", "no"}
    assert [row.line for row in bad] == [2, 3]
    assert all("quote" in row.reason for row in bad)


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
@pytest.mark.parametrize("header", ["text;label\n", ""])
def test_a_declared_delimiter(tmp_path: Path, first: str, header: str) -> None:
    content = f"{first}\r\n{header}" + "one, two;x\r\nthree, four;y\r\n" * 10
    examples, bad = load(tmp_path, "a.csv", content, DataOptions(text=("1",), label="2"))
    assert pairs(examples)[:2] == [("one, two", "x"), ("three, four", "y")]
    assert len(examples) == 20
    assert examples[0].line == (3 if header else 2)
    assert not bad


def test_the_declared_delimiter_gives_way_to_the_users(tmp_path: Path) -> None:
    examples, _ = load(tmp_path, "a.csv", "sep=;\ntext|label\na;b|1\n", DataOptions(delimiter="|"))
    assert pairs(examples) == [("a;b", "1")]


@pytest.mark.parametrize(
    "above",
    [
        "# exported on 2026-11-01\n",
        "# exported on 2026-11-01, by hand\n# two\n\n",
        "# a, b, c, d\n",
        "Survey of spring\n\n",
    ],
)
def test_lines_above_the_header(tmp_path: Path, above: str) -> None:
    content = above + "text,label\n" + "good,1\nbad,0\n" * 3
    examples, bad = load(tmp_path, "a.csv", content)
    assert pairs(examples)[:2] == [("good", "1"), ("bad", "0")]
    assert examples[0].line == above.count("\n") + 2
    assert len(examples) == 6
    assert not bad


def test_hashes_that_begin_a_row(tmp_path: Path) -> None:
    content = "#love it,pos\n#hate it,neg\nplain,pos\n"
    examples, _ = load(tmp_path, "a.csv", content, DataOptions(text=("1",), label="2"))
    assert [example.text for example in examples] == ["#love it", "#hate it", "plain"]
    examples, _ = load(tmp_path, "b.csv", "text,label\n" + content)
    assert len(examples) == 3


@pytest.mark.parametrize(
    "below",
    [
        'How was it?,Which one?\n"{""ImportId"":""QID1""}","{""ImportId"":""QID2""}"\n',
        "Open-Ended Response,Response\n",
    ],
)
def test_a_survey_describes_its_columns_below_the_header(tmp_path: Path, below: str) -> None:
    content = "Q1,Q2\n" + below + "good,sales\nbad,support\n" * 10
    options = DataOptions(text=("Q1",), label="Q2")
    examples, bad = load(tmp_path, "a.csv", content, options)
    assert {example.label for example in examples} == {"sales", "support"}
    assert len(examples) == 20
    assert examples[0].line == below.count("\n") + 2
    assert not bad


BODY = "".join(f"film number {i},{'yes' if i % 2 else 'no'},because {i}\n" for i in range(24))


@pytest.mark.parametrize(
    "first",
    [
        "text,label,Please explain in your own words why you gave that answer",
        "text,label,label",
        "text,label,2023",
        "text,label,",
        "text,,label",
        "Text,text,LABEL",
        "film number 3,text,label",
    ],
)
def test_usual_names_in_the_first_row_make_it_a_header(tmp_path: Path, first: str) -> None:
    names = first.lower().split(",")
    options = DataOptions(text=("1",), label=str(names.index("label") + 1))
    examples, _ = load(tmp_path, "a.csv", first + "\n" + BODY, options)
    assert len(examples) == 24


@pytest.mark.parametrize("names", ["uno,dos,2023", "uno,dos,dos", "uno,dos,", f"uno,dos,{'why ' * 20}"])
def test_the_users_names_in_the_first_row_make_it_a_header(tmp_path: Path, names: str) -> None:
    examples, _ = load(tmp_path, "a.csv", f"{names}\nx,a,1\ny,b,2\n", DataOptions(text=("2",), label="uno"))
    assert [example.label for example in examples] == ["x", "y"]


def test_a_number_may_be_a_name(tmp_path: Path) -> None:
    content = "comment,2023\n" + "".join(f"comment {i},{i % 3}\n" for i in range(9))
    examples, _ = load(tmp_path, "a.csv", content, DataOptions(text=("1",), label="2023"))
    assert len(examples) == 9


def test_trailing_commas_and_a_second_index(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i},film {i},{'good' if i % 2 else 'bad'},,\n" for i in range(24))
    examples, bad = load(tmp_path, "a.csv", ",Unnamed: 0,v2,v1,,\n" + rows)
    assert len(examples) == 24
    assert {example.label for example in examples} == {"good", "bad"}
    assert not bad


@pytest.mark.parametrize("header", [None, False])
def test_a_header_is_never_a_class(tmp_path: Path, header: bool | None) -> None:
    content = "Bemerkung,label\n" + "".join(
        f"film {i},{'label' * (not i) or 'ab'[i % 2]}\n" for i in range(1, 24)
    )
    content = (
        content
        if header is False
        else content.replace(",label\n", ",Urteil des\n").replace("film 23,b", "film 23,c")
    )
    options = DataOptions(text=("1",), label="2", header=header)
    with pytest.raises(DataError, match="--no-header"):
        load(tmp_path, "a.csv", content, options)
    if header is None:
        few = "\n".join([*content.splitlines()[:8], ""])
        with pytest.raises(DataError, match="--header"):
            load(tmp_path, "few.csv", few, options)
        examples, _ = load(tmp_path, "a.csv", content, DataOptions(text=("1",), label="2", header=False))
        assert len(examples) == 24


def test_a_refused_column_says_how_to_declare_a_header(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--header"):
        load(tmp_path, "a.csv", "film,5\nbook,6\n", DataOptions(text=("body",)))


@pytest.mark.parametrize("title", ["My survey,,", "My survey,,\n,,\nof 2024,,", '"My survey, 2024",,\n'])
def test_a_title_of_a_sheet_is_above_the_header(tmp_path: Path, title: str) -> None:
    examples, bad = load(tmp_path, "a.csv", f"{title}\ntext,label,note\n{BODY}")
    assert len(examples) == 24
    assert not bad
