"""Which loads a load test takes."""

import argparse

import pytest

from scripts.bench.load import add_options, parse_load


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--rate 1e9", "--rate must be above zero and at most 100,000"),
        ("--rate 0", "--rate must be above zero and at most 100,000"),
        ("--rate nan", "--rate must be above zero and at most 100,000"),
        ("--clients 200000", "--clients must be above zero and at most 100,000"),
        ("--seconds inf", "--seconds must be above zero and at most 86,400"),
        ("--body 99999999999", "--body must be from zero to 67,108,864"),
        ("--body -1", "--body must be from zero to 67,108,864"),
    ],
)
def test_a_load_that_no_generator_can_make_is_refused(given: str, said: str) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    with pytest.raises(ValueError, match=said):
        parse_load(parser.parse_args(given.split()))
