"""The pictures of docs/benchmarks, each from the JSON beside it: `make plots`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from bench.over_time import rates
from bench.picture import BLUE, GREEN, GREY, ORANGE, PALE, picture

BENCHMARKS = Path(__file__).parent.parent / "docs" / "benchmarks"

WINDOWS_MAX = 25
MUST_COST = 1.2
"""What a trade may cost at the largest size, against that at a million."""
MUST_MEMORY_MB = 200
MUST_LIVE_MS = 1_000
GROUPED = FuncFormatter(lambda value, _: f"{value:,.0f}")
PLAIN = FuncFormatter(lambda value, _: f"{value:,g}")

Figures = dict[str, Any]


def speed(figures: Figures, path: Path) -> None:
    """The one picture: where we stand between what is done today and what can be done at all."""
    rate = figures["trades_per_second"]
    bars = [
        ("row by row", "five commits a trade", "row_by_row"),
        ("logical replication", "the rows, no analytics", "replication"),
        ("Truetape", "rows, candles, traders, digests", "ours"),
        ("bare COPY", "the rows: the limit", "pipe"),
    ]
    title = f"Trades a second, catching up on {figures['trades']:,}"
    told = "; ".join(f"{name} ({what}): {rate[key]:,}" for name, what, key in bars)
    with picture(path, title, told, height=3.1) as figure:
        axes = figure.subplots()
        for place, (name, what, key) in enumerate(bars):
            ours = key == "ours"
            weight = "bold" if ours else "normal"
            axes.barh(place, rate[key], color=BLUE if ours else PALE, height=0.62)
            _say(axes, name, (0, place), (-8, 7), ha="right", weight=weight)
            _say(axes, what, (0, place), (-8, -7), ha="right", size=9, color=GREY)
            _say(axes, f"{rate[key]:,}", (rate[key], place), (6, 0), weight=weight)
        axes.invert_yaxis()
        axes.set_yticks([])
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_xlim(right=max(rate[key] for *_, key in bars) * 1.13)
        axes.set_xlabel(_machine(figures), size=9, color=GREY, loc="right")


def throughput(figures: Figures, path: Path) -> None:
    """Trades a second over the seconds of one catch-up."""
    total = figures["trades"]
    title = f"A catch-up on {total:,} trades, second by second"
    told = "Trades taken in a second, over the seconds of the run: Truetape, and the bare COPY."
    with picture(path, title, told) as figure:
        axes = figure.subplots()
        for name, key, colour, stroke in (
            ("bare COPY", "pipe", ORANGE, "--"),
            ("Truetape", "ours", BLUE, "-"),
        ):
            course = figures["over_time"][key]
            _stairs(axes, course["seconds"], course["trades"], colour, stroke, name)
        axes.legend(loc="upper right")
        axes.set_xlabel(f"seconds ({_machine(figures)})")
        axes.set_ylabel("trades a second")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(GROUPED)


def cost(figures: Figures, path: Path) -> None:
    """Time, processors and memory against the size of the tape."""
    sizes = [int(size) for size in figures["sizes"]]
    found = list(figures["sizes"].values())
    title = "What a trade costs as the tape grows"
    clock = [f["us_per_trade"] for f in found]
    used = [sum(f["cpu_us_per_trade"].values()) for f in found]
    memory = [f["peak_memory_mb"] for f in found]
    told = "; ".join(
        f"{size:,} trades: {us} µs a trade, {cpu:.1f} µs of processors, {mb} MB"
        for size, us, cpu, mb in zip(sizes, clock, used, memory, strict=True)
    )
    with picture(path, title, told, height=5) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        above.plot(sizes, clock, "o-", color=BLUE, label="on the clock")
        above.plot(sizes, used, "s--", color=ORANGE, label="of processors: ours, both servers'")
        if 1_000_000 in sizes:
            _bound(
                above,
                clock[sizes.index(1_000_000)] * MUST_COST,
                "a fifth more than at a million: must stay below",
            )
        above.set_ylim(bottom=0)
        above.set_ylabel("µs a trade")
        above.legend(loc="lower right")
        below.plot(sizes, memory, "o-", color=BLUE)
        _bound(below, MUST_MEMORY_MB, "must stay below")
        below.set_ylim(0, MUST_MEMORY_MB * 1.2)
        below.legend(loc="lower right")
        below.set_ylabel("our memory, MB")
        below.set_xlabel(f"trades caught up on ({_machine(figures)})")
        below.set_xscale("log")
        below.set_xticks(sizes, [f"{size:,}" for size in sizes])
        below.minorticks_off()


def latency(figures: Figures, path: Path) -> None:
    """The share of blocks that were seen within so many milliseconds."""
    title = f"From the COMMIT in the source until it is seen, {figures['rate']:g} trades a second"
    modes = (
        ("notify", BLUE, "-"),
        ("redis", ORANGE, "--"),
        ("timer", GREEN, ":"),
        ("polled", GREY, "-."),
    )
    told = "; ".join(
        f"{mode}: half within {figures[mode]['pushedP50']} ms on the stream and "
        f"{figures[mode]['gotP50']} ms by GET"
        for mode, _, _ in modes
    )
    with picture(path, title, told) as figure:
        for axes, (how, where) in zip(
            figure.subplots(1, 2, sharex=True, sharey=True),
            (("pushed", "GET /api/stream"), ("got", "GET /api/trades")),
            strict=True,
        ):
            for mode, colour, stroke in modes:
                took = figures[mode][f"{how}Ms"]
                if took:
                    axes.ecdf(took, color=colour, linestyle=stroke, label=mode)
            axes.set_xscale("log", subs=[])
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(PLAIN)
            axes.set_xlabel("ms")
            axes.set_title(where)
        figure.axes[0].set_ylabel("share of the blocks")
        figure.axes[0].legend(loc="lower right")


def outage(figures: Figures, path: Path) -> None:
    """What is still missing, and how live the market is meanwhile."""
    missing, course, live = (figures[k] for k in ("trades_missing", "over_time", "live_over_time"))
    title = f"After an outage: {missing:,} trades in {figures['seconds']:g} s"
    told = f"Of the blocks that come meanwhile 99 % are seen within {figures['live']['gotP99']} ms."
    with picture(path, title, told, height=5) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        above.plot(course["seconds"], [missing - done for done in course["trades"]], color=BLUE)
        above.set_ylim(bottom=0)
        above.yaxis.set_major_formatter(GROUPED)
        above.set_ylabel("trades missing")
        for name, key, mark, colour in (
            ("GET /api/trades", "got", "o", BLUE),
            ("GET /api/stream", "pushed", "x", ORANGE),
        ):
            seen = live[key]
            below.plot(seen["seconds"], seen["ms"], mark, color=colour, markersize=5, label=name)
        _bound(below, MUST_LIVE_MS, "99 % must stay below")
        below.set_yscale("log", subs=[])
        below.set_ylim(10, 10 * MUST_LIVE_MS)
        below.yaxis.set_major_formatter(PLAIN)
        below.legend(loc="upper right", ncols=3)
        below.set_ylabel("new block seen, ms")
        below.set_xlabel(f"seconds since the start ({_machine(figures)})")


def workers(figures: Figures, path: Path) -> None:
    """Trades a second by the number of workers, and who had the processors meanwhile."""
    found = figures["workers"]
    title = f"{figures['trades']:,} trades caught up on by one, two and four workers"
    told = "; ".join(
        f"{count}: {each['trades_per_second']:,} trades a second, cores: {each['cores']}"
        for count, each in found.items()
    )
    with picture(path, title, told, height=3.1) as figure:
        axes = figure.subplots()
        for place, each in enumerate(found.values()):
            left = 0.0
            for name, colour in (("analytics", BLUE), ("source", GREEN), ("ours", ORANGE)):
                width = each["cores"][name]
                label = name if place == 0 else None
                axes.barh(place, width, left=left, color=colour, height=0.62, label=label)
                left += width
            rate = f"{each['trades_per_second']:,} trades/s"
            _say(axes, rate, (left, place), (6, 0), weight="bold")
        axes.set_yticks(range(len(found)), [f"{c} worker{'s' * (c != '1')}" for c in found])
        axes.invert_yaxis()
        axes.axvline(figures["cores"], color=GREY, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_xlim(right=figures["cores"] * 1.3)
        axes.set_xlabel(f"cores taken by each ({_machine(figures)})")
        figure.legend(loc="outside lower left", ncols=3)


def profile(figures: Figures, path: Path) -> None:
    """Processor time of a trade by what it is spent on."""
    colours = {"analytics": BLUE, "source": GREEN, "ours": ORANGE}
    rows = sorted(
        ((us, who, part) for who, parts in figures["us_per_trade"].items() for part, us in parts.items()),
        reverse=True,
    )  # fmt: skip
    title = f"What a trade costs: {figures['us_per_trade_in_all']:g} µs of processors"
    told = "; ".join(f"{who}, {part}: {us} µs" for us, who, part in rows)
    with picture(path, title, told, height=3.6) as figure:
        axes = figure.subplots()
        for place, (us, who, part) in enumerate(rows):
            axes.barh(place, us, color=colours[who], height=0.62)
            _say(axes, f"{part} ({who})", (0, place), (-8, 0), ha="right", size=9)
            _say(axes, f"{us:g}", (us, place), (6, 0), size=9)
        axes.invert_yaxis()
        axes.set_yticks([])
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel(_machine(figures), size=9, color=GREY, loc="right")


def _stairs(
    axes: Axes, seconds: list[float], done: list[int], colour: str, stroke: str, name: str
) -> None:
    edges, each = rates(seconds, done, max(1.0, seconds[-1] / WINDOWS_MAX))
    axes.stairs(each, edges, color=colour, linestyle=stroke, linewidth=2, label=name)


def _bound(axes: Axes, at: float, what: str) -> None:
    axes.axhline(at, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label=what)


def _say(axes: Axes, what: str, at: tuple[float, float], off: tuple[int, int], **how: Any) -> None:
    """Words beside a point of the figures, so many 72nds of an inch off."""
    axes.annotate(what, at, off, textcoords="offset points", va="center", **how)


def _machine(figures: Figures) -> str:
    return f"{figures['cores']} cores, {figures['memory_gib']} GiB"


PICTURES: dict[str, tuple[Callable[[Figures, Path], None], ...]] = {
    "bench": (speed, throughput),
    "sizes": (cost,),
    "live": (latency,),
    "outage": (outage,),
    "workers": (workers,),
    "profile": (profile,),
}


def draw(name: str, folder: Path) -> None:
    """The pictures of what is written in ``folder``/``name``.json."""
    figures = json.loads((folder / f"{name}.json").read_text())
    for plot in PICTURES[name]:
        plot(figures, folder / f"{plot.__name__}.svg")


if __name__ == "__main__":
    for name in PICTURES:
        if (BENCHMARKS / f"{name}.json").exists():
            draw(name, BENCHMARKS)
