"""Programs of Debian's that the tests run, installed where there are none yet and we may."""

import os
import shutil
import subprocess


def program(name: str, *packages: str) -> str:
    """The path of a program. Raises RuntimeError, in one sentence, where it cannot be had."""
    if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
        return found
    if os.getuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError(
            f"There is no {name}: install it (Debian: apt-get install {packages[0]})."
        )
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (("update",), ("install", "--yes", "--no-install-recommends", *packages)):
        done = subprocess.run(
            ["apt-get", "-qq", *command], env=quiet, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{packages[0]} cannot be installed: {done.stderr.strip()}")
    return program(name, *packages)
