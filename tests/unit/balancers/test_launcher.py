"""Which sockets a load balancer that drains is said to leave unused, and when its own is there."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from comet.balancers.launcher import ForkserverLauncher, LbLaunch
from comet.balancers.router import Router
from comet.host.sockets import Listeners
from comet.reconcile.replica import FORMER_SUFFIX, NEXT_SUFFIX
from comet.state.directory import Cluster
from lb.interface.settings import Settings
from tests.support.fakes import spec


class Stage:
    """The launcher of two load balancers that an earlier supervisor started, and the orders that it sends."""

    def __init__(self, folder: Path) -> None:
        self.orders: list[tuple[str, int]] = []
        router = SimpleNamespace(
            drain=lambda name, grace, unused: self.orders.append((name, unused)) or True,
            detach=lambda name: None,
            rename=lambda former, name: None,
            attach=lambda name, instance, control: control.close(),
            paused_until=None,
            table=(),
        )
        loop = cast(asyncio.AbstractEventLoop, SimpleNamespace(call_later=lambda *_: None))
        self.folder, self.listeners = folder, Listeners()
        self.launcher = ForkserverLauncher(loop, Cluster(folder), cast(Router, cast(Any, router)), self.listeners)
        for name in ("lb-0", "lb-1"):
            self.launcher.adopt(name, 1, f"{name}.1.sock")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_its_own_socket_and_that_of_the_front_with_the_last_one(stage: Stage) -> None:
    stage.launcher.drain("lb-1", 10.0)
    stage.launcher.drain("lb-0", 10.0)
    assert stage.orders == [("lb-1", 1), ("lb-0", 2)]


def test_none_for_a_successor_or_a_given_up_replacement(stage: Stage) -> None:
    stage.launcher.adopt("lb-0" + NEXT_SUFFIX, 2, "lb-0.2.sock")
    stage.launcher.drain("lb-0" + NEXT_SUFFIX, 10.0)
    stage.launcher.rename("lb-0", "lb-0" + FORMER_SUFFIX)
    stage.launcher.rename("lb-0" + NEXT_SUFFIX, "lb-0")
    stage.launcher.drain("lb-0" + FORMER_SUFFIX, 10.0)
    stage.launcher.release("lb-0" + FORMER_SUFFIX)
    stage.launcher.drain("lb-1", 10.0)
    assert stage.orders == [("lb-0" + NEXT_SUFFIX, 0), ("lb-0" + FORMER_SUFFIX, 0), ("lb-1", 1)]


def test_the_front_is_still_used_by_one_that_restarts(stage: Stage) -> None:
    """It may be back in milliseconds, or after a pause; clients of the front wait for it."""
    stage.launcher.on_exit("lb-0", 1)
    stage.launcher.drain("lb-1", 10.0)
    assert stage.orders == [("lb-1", 1)]


def test_one_that_was_removed_no_longer_counts(stage: Stage) -> None:
    stage.launcher.drain("lb-1", 10.0)
    stage.launcher.on_exit("lb-1", 1)
    stage.launcher.release("lb-1")
    stage.launcher.drain("lb-0", 10.0)
    assert stage.orders == [("lb-1", 1), ("lb-0", 2)]


def test_one_that_dies_at_once_has_lost_no_socket(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is in place, although no process listens on it any more."""
    cluster = Cluster(stage.folder)
    cluster.create()
    process = SimpleNamespace(pid=os.getpid(), sentinel=None)
    monkeypatch.setattr(stage.launcher, "_fork", lambda *_: process)
    stage.listeners.bind("lb-2", "127.0.0.1", 0, False)
    launch = LbLaunch(Settings(name="lb-2"), "lb-2.a.counters")
    stage.launcher.launch(spec("lb-2", launch=launch), 1)
    assert stage.launcher.has_control_socket("lb-2", 1)
    (stage.folder / ".comet/run/lb-2.1.sock").unlink()
    assert not stage.launcher.has_control_socket("lb-2", 1)
    stage.listeners.close()
