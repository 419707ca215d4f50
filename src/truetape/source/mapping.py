"""Names in the source where they differ from the convention: ``truetape.toml``, told line by line."""

import re
import reprlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from truetape.errors import UsageError

CONVENTION = {
    "order_book_trades": (
        ("id", "timestamp", "price", "quantity", "pool_id", "side", "transaction_id"),
        ("chain_id", "buyer", "seller", "maker", "taker", "trader", "user"),
    ),
    "pools": (("order_book", "coin"), ("chain_id", "base_decimals", "quote_decimals")),
    "trades": (
        ("id", "transaction_id", "pool_id", "order_id", "price", "quantity", "timestamp"),
        ("chain_id",),
    ),
    "orders": (("id", "user", "side"), ("chain_id",)),
    "_ponder_checkpoint": (("chain_id", "latest_checkpoint", "finalized_checkpoint"), ()),
    "_ponder_meta": (("key", "value"), ()),
}
"""Table → (columns that it must have, columns that are used when present)."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class Mapping:
    """What the file says. A name that it gives to one key is no other key's any more."""

    tables: dict[str, str] = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    path: Path = Path("truetape.toml")
    text: str = ""

    def table(self, name: str) -> str | None:
        """The table's name in the source; None where that name was given to another table."""
        return _name_of(name, self.tables)

    def column(self, table: str, name: str) -> str | None:
        """The column's name in the source; None where that name was given to another column."""
        return _name_of(name, self.columns.get(table, {}))

    @property
    def count(self) -> int:
        """How many names are mapped."""
        return len(self.tables) + sum(map(len, self.columns.values()))

    def speaks_of(self, table: str) -> Key | None:
        """A key with which the file asks for a table, by its name or by those of its columns."""
        if table in self.tables:
            return ("tables", table)
        return next((("columns", table, c) for c in self.columns.get(table, ())), None)

    def place(self, key: Key) -> str:
        """File and line of a key: ``truetape.toml, line 3``."""
        return f"{self.path}, line {_line(self.text, key)}"

    @classmethod
    def read(cls, path: Path) -> "Mapping":
        """``[tables]`` and ``[columns.<table>]`` of a TOML file; an absent file is an empty mapping.

        Raises UsageError with file, line, what is wrong and what may stand there.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
            document = tomllib.loads(text)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise UsageError(f"{path}, line {line}: is not UTF-8.") from error
        except tomllib.TOMLDecodeError as error:
            raise UsageError(_not_toml(path, text, str(error))) from error
        except (ValueError, RecursionError) as error:
            line = _line_that_is_too_much(text)
            raise UsageError(f"{path}, line {line}: is too long or too deep to be read.") from error
        mapping = cls(document.get("tables", {}), document.get("columns", {}), path, text)
        mapping._check(document)
        return mapping

    def _check(self, document: dict[str, Any]) -> None:
        for section in document:
            if section not in ("tables", "columns"):
                self._refuse((section,), f"unknown section {section!r}; there are [tables] and "
                             "[columns.<table>]")  # fmt: skip
        self._check_names(("tables",), self.tables, tuple(CONVENTION), "table")
        if not isinstance(self.columns, dict):
            self._refuse(("columns",), "columns are named by table: [columns.<table>]")
        for table, columns in self.columns.items():
            if table not in CONVENTION:
                self._refuse(("columns", table), _unknown("table", table, tuple(CONVENTION)))
            required, optional = CONVENTION[table]
            key = ("columns", table)
            self._check_names(key, columns, (*required, *optional), f"column of {table}")
            self._check_shared(key, columns, required)
        self._check_shared(("tables",), self.tables, ("order_book_trades",))

    def _check_names(self, key: Key, names: object, known: tuple[str, ...], what: str) -> None:
        if not isinstance(names, dict):
            self._refuse(key, f"[{'.'.join(key)}] must be a section with a line for each name")
        for name, value in names.items():
            if name not in known:
                self._refuse((*key, name), _unknown(what, name, known))
            if not isinstance(value, str) or not value:
                example = f'{name} = "its_name_in_the_source"'
                self._refuse((*key, name), f"{_shown(value)} is no name; write {example}")

    def _check_shared(self, key: Key, names: dict[str, str], needed: tuple[str, ...]) -> None:
        """One name cannot stand for two; nor for one that is needed and bears it by itself."""
        seen: dict[str, str] = {}
        for name, actual in names.items():
            if actual in seen:
                both = f"both {seen[actual]} and {name}"
                self._refuse((*key, name), f"{actual!r} cannot be {both}; give each its own")
            if actual != name and actual in needed and actual not in names:
                self._refuse((*key, name), f"{actual!r} is {name} here, so say as well what the "
                             f"source calls {actual}")  # fmt: skip
            seen[actual] = name

    def _refuse(self, key: Key, why: str) -> NoReturn:
        raise UsageError(f"{self.place(key)}: {why}.")


def _name_of(name: str, given: dict[str, str]) -> str | None:
    return given.get(name) or (None if name in given.values() else name)


def _unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    return f"unknown {what}: {name!r}; known are {', '.join(known)}"


def _line(text: str, key: Key) -> int:
    """The line with which a key is there, however it is written: as its section, dotted, inline."""
    lines = text.split("\n")
    for count in range(1, len(lines) + 1):
        try:
            found: Any = tomllib.loads("\n".join(lines[:count]))
        except (ValueError, RecursionError):
            continue  # in the midst of a value that goes on
        for part in key:
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            return count
    return len(lines)


def _line_that_is_too_much(text: str) -> int:
    """The line that Python refuses, though it may be TOML: a number or a nesting without end."""
    lines = text.split("\n")
    for count in range(1, len(lines) + 1):
        try:
            tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue
        except (ValueError, RecursionError):
            return count
    return len(lines)


def _shown(value: Any) -> str:
    """A wrong value, shortened: it may be anything."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python prints no number of more than 4300 digits.
        return "such a number"


def _not_toml(path: Path, text: str, why: str) -> str:
    told = re.search(r" \(at line (\d+), column \d+\)$", why)
    line = int(told[1]) if told else len(text.rstrip("\n").split("\n"))
    what = why.partition(" (at ")[0]
    return f'{path}, line {line}: is not TOML: {what}; write names as key = "name".'
