"""What an operator sees and does, in a real browser."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from proxy import Proxy
from served import Served
from test_sync import execute
from watching import WAIT_MS, Watched

from testbed.chromium import FLAGS, chromium

TOKEN = "a token for the tests"
POOLS = {"0x00000000000000000000000000000000000000aa": "WETH/USDC", "0xbb": "WBTC/USDC"}
WETH = next(iter(POOLS))

expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def exchange(source_url: str) -> str:
    """A source with two pools, four traders, and two hours of trades up to now."""
    execute(source_url, "ALTER TABLE order_book_trades ADD buyer text, ADD seller text")
    for pool, symbol in POOLS.items():
        execute(source_url, f"INSERT INTO pools VALUES ('{pool}', '{symbol}')")
        execute(
            source_url,
            f"INSERT INTO order_book_trades SELECT '{symbol}' || i, {int(time.time())} - i * 9, "
            f"2000 + (i * 37) % 90, 1 + i % 7, '{pool}', CASE WHEN i % 2 = 0 THEN 'Buy' ELSE 'Sell' END, "
            "'0x' || i, '0xt' || i % 4, '0xt' || (i + 1) % 4 FROM generate_series(1, 800) i",
        )
    return source_url


@pytest.fixture
def served(exchange: str, analytics_url: str, tmp_path: Path) -> Iterator[Served]:
    """Truetape on it, not started yet."""
    made = Served(
        tmp_path / "serve.log", PONDER_DATABASE_URL=exchange, ANALYTICS_DATABASE_URL=analytics_url,
        TRUETAPE_API_TOKEN=TOKEN,
    )  # fmt: skip
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end()


@pytest.fixture
def watched(browser: Browser, served: Served) -> Iterator[Watched]:
    """A page that said nothing on the console and asked nobody but us, when the test is over."""
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    made = Watched(page, served.here)
    page.on(
        "console", lambda m: made.said.append(m.text) if m.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda e: made.said.append(str(e)))
    page.on("request", lambda r: made.hosts.add(urlsplit(r.url).netloc))
    yield made
    context.close()
    assert made.hosts <= {urlsplit(served.here).netloc}
    assert made.faults() == []


def give_token(page: Page, token: str = TOKEN) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Go on").click()


def verdict(page: Page) -> str:
    return page.locator("#verdict").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_is_accessible_and_fits(scheme: str, served: Served, watched: Watched) -> None:
    served.start()
    served.until_complete()
    page = watched.page
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    for view, shows in (("", ".strip button"), ("market", "canvas"), ("traders", "tbody tr")):
        watched.open(view)
        expect(page.locator(shows).first).to_be_visible()
        expect(page.get_by_text("Asking")).to_have_count(0)
        for width, height in ((1360, 900), (390, 800), (2560, 1440)):
            page.set_viewport_size({"width": width, "height": height})
            watched.check_width()
        page.set_viewport_size({"width": 1360, "height": 900})
        watched.check_access()


def test_it_is_used_by_keyboard(served: Served, watched: Watched) -> None:
    served.start()
    served.until_complete()
    page = watched.open()
    expect(page.locator(".strip button").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    cell = page.locator(".strip button[data-cell=synced], .strip button[data-cell=proven]").first
    cell.focus()
    expect(page.locator(".told")).to_contain_text("source")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="All history")).to_be_visible()
    page.get_by_role("link", name="Market").press("Enter")
    expect(page.locator("canvas").first).to_be_visible()


def test_an_outage_from_healthy_to_red_to_healthy(
    served: Served, watched: Watched, exchange: str
) -> None:
    watched.may_be_cut_off = True
    served.start()
    served.until_complete()
    page = watched.open()
    expect(page.locator("#verdict")).to_have_attribute("data-status", "healthy")
    expect(page.locator(".strip button").first).to_be_visible()
    cells = page.locator(".strip button").count()
    served.end()
    expect(page.locator("#verdict")).to_have_attribute("data-status", "unknown")
    expect(page.locator("#verdict")).to_contain_text("the last that was known")
    assert page.locator(".strip button").count() == cells, "the last picture is kept"
    served.settings |= {
        "SYNC_FOLLOW": "false", "SYNC_HEALTHY_LAG_MINUTES": "0.02",
        "SYNC_WARNING_LAG_MINUTES": "0.05", "SYNC_CRITICAL_LAG_MINUTES": "0.1",
    }  # fmt: skip
    missed(exchange, 40)
    served.start()
    expect(page.locator("#verdict")).to_have_attribute("data-status", "unhealthy")
    expect(page.locator("#verdict")).to_contain_text("40 trades missing")
    expect(page.locator(".big")).to_have_text("Behind")
    expect(page.get_by_label("Minutes behind").locator("polyline")).to_have_count(2)
    expect(page.locator(".strip button[data-cell=missing]").first).to_be_visible()
    page.get_by_role("button", name="Sync", exact=True).click()
    give_token(page, "a wrong one")
    expect(page.locator("#token-fault")).to_have_text("This token was refused.")
    give_token(page)
    expect(page.locator("#verdict")).to_have_attribute("data-status", "healthy")
    expect(page.locator(".strip button[data-cell=missing]")).to_have_count(0)
    assert execute(
        served.settings["ANALYTICS_DATABASE_URL"], "SELECT count(*) FROM analytics.trades"
    ) == [(1640,)]


def missed(exchange: str, trades: int) -> None:
    """Trades from twenty to ten minutes ago, beside those that stand there."""
    execute(
        exchange,
        f"INSERT INTO order_book_trades SELECT 'late' || i, {int(time.time())} - 1200 + i * 15, 2000, 1, "
        f"'{WETH}', 'Buy', '0x', '0xt1', '0xt2' FROM generate_series(1, {trades}) i",
    )


def test_a_trade_that_was_set_aside_is_retried(
    served: Served, watched: Watched, exchange: str
) -> None:
    served.settings["SYNC_FOLLOW"] = "false"
    execute(
        exchange,
        "UPDATE order_book_trades SET price = 'NaN' WHERE id IN ('WETH/USDC7', 'WETH/USDC9')",
    )
    served.start()
    page = watched.open()
    page.get_by_role("button", name="Sync", exact=True).click()
    give_token(page)
    row = page.get_by_role("row").filter(has_text="WETH/USDC7")
    expect(row).to_contain_text("price is NaN")
    execute(exchange, "UPDATE order_book_trades SET price = 2000 WHERE id = 'WETH/USDC7'")
    row.get_by_role("button", name="Retry").click()
    expect(row).to_have_count(0)
    execute(exchange, "UPDATE order_book_trades SET price = 2000 WHERE id = 'WETH/USDC9'")
    page.get_by_role("button", name="Retry all").click()
    expect(page.get_by_text("Nothing is set aside.")).to_be_visible()
    watched.check_access()


def test_force_tells_what_it_would_do_first_and_verify_proves(
    served: Served, watched: Watched
) -> None:
    served.start()
    served.until_complete()
    analytics = served.settings["ANALYTICS_DATABASE_URL"]
    page = watched.open()
    asked: list[str] = []
    answers = [False, True]

    def answer(dialog) -> None:  # type: ignore[no-untyped-def]
        asked.append(dialog.message)
        dialog.accept() if answers[len(asked) - 1] else dialog.dismiss()

    page.on("dialog", answer)
    page.get_by_role("button", name="Force").click()
    expect(page.get_by_role("alert").first).to_have_text("Say from when (UTC).")
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 3600))
    page.get_by_label("From (UTC)").fill(since)
    page.get_by_role("button", name="Force").click()
    page.get_by_role("button", name="Cancel").last.click()
    expect(page.get_by_role("alert").first).to_have_text("Nothing was done: no token was given.")
    page.get_by_role("button", name="Force").click()
    give_token(page)
    expect(page.get_by_role("button", name="Force")).to_be_enabled()
    assert re.fullmatch(
        r"Process (79|80)\d trades again and rebuild [\d,]+ buckets, in about \d+ s\?", asked[0]
    )
    forces = "SELECT count(*) FROM analytics.runs WHERE kind = 'force'"
    assert execute(analytics, forces) == [(0,)], "declined"
    page.get_by_role("button", name="Force").click()
    run = page.get_by_role("row").filter(has_text="force")
    expect(run).to_contain_text("succeeded")
    assert len(asked) == 2
    page.get_by_role("button", name="Verify").click()
    expect(page.locator(".told")).to_contain_text("Proven: 1,600 trades")
    expect(page.locator(".strip button[data-cell=proven]").first).to_be_visible()


def test_a_correction_arrives_and_is_marked(
    served: Served, watched: Watched, exchange: str
) -> None:
    served.start()
    served.until_complete()
    page = watched.open("market")
    page.get_by_role("button", name="WETH/USDC").click()
    expect(page.get_by_text("None since this page is open.")).to_be_visible()
    expect(page.locator("td").filter(has_text="0xt1").first).to_be_visible()
    execute(exchange, "UPDATE order_book_trades SET price = 7777 WHERE id = 'WETH/USDC20'")
    corrected = page.locator("tr.corrected").filter(has_text="→ 7 777")
    expect(corrected.first).to_contain_text("high")
    page.get_by_label("Interval").select_option("1m")
    expect(page.get_by_text("1m", exact=False).first).to_be_visible()
    expect(page.locator("section h2").first).to_have_text("WETH/USDC · 1m")
    execute(
        exchange,
        f"INSERT INTO order_book_trades VALUES ('live', {int(time.time())}, 4242, 1, '{WETH}', 'Buy', '0x', "
        "'0xt1', '0xt2')",
    )
    expect(page.locator("td").filter(has_text="4 242").first).to_be_visible()


def test_the_trader_page_is_one_click_away(served: Served, watched: Watched) -> None:
    served.start()
    served.until_complete()
    page = watched.open("traders")
    page.get_by_label("Period").select_option("all")
    page.get_by_label("By").select_option("trades")
    page.get_by_role("link", name="0xt1").click()
    expect(page.locator("code")).to_have_text("0xt1")
    expect(page.get_by_text("rank by USDC")).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(100)
    watched.check_access()


def test_there_is_nothing_yet(served: Served, watched: Watched, exchange: str) -> None:
    execute(exchange, "TRUNCATE order_book_trades, pools")
    served.start()
    page = watched.open()
    expect(page.get_by_text("There are no trades yet.")).to_be_visible()
    watched.check_access()
    watched.open("market")
    expect(page.get_by_text("There are no pools yet.")).to_be_visible()
    watched.check_access()
    watched.open("traders")
    expect(page.get_by_text("Asking")).to_have_count(0)
    watched.check_access()


def test_every_call_is_told_by_a_page_of_ours(served: Served, watched: Watched) -> None:
    served.start()
    page = watched.page
    page.goto(f"{served.here}/docs")
    expect(page.get_by_text("/api/sync/verify")).to_be_visible()
    page.get_by_text("/api/market/symbols").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.get_by_text("WETH/USDC").first).to_be_visible()


def test_a_database_that_is_down_is_said_and_the_last_picture_stays(
    served: Served, watched: Watched
) -> None:
    watched.may_be_cut_off = True
    with Proxy(served.settings["ANALYTICS_DATABASE_URL"]) as between:
        served.settings["ANALYTICS_DATABASE_URL"] = between.url
        served.start()
        served.until_complete()
        page = watched.open()
        expect(page.locator(".strip button").first).to_be_visible()
        between.freeze()
        expect(page.locator("#verdict")).to_have_attribute("data-status", "unknown")
        expect(page.locator("#verdict")).to_contain_text("analytics database")
        expect(page.locator("main")).to_have_class("stale")
        expect(page.locator(".strip button").first).to_be_visible()
        between.thaw()
        expect(page.locator("#verdict")).to_have_attribute("data-status", "healthy")
        expect(page.locator("main")).not_to_have_class("stale")
        served.end()
