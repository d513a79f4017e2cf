"""How results look: tables, pictures and pages that hold what they should and refer to nothing outside."""

import re
from xml.etree import ElementTree

import pytest

from comet.report import page, svg, terminal
from comet.report.cells import text
from comet.report.model import Bars, Lines, Picture, Report, Steps, Table, nines, percentiles

TABLE = Table("Costs", ["case", "us", "met"], [["plain", 3.14159, "yes"], ["with a long name", 1234.5, None]])
NOTE = "closed model; " + "GET /a/path with 4,096 bytes, " * 20
PICTURES = (
    Bars("<T> & co", NOTE, ["one", "two"], ["x", "y"], [[1.0, None], [0.0, 4.0]]),
    percentiles("<T> & co", NOTE, {"raw": [(0, 1.0), (99, 40.0)], "none": []}),
    Steps(
        "<T> & co", NOTE, {"container": {"died": 50.0, "noticed": 60.0, "ready": 500.0}}, ["died", "noticed", "ready"]
    ),
)


def test_figures_keep_three_digits() -> None:
    assert [text(each) for each in (0.0, 0.01234, 1.0, 9.999, 12.345, 999.4, 123456.7, 42, None, "x")] == [
        "0", "0.012", "1.00", "10.0", "12.3", "999", "123,457", "42", "-", "x",
    ]  # fmt: skip


def test_columns_line_up_words_left_figures_right(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show(Report("lb", parts=[TABLE, PICTURES[0]], notes=["no [bold] failure"], warnings=["busy"]))
    told = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert told[told.index("Costs") :] == [
        "Costs",
        "case                 us  met",
        "plain              3.14  yes",
        "with a long name  1,234    -",
        "",
        "* no [bold] failure",
        "! busy",
    ]


@pytest.mark.parametrize("picture", PICTURES)
def test_a_picture_is_well_formed_and_stands_alone(picture: Picture) -> None:
    drawn = svg.draw(picture)
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert "&lt;T&gt; &amp; co" in drawn
    assert not re.search("href|src=|url", drawn)
    (told,) = re.findall(r"class='soft'>(closed.*?)</text>", drawn)
    assert NOTE.startswith(told[:-1])
    assert (len(told) <= 125, told[-1]) == (True, "…")


def widths(chart: Bars) -> list[float]:
    return [float(found) for found in re.findall(r'<rect x="290" y="\d+" width="([\d.]+)"', svg.draw(chart))]


def test_one_series_shares_a_scale_several_have_one_per_group() -> None:
    assert widths(Bars("t", "n", ["answers"], ["worker-0", "worker-1"], [[100.0], [50.0]])) == [520.0, 260.0]
    assert widths(Bars("t", "n", ["a", "b"], ["x", "y"], [[100.0, 50.0], [2.0, None]])) == [520.0, 260.0, 520.0]


def test_a_bar_of_what_never_came_is_drawn() -> None:
    assert "never" in svg.draw(Bars("t", "n", ["ms"], ["x", "y"], [[float("inf")], [5.0]]))


def test_each_step_ends_at_its_time_and_is_named() -> None:
    drawn = svg.draw(PICTURES[2])
    assert "died 50 · noticed 60 · ready 500" in drawn
    assert "<title>died at 50.0 ms</title>" in drawn
    died, noticed, ready = (float(found) for found in re.findall(r'width="([\d.]+)" height="22"', drawn))
    assert (died / noticed, ready / noticed) == (pytest.approx(5, 0.01), pytest.approx(44, 0.01))


def test_nines_are_equally_far_apart() -> None:
    assert [round(nines(percent), 6) for percent in (0, 90, 99, 99.9)] == [0, 1, 2, 3]
    chart = percentiles("t", "n", {"raw": [(0, 1.0), (99, 40.0)]})
    assert (list(chart.ticks.values()), isinstance(chart, Lines)) == (["0 %", "50 %", "90 %", "99 %"], True)


@pytest.mark.parametrize(("limit", "top"), [(0, 1), (0.9, 1), (1.2, 1.5), (443, 500), (5106, 6000), (9999, 10000)])
def test_an_axis_ends_at_a_round_number(limit: float, top: float) -> None:
    assert svg.nice(limit) == pytest.approx(top)


def test_the_page_begins_with_its_first_picture() -> None:
    report = Report("load", notes=["all is well"], parts=[*PICTURES])
    html = page.render(report)
    assert html.index("<svg") < html.index("all is well")
    assert html.count("<svg") == len(PICTURES)
    report.parts = [Table("T", ["who"], [["a"]]), *PICTURES]
    html = page.render(report)
    assert html.index("all is well") < html.index("<td>a") < html.index("<svg")


def test_the_page_is_whole_and_alone() -> None:
    report = Report("load", passed=False, notes=["threshold MISSED: p99 <b>"], machine={"cores": 2})
    report.parts = [Table("T", ["who", "ms"], [["a", 1.5], ["b", None]], prose="why"), *PICTURES]
    html = page.render(report)
    for part in (
        "did not pass",
        '<li class="bad">threshold MISSED: p99 &lt;b&gt;</li>',
        "<td class=r>1.50",
        "cores 2",
        '<p class="soft">why</p>',
    ):
        assert part in html
    assert html.count("<svg") == html.count("</svg>") == len(PICTURES)
    assert not re.search(r"""(src|href)\s*=|<script|@import|url\(""", html)
