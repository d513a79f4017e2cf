from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.network_places import Place, connected_places, holder


@pytest.fixture
def places() -> Iterator[tuple[Place, Place]]:
    with connected_places() as both:
        yield both


@pytest.fixture
def hold(places: tuple[Place, Place]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Lets leases hold in the second place: each a mapping of settings with `seconds`."""
    started: list[subprocess.Popen[str]] = []

    def begin(*leases: dict[str, Any]) -> subprocess.Popen[str]:
        process = places[1].run(*holder(*leases))
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
