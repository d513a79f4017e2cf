import pytest

from comet.common.figures import figure, milliseconds, size, span

FIGURES = {
    None: "-", 0: "0", 0.0004: "<0.001", 0.04: "0.040", 0.512: "0.512", 1: "1.00", 1.919: "1.92", 9.999: "10.0",
    14.26: "14.3", 99.96: "100", 447.4: "447", 999.4: "999", 1240.2: "1,240", 21873.0: "21,873",
}  # fmt: skip


@pytest.mark.parametrize("value", FIGURES)
def test_a_figure_has_three_significant_digits(value: float | None) -> None:
    assert figure(value) == FIGURES[value]


def test_units_follow_the_size() -> None:
    assert [milliseconds(each) for each in (None, 0, 1.919, 447, 999.6, 12_345)] == [
        "-", "0 ms", "1.92 ms", "447 ms", "1.00 s", "12.3 s",
    ]  # fmt: skip
    assert [size(each) for each in (None, 512, 36_000_000, 3 << 30)] == ["-", "512 B", "34.3 MiB", "3.00 GiB"]
    assert [span(each) for each in (None, 12.9, 185, 7800, 97_200)] == ["-", "12 s", "3 m 05 s", "2 h 10 m", "1 d 03 h"]
    assert [milliseconds(3.2, space=""), size(31457280, space=""), span(61, space="")] == ["3.20ms", "30.0MiB", "1m01s"]
