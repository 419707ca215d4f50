"""A page in a real browser, and all that it said and asked for."""

from dataclasses import dataclass, field

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

WAIT_MS = 20_000


@dataclass
class Watched:
    """A page, and all that it said and asked for."""

    page: Page
    here: str
    said: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    may_be_cut_off: bool = False
    """Whether a request may fail: the browser says so by itself."""

    def open(self, view: str = "") -> Page:
        self.page.goto(f"{self.here}/#/{view}")
        return self.page

    def check_access(self) -> None:
        """Nothing that axe finds fault with."""
        found = Axe().run(self.page).response["violations"]
        told = [(v["id"], v["impact"], [n["html"][:160] for n in v["nodes"]][:3]) for v in found]
        assert told == []

    def check_width(self) -> None:
        """Nothing is wider than the screen."""
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.page.evaluate(wide) <= 0

    def faults(self) -> list[str]:
        browser_says = [
            "401 (Unauthorized)"
        ]  # of each call for which the page then asks for the token
        if self.may_be_cut_off:
            browser_says += ["Failed to load resource", "net::ERR_"]
        return [s for s in self.said if not any(b in s for b in browser_says)]
