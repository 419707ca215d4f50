"""Figures as a table for people, and as JSON from which the pictures are drawn."""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.plots import BENCHMARKS, draw


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def lines(figures: dict[str, Any], prefix: str = "") -> list[str]:
    """The figures as a table; series of samples are left to the pictures."""
    made: list[str] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            made += lines(value, f"{prefix}{name} ")
        elif not isinstance(value, list):
            made.append(f"{prefix + name:44} {value}")
    return made


def save(figures: dict[str, Any], path: Path) -> None:
    """A series stands on one line, so that the rest can be read."""
    text = re.sub(
        r"\[([^\[\]{}]*)\]",
        lambda series: f"[{' '.join(series[1].split())}]",
        json.dumps(figures, indent=2),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def run(
    name: str,
    parser: argparse.ArgumentParser,
    measure: Callable[[Path, argparse.Namespace], dict[str, Any]],
    table: Callable[[dict[str, Any]], list[str]] = lines,
) -> None:
    """Measures in a folder that is gone afterwards; prints the table, writes the figures and draws the
    pictures."""
    parser.add_argument(
        "--into", type=Path, default=BENCHMARKS, help="the folder of what is written"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o711)
        figures = measure(home, options)
    print("\n".join(table(figures)))
    save(figures, options.into / f"{name}.json")
    draw(name, options.into)
