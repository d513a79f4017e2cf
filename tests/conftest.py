"""Fixtures for tests of whole clusters."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests import postgres
from tests.integration.clusters import House, house


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
