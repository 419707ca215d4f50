"""A wrong ``truetape.toml`` is one sentence: the file, the line, what is wrong, what may stand there."""

from pathlib import Path

import pytest

from truetape.errors import UsageError
from truetape.source import Mapping


def read(tmp_path: Path, text: str) -> Mapping:
    path = tmp_path / "truetape.toml"
    path.write_text(text, encoding="utf-8")
    return Mapping.read(path)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[tables]\n\ntraders = 'x'\n", 3, "unknown table: 'traders'; known are order_book_trades"),
        ("[tables]\norder_book_trades = 7\n", 2, "7 is no name"),
        ("[tables]\npools = ''\n", 2, "'' is no name; write pools ="),
        ("tables = 'x'\n", 1, "[tables] must be a section"),
        ("\ntables = false\n", 2, "[tables] must be a section"),
        ("columns = 3\n", 1, "[columns.<table>]"),
        ("[columns]\npools = 'x'\n", 2, "[columns.pools] must be a section"),
        ("[columns]\n[columns.fills]\nid = 'x'\n", 2, "unknown table: 'fills'"),
        ("[columns.pools]\ncoin = 'x'\nsymbol = 'y'\n", 3, "unknown column of pools: 'symbol'"),
        ("columns.pools.coin = 'x'\ncolumns.pools.name = 'y'\n", 2, "'name'"),
        ("columns.pools = { coin = 'x', name = 'y' }\n", 1, "'name'"),
        ("[columns.pools]\ncoin = ['x',\n 'y']\n", 3, "['x', 'y'] is no name"),
        ("[columns.pools]\r\ncoin = 1\r\n", 2, "1 is no name"),
        ("[names]\npools = 'x'\n", 1, "unknown section 'names'"),
        ("[tables]\npools = markets\n", 2, "is not TOML"),
        ("[tables]\npools = 'x'\npools = 'y'\n", 3, "is not TOML"),
        ("[tables]\npools = '''x\n", 2, "is not TOML"),
        ("[tables]\ntrades = 'x'\norders = 'x'\n", 3, "'x' cannot be both trades and orders"),
        ("[tables]\ntrades = 'order_book_trades'\n", 2, "what the source calls order_book_trades"),
        ("[columns.trades]\nprice = 'n'\n\nquantity = 'n'\n", 4, "both price and quantity"),
        ("[columns.trades]\nprice = 'quantity'\n", 2, "what the source calls quantity"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    sentence = str(caught.value)
    assert sentence.startswith(f"{tmp_path / 'truetape.toml'}, line {line}: ")
    assert says in sentence
    assert "\n" not in sentence


def test_bytes_that_are_no_text_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "truetape.toml"
    path.write_bytes(b"[tables]\npools = '\xff'\n")
    with pytest.raises(UsageError, match="line 2: is not UTF-8"):
        Mapping.read(path)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "truetape.toml").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        Mapping.read(tmp_path / "truetape.toml")


def test_without_a_file_all_names_are_the_convention(tmp_path: Path) -> None:
    names = Mapping.read(tmp_path / "truetape.toml")
    assert (names.table("pools"), names.column("pools", "coin")) == ("pools", "coin")
    assert names.count == 0


def test_names_may_be_swapped(tmp_path: Path) -> None:
    names = read(tmp_path, "[columns.trades]\nprice = 'quantity'\nquantity = 'price'\n")
    assert names.column("trades", "price") == "quantity"
    assert names.column("trades", "quantity") == "price"


def test_a_name_that_is_given_away_is_nobody_elses(tmp_path: Path) -> None:
    """Fills are looked for in "trades", unless the matches themselves stand there."""
    names = read(
        tmp_path,
        "[tables]\norder_book_trades = 'trades'\n[columns.order_book_trades]\nside = 'taker'\n",
    )
    assert names.table("trades") is None
    assert names.column("order_book_trades", "taker") is None
    assert names.column("order_book_trades", "maker") == "maker"
