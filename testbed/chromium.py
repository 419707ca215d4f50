"""The browser that looks at the dashboard: Debian's Chromium, installed where there is none yet."""

import os
import shutil
import subprocess

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
PACKAGES = ("chromium", "fonts-dejavu-core")


def chromium() -> str:
    """The program's path. Raises RuntimeError where it cannot be had."""
    given = os.environ.get("TRUETAPE_TEST_CHROMIUM")
    found = given or shutil.which("chromium") or shutil.which("chromium-browser")
    if found:
        return found
    if os.getuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError(
            "There is no Chromium: install it (Debian: apt-get install chromium), or name one with "
            "TRUETAPE_TEST_CHROMIUM."
        )
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (("update",), ("install", "--yes", "--no-install-recommends", *PACKAGES)):
        done = subprocess.run(
            ["apt-get", "-qq", *command], env=quiet, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"Chromium cannot be installed: {done.stderr.strip()}")
    return "/usr/bin/chromium"
