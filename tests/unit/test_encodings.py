"""Which encoding is advised, and used with `auto`."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from edgetune.data.encodings import likely_encoding, resolve_encoding
from edgetune.data.examples import DataOptions, Example, open_texts, read_examples
from edgetune.utils.errors import DataError

SENTENCES = {
    "cp1252": ("Das kostet nur 5 €, und “schön” ist es auch", "Le reçu a été décidé à la française"),
    "cp1250": ("Příliš žluťoučký kůň úpěl ďábelské ódy", "Dobrý den, děkuji za zprávu"),
    "cp1251": ("Это очень хороший фильм", "Плохая доставка и сервис"),
    "koi8-r": ("Это очень хороший фильм", "Плохая доставка и сервис"),
    "cp1253": ("Πολύ καλή ταινία", "Κακή εξυπηρέτηση"),
    "cp1254": ("Çok güzel bir ürün, teşekkürler", "Kötü bir şey aldım, ısınıyor"),
    "gb18030": ("这部电影非常好看", "服务态度太差了"),
    "big5": ("這部電影非常好看", "服務態度太差了"),
    "euc-jp": ("この映画はとても面白いです", "配達が遅かった"),
    "cp949": ("이 영화는 정말 재미있어요", "배송이 너무 늦어요"),
    "utf-16-le": ("naïve film, then", "nothing to see"),
}
AUTO = DataOptions(encoding="auto")


def rows_in(encoding: str) -> bytes:
    good, bad = SENTENCES[encoding]
    return ("text\tlabel\n" + f"{good}\tgood\n{bad}\tbad\nplain words\tgood\n" * 20).encode(encoding)


def read(path: Path, options: DataOptions = AUTO) -> list[Example]:
    return list(read_examples(str(path), options, lambda row: pytest.fail(str(row))))


@pytest.mark.parametrize("encoding", SENTENCES)
def test_the_encoding_is_found_and_used(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(rows_in(encoding))
    assert likely_encoding(path.read_bytes()) == encoding
    assert tuple(example.text for example in read(path)[:2]) == SENTENCES[encoding]
    with pytest.raises(DataError, match=f"--encoding {encoding}"):
        read(path, DataOptions())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_says_itself_how_it_is_written(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(("text,label\n" + "naïve € film,good\n" * 9).encode(encoding))
    assert read(path)[0].text == "naïve € film"


def test_utf8_with_few_damaged_rows_stays_utf8() -> None:
    start = "naïve film\n".encode() * 50 + b"caf\xe9\n"
    assert likely_encoding(start) is None
    assert codecs.lookup(resolve_encoding("auto", start)).name == "utf-8-sig"
    assert likely_encoding("naïve".encode()[:3]) is None  # cut off within a character
    assert likely_encoding(b"plain") is None


def test_rows_that_cannot_be_decoded_are_advised_on(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(b"plain\n" * 20 + "5 € “only”\n".encode("cp1252"))
    with pytest.raises(DataError, match="--encoding cp1252"):
        list(open_texts(str(path), DataOptions()).rows)
    assert list(open_texts(str(path), AUTO).rows)[-1].text == "5 € “only”"


def test_a_folder_of_texts(tmp_path: Path) -> None:
    for number, text in enumerate(SENTENCES["cp1251"]):
        (tmp_path / f"label {number}").mkdir()
        (tmp_path / f"label {number}" / "1.txt").write_bytes(text.encode("cp1251"))
    assert tuple(example.text for example in read(tmp_path)) == SENTENCES["cp1251"]


SHORT = [
    ("cp932", "この映画は素晴らしい\nとても退屈だった"),
    ("cp932", "電池がすぐに切れました\n配送が早くて満足です\nもう買いません"),
    ("euc-jp", "商品の質が悪いです\n最高の接客でした"),
    ("cp949", "영화가 정말 재미있어요\n배송이 너무 늦었습니다"),
    ("cp949", "화면이 깨져서 왔어요 ㅋㅋㅋㅋ\n아주 만족합니다 ㅠㅠ"),
    ("gb18030", "服务态度很差\n价格便宜，质量也不错\n不会再买了"),
    ("big5", "這部電影非常好看\n電池一天就沒電了"),
    ("cp1251", "Отличный фильм\nБатарея села за день"),
    ("koi8-r", "Доставка была быстрой\nОчень плохое качество"),
    ("cp1252", "Der Akku hält nicht\nSehr schönes Gerät"),
    ("cp1252", "El envío llegó tarde\nMuy buena atención, volveré mañana"),
    ("cp1252", "Très déçu par la qualité\nLe café était excellent"),
    ("cp1250", "Bateria rozładowała się w jeden dzień\nŚwietny film, polecam każdemu"),
]


@pytest.mark.parametrize(("encoding", "text"), SHORT)
def test_two_lines_are_enough(encoding: str, text: str) -> None:
    found = likely_encoding(text.encode(encoding))
    assert found is not None
    assert text.encode(encoding).decode(found) == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "He shouted Привет, как дела? and left"),
        ("cp1251", "They call it перестройка here"),
        ("cp1253", "The word is φιλοσοφία, he said"),
    ],
)
def test_a_phrase_of_another_script_within_english_text(encoding: str, text: str) -> None:
    start = ("text,label\n" + "plain English words,good\n" * 30 + f"{text},bad\n").encode(encoding)
    assert likely_encoding(start) == encoding
