"""Nonsense in what an operator writes and in what anybody may put into Redis: told, or borne."""

import json
import os
import tempfile
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote

from hypothesis import example, given, settings
from hypothesis import strategies as st

from truetape.errors import UsageError
from truetape.settings import Settings
from truetape.source import Mapping

# -- settings --------------------------------------------------------------------------------------

OURS = sorted({row["name"] for row in Settings.load().shown()} | {"TIMESCALE_DATABASE_URL"})
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
ANY_TEXT = st.one_of(
    TEXT,
    st.sampled_from(["0", "-1", "1", "5", "1e400", "nan", "true", "::", "127.0.0.1", "0.0.0.0", "9" * 5000]),
    # As the system hands on bytes that are no UTF-8.
    st.binary(min_size=1, max_size=20).map(lambda b: b.replace(b"\0", b"x").decode("utf-8", "surrogateescape")),
)  # fmt: skip
SECRET = "hush"
PASSWORDS = st.builds("{}{}{}".format, st.text("ab1@:/?#[]%&=+ é℀", max_size=4), st.just(SECRET),
                      st.text("ab1@:/?#[]%&=+ é℀", max_size=4))  # fmt: skip
URLS = st.one_of(
    st.builds(
        "{}://{}:{}@{}{}".format, st.sampled_from(["postgresql", "postgres", "redis", "rediss", "http"]),
        st.sampled_from(["", "user", "us%20er"]), PASSWORDS | PASSWORDS.map(quote),
        st.sampled_from(["host", "host:1", "host:x", "[::1]:1", "[::", "h1:1,h2:2", ""]),
        st.sampled_from(["", "/", "/0", "/db", "/db?sslmode=require", "?db=1"]),
    ),
    st.builds("{}://host/0?password={}".format, st.sampled_from(["postgresql", "redis"]), PASSWORDS),
    st.builds("host=h password={}".format, PASSWORDS),
)  # fmt: skip


def said_of(values: dict[str, str]) -> str:
    """All that is said of settings, and it is one line if it is a refusal."""
    with patch.dict(os.environ, dict.fromkeys(OURS, "") | values):
        try:
            loaded = Settings.load()
        except UsageError as error:
            assert any(name in str(error) for name in values)
            assert len(str(error).splitlines()) == 1
            said = str(error)
        else:
            said = json.dumps(loaded.shown(), ensure_ascii=False)
    said.encode()
    return said


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(OURS), ANY_TEXT, min_size=1, max_size=4))
@example({"TRUETAPE_HOME": "/home/\udcff"})
def test_any_text_for_a_setting_is_taken_or_refused_by_name(values: dict[str, str]) -> None:
    said_of(values)


@settings(max_examples=600, deadline=None)
@given(name=st.sampled_from([n for n in OURS if n.endswith("_URL")]), url=URLS, other=ANY_TEXT)
@example(name="REDIS_URL", url="redis://user:hush/x@host:1", other="1")
@example(name="REDIS_URL", url="redis://user:1/hush@host", other="1")
@example(name="REDIS_URL", url="redis://user:[hush]@host", other="1")
@example(name="REDIS_URL", url="redis://host/0?password=a@hush", other="1")
@example(name="PONDER_DATABASE_URL", url="postgresql://user:a@hush@host/db", other="1")
@example(name="PONDER_DATABASE_URL", url="postgresql://user:1/hush@host/db", other="1")
@example(name="PONDER_DATABASE_URL", url="postgresql://user:a%hush@host/db", other="1")
def test_a_password_in_a_url_is_never_said(name: str, url: str, other: str) -> None:
    assert SECRET not in said_of({name: url})
    assert SECRET not in said_of({name: url, "SYNC_MAX_ATTEMPTS": other})


@settings(max_examples=200, deadline=None)
@given(token=st.builds("{}hush{}".format, ANY_TEXT, ANY_TEXT))
def test_a_token_is_never_said(token: str) -> None:
    assert SECRET not in said_of({"TRUETAPE_API_TOKEN": token})


# -- truetape.toml ---------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["tables", "columns", "order_book_trades", "pools", "trades", "orders", "_ponder_meta", "id",
     "price", "coin", "side", "user", "names", "x", "a b", "", "é", "a.b", "\n"]
)  # fmt: skip
KEYS = st.lists(WORDS.map(json.dumps) | st.sampled_from(["tables", "columns", "pools", "id", "a-1"]),
                min_size=1, max_size=4).map(".".join)  # fmt: skip
VALUES = st.recursive(
    st.one_of(
        WORDS.map(json.dumps),
        st.sampled_from(["7", "-1.5e3", "nan", "true", "1979-05-27", "1979-99-27", "07:32:00", "'''x", "'x",
                         '"\\ud800"', "0x1F", "1" * 5000, "markets", "'''a\nb'''"]),
        st.integers().map(str),
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda v: f"[{', '.join(v)}]")
    | st.lists(st.builds("{} = {}".format, KEYS, inner), max_size=3).map(lambda v: f"{{ {', '.join(v)} }}"),
    max_leaves=6,
)  # fmt: skip
LINES = st.one_of(
    st.builds("{} = {}".format, KEYS, VALUES),
    KEYS.map("[{}]".format),
    KEYS.map("[[{}]]".format),
    st.sampled_from(["", "# said", "[tables]", "[columns.pools]", "]", "=", "\r", "\ufeff", "\t[columns]"]),
)  # fmt: skip
DOCUMENTS = st.lists(LINES, max_size=12).map("\n".join).map(str.encode)


@settings(max_examples=800, deadline=None)
@given(st.one_of(st.binary(max_size=300), DOCUMENTS))
@example(b"x = " + b"[" * 5000)
@example(b"x = " + b"{a = " * 5000)
@example(b"[tables]\npools = " + b"1" * 5000)
@example(b"a." * 5000 + b"b = 1")
def test_any_mapping_is_read_or_refused_with_its_line(written: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truetape.toml"
        path.write_bytes(written)
        try:
            mapping = Mapping.read(path)
        except UsageError as error:
            sentence = str(error)
            assert sentence.startswith(f"{path}, line ")
            assert len(sentence.splitlines()) == 1
            sentence.encode()
            lines = written.count(b"\n") + written.count(b"\r") + 1
            assert 1 <= int(sentence.removeprefix(f"{path}, line ").partition(":")[0]) <= lines
        else:
            assert all(mapping.table(name) != "" for name in ("pools", "trades"))
