"""The browser that looks at the dashboard: Debian's Chromium, installed where there is none yet."""

import os
import shutil

from testbed.packages import program

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
PACKAGES = ("chromium", "fonts-dejavu-core")


def chromium() -> str:
    """The program's path; one may be named with TRUETAPE_TEST_CHROMIUM. Raises RuntimeError where it
    cannot be had."""
    given = os.environ.get("TRUETAPE_TEST_CHROMIUM") or shutil.which("chromium-browser")
    return given or program("chromium", *PACKAGES)
