"""What all pictures have in common: for a README in light and dark, for eyes of every kind, for `git diff`."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
GREY, PALE = "#555555", "#a8b3bd"
"""The first three are Okabe and Ito's, told apart whatever colours one sees; their lines differ in their
strokes, too."""

STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "lines.linewidth": 2,
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.15,
    "figure.constrained_layout.h_pad": 0.15,
    # Text stays text: small, to be selected and read aloud.
    "svg.fonttype": "none",
    # The same figures give the same file.
    "svg.hashsalt": "truetape",
}


@contextmanager
def picture(path: Path, title: str, told: str, *, height: float = 4) -> Iterator[Figure]:
    """An SVG 8 inches wide; ``title`` and ``told`` are for who cannot see it."""
    with mpl.rc_context(STYLE):
        # A sheet of its own, with an edge: it stands on a light page as on a dark one.
        figure = Figure(
            figsize=(8, height), layout="constrained", facecolor="white",
            edgecolor="#d0d7de", linewidth=2,
        )  # fmt: skip
        figure.suptitle(title, x=0.02, ha="left")
        yield figure
        drawn = io.StringIO()
        figure.savefig(
            drawn, format="svg", edgecolor=figure.get_edgecolor(),
            metadata={"Date": None, "Creator": None},
        )  # fmt: skip
    words = rf'\1 role="img">\n <title>{escape(title)}</title>\n <desc>{escape(told)}</desc>\n'
    path.write_text(re.sub(r"(<svg [^>]*)>\n", words, drawn.getvalue(), count=1))
