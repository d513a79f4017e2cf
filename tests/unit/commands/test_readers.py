"""What the values of options are read as, and how a refusal names all that is allowed."""

import pytest

from comet.cli.main import parser
from comet.commands.command import count, positive, seconds


@pytest.mark.parametrize("text", ["-1", "1000000000", "1.5", "x", ""])
def test_a_number_out_of_range_is_refused_with_both_bounds(text: str) -> None:
    for read, allowed in ((count, "from 0 to 999999999"), (positive, "from 1 to 999999999")):
        with pytest.raises(ValueError, match=rf"allowed: a whole number {allowed}\)"):
            read(text)
    assert (count("999999999"), positive("1")) == (999_999_999, 1)


@pytest.mark.parametrize("text", ["169h", "8d", "-1s", "soon"])
def test_a_time_out_of_range_is_refused_with_the_longest(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed: a time like 5, 500ms, 30s or 2m, up to 7d\)"):
        seconds(text)
    assert seconds("168h") == 7 * 86400


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "--json="],
        ["compare", "--html", ""],
        ["scenario", ""],
        ["scenario", "x.yaml", "--junit="],
        ["ps", "--config="],
    ],
)
def test_an_empty_name_of_a_file_is_bad_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """A variable that is not set, and not the folder of the moment."""
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    assert ended.value.code == 2
    assert "the file's name is empty" in capsys.readouterr().err
