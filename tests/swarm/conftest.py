"""Tests in a swarm of their own tell, where one fails, what its machines were like then."""

from collections.abc import Generator

import pytest

from tests.swarm.evidence import gathered
from tests.swarm.hosts import Hosts


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Hosts):
        report.sections.append(("the machines", gathered(lab)))
    return report
