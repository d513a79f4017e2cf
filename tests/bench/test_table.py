"""How results look: tables and pictures."""

import xml.etree.ElementTree as ET

from scripts.bench.chart import Chart, svg
from scripts.bench.table import Table, markdown, render, text

TABLE = Table("Costs", ["case", "us", "met"], [["plain", 3.14159, "yes"], ["with a long name", 1234.5, None]])


def test_figures_keep_three_digits() -> None:
    assert [text(each) for each in (0.0, 0.01234, 1.0, 9.999, 12.345, 999.4, 123456.7, 42, None, "x")] == [
        "0", "0.0123", "1.00", "10.0", "12.3", "999", "123,457", "42", "-", "x",
    ]  # fmt: skip


def test_columns_line_up_words_left_figures_right() -> None:
    assert render(TABLE).splitlines() == [
        "Costs",
        "case                 us  met",
        "----------------  -----  ---",
        "plain              3.14  yes",
        "with a long name  1,234    -",
    ]


def test_markdown() -> None:
    assert markdown(TABLE).splitlines()[2:4] == ["| case | us | met |", "| --- | ---: | ---: |"]


def test_a_table_without_rows_is_its_head() -> None:
    assert render(Table("", ["a", "b"])) == "a  b\n-  -"


def test_the_picture_is_well_formed_and_refers_to_nothing_outside() -> None:
    drawn = svg(Chart("a < b & c", "note", ["one", "two"], ["x", "y"], [[1.0, None], [0.0, 4.0]]))
    root = ET.fromstring(drawn)
    assert root.tag.endswith("svg")
    assert "href" not in drawn
    assert "src=" not in drawn
    assert drawn.count("none</text>") == 1


def test_bars_are_in_proportion_within_their_group() -> None:
    drawn = svg(Chart("t", "n", ["one", "two"], ["x"], [[1.0, 2.0]]))
    widths = [float(each.get("width", "0")) for each in ET.fromstring(drawn) if each.get("height") == "12"]
    assert widths[1] == 2 * widths[0]
