"""Before anything is imported: a Python that lacks a package, or has one that does not work, is told so in one line."""

import configparser
import re
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from comet.bootstrap import NEEDED
from comet.host.packages import DISTRIBUTION, needed_packages

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_list_is_that_of_setup_cfg() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options"]["install_requires"].split("\n")
    required = {re.split(r"[^\w.-]", line)[0].lower().replace("-", "_") for line in lines if line.strip()}
    distributions = packages_distributions()
    listed = {distributions[name][0].lower().replace("-", "_") for name in NEEDED}
    assert required - listed <= {"uvloop"}
    assert listed <= required


NEEDED_BY_ALL = sorted(name for name in needed_packages() if name != DISTRIBUTION)


def test_what_is_needed_by_what_is_needed_counts() -> None:
    indirect = {
        "blinker",
        "certifi",
        "charset-normalizer",
        "click",
        "idna",
        "itsdangerous",
        "psycopg-binary",
        "typing-extensions",
    }
    assert indirect | {"flask", "pyyaml", "uvloop"} <= set(NEEDED_BY_ALL)
