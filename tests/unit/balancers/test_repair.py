"""Which files of load balancers count as removed."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from comet.balancers.runtime import BalancerRuntime
from comet.reconcile.replica import Replica, State
from comet.state.directory import Cluster
from tests.support.fakes import spec


@pytest.mark.parametrize(
    ("state", "restored"),
    [
        (State.STARTING, []),
        (State.READY, ["run/lb-0.a.counters"]),
        (State.UNHEALTHY, ["run/lb-0.a.counters"]),
        (State.STOPPING, ["run/lb-0.a.counters"]),
    ],
)
def test_a_load_balancer_that_starts_has_lost_no_files(tmp_path: Path, state: State, restored: list[str]) -> None:
    async def look() -> list[str]:
        run: Any = SimpleNamespace(
            loop=asyncio.get_running_loop(), cluster=Cluster(tmp_path), sink=mock.Mock(), listeners={}
        )
        router: Any = mock.Mock()
        launch = SimpleNamespace(counters="lb-0.a.counters", settings=SimpleNamespace(name="lb-0"))
        balancer = Replica(spec("lb-0", launch=launch), state=state, instance=1, pid=7)
        runtime = BalancerRuntime(run, router)
        found = runtime.repair([balancer])
        assert router.reopen.called == bool(restored)
        return found

    assert asyncio.run(look()) == restored
