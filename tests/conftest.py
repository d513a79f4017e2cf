"""Fixtures for tests of whole clusters."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from comet.listeners import PORTS_VARIABLE
from tests import postgres
from tests.integration.clusters import House, house

# What the benches and `compare` start on ports of their own choice, too: one that is between two of its lives must not meet another's.
_width = (32000 - 25000) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_first = 25000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) * _width
os.environ[PORTS_VARIABLE] = f"{_first}-{_first + _width - 1}"


# A script's `&` starts its command with Ctrl-C ignored, and what tests start would inherit that: as rightly would any program of ours.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., House]]:
    """Makes clusters in folders of their own: make_house(worker=3, runtime="process")."""
    with ExitStack() as stack:

        def make(**config: Any) -> House:
            return stack.enter_context(house(tmp_path_factory.mktemp("cluster"), **config))

        yield make


@pytest.fixture(params=["docker", "process"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Both ways to run workers: what a test says must hold for either."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A running PostgreSQL server; tests that need a database take one of their own from it, and leave the server running."""
    with postgres.server() as made:
        yield made
