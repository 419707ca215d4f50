"""What the benchmark makes of its samples."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.over_time import Course, rates
from bench.plots import BENCHMARKS, PICTURES, draw
from bench.report import save
from bench.watching import Watch, percentile

SVG = "{http://www.w3.org/2000/svg}"


def test_rates_add_up_to_all_that_was_done() -> None:
    edges, each = rates([0, 0.5, 3, 4], [0, 100, 100, 400], width=1)
    assert edges == [0, 1, 2, 3, 4]
    assert each == [100, 0, 0, 300]


def test_what_was_shorter_than_a_window_is_one_window() -> None:
    assert rates([0, 0.4], [0, 100], width=1) == ([0, 0.4], [250])


def test_a_course_in_bytes_is_told_in_trades() -> None:
    course = Course()
    course.end(4096)
    assert course.figures(1000)["trades"] == [0, 1000]


def test_a_block_that_nobody_saw_is_as_late_as_the_one_behind_it() -> None:
    watch = Watch(committed={1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}, got={1: 1.1, 3: 3.2})
    assert watch.latencies_ms(watch.got) == [(1, 100.0), (2, 1200.0), (3, 200.0)]


def test_percentiles_need_no_order() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([], 0.5) is None


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_figures_give_the_same_pictures_with_words(name: str, tmp_path: Path) -> None:
    made: list[list[str]] = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        (folder / f"{name}.json").write_text((BENCHMARKS / f"{name}.json").read_text())
        draw(name, folder)
        made.append([file.read_text() for file in sorted(folder.glob("*.svg"))])
    assert made[0] == made[1]
    for text in made[0]:
        root = ElementTree.fromstring(text)
        assert root.findtext(f"{SVG}title")
        assert root.findtext(f"{SVG}desc")


def test_a_series_stands_on_one_line(tmp_path: Path) -> None:
    save({"a": {"ms": [1, 2.5], "n": 3}}, tmp_path / "x.json")
    assert '"ms": [1, 2.5]' in (tmp_path / "x.json").read_text()
