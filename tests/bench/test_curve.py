"""Pictures and pages of a result hold what they should and refer to nothing outside."""

import re
from xml.etree import ElementTree

from scripts.bench.chart import Chart
from scripts.bench.chart import svg as bars
from scripts.bench.curve import Curve, nines, svg
from scripts.bench.htmlpage import page
from scripts.bench.table import Table


def test_nines_are_equally_far_apart() -> None:
    assert [round(nines(percent), 6) for percent in (0, 90, 99, 99.9)] == [0, 1, 2, 3]


def test_a_curve_is_well_formed_and_escapes() -> None:
    drawn = svg(Curve("<T> & co", "note", [("raw", [(0, 1.0), (99, 40.0)]), ("none", [])]))
    ElementTree.fromstring(drawn)
    assert "&lt;T&gt; &amp; co" in drawn


def test_a_note_does_not_leave_the_picture() -> None:
    note = "closed model; " + "GET /a/path with 4,096 bytes, " * 20
    for drawn in (svg(Curve("t", note, [])), bars(Chart("t", note, [], [], []))):
        (told,) = re.findall(r'<text x="12" y="42" fill="#555555">(.*)</text>', drawn)
        assert note.startswith(told[:-1])
        assert len(told) <= 125
        assert told.endswith("…")


def widths(drawn: str) -> list[float]:
    return [float(found) for found in re.findall(r'<rect x="290" y="\d+" width="([\d.]+)"', drawn)]


def test_bars_of_one_series_share_a_scale_so_that_an_uneven_share_shows() -> None:
    assert widths(bars(Chart("t", "n", ["answers"], ["worker-0", "worker-1"], [[100.0], [50.0]]))) == [520.0, 260.0]


def test_bars_of_several_series_are_compared_within_their_group() -> None:
    drawn = bars(Chart("t", "n", ["a", "b"], ["x", "y"], [[100.0, 50.0], [2.0, None]]))
    assert widths(drawn) == [520.0, 260.0, 520.0]


def test_a_bar_of_what_never_came_is_drawn() -> None:
    drawn = bars(Chart("t", "n", ["ms"], ["x", "y"], [[float("inf")], [5.0]]))
    ElementTree.fromstring(drawn)
    assert "never" in drawn


def test_the_page_is_whole_and_alone() -> None:
    result = {
        "bench": "load", "at": "2026-01-02", "passed": False, "notes": ["threshold MISSED: p99 <b>"], "settings": {"load": "light"},
        "versions": {"wrk": "4.1"}, "machine": {"cores": 2},
    }  # fmt: skip
    html = page(result, [Table("T", ["who", "ms"], [["a", 1.5], ["b", None]])], ["<svg/>"])
    for part in (
        "did not pass",
        '<li class="bad">threshold MISSED: p99 &lt;b&gt;</li>',
        "<svg/>",
        '<td class="number">1.50</td>',
        "cores 2",
    ):
        assert part in html
    assert not re.search(r"(src|href)=", html)
