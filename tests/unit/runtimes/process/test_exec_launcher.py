"""What is known of a replica's earlier life belongs to the replica, whatever its name becomes."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from comet.events.event import Event
from comet.host import port_owners
from comet.reconcile.replica import ReplicaSpec
from comet.runtimes.process.exec_launcher import ExecLauncher
from tests.support.fakes import spec

DAEMON = spec("worker-0", launch=SimpleNamespace(argv=("nginx",)))


class Released:
    """The listening sockets that were closed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def release(self, name: str) -> None:
        self.names.append(name)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> ExecLauncher:
    """A launcher whose process of worker-0 has ended and left another one."""
    left = [port_owners.Holder(0, 7, "nginx", True)]
    monkeypatch.setattr(port_owners, "end_background", lambda *_: left)
    listeners: Any = Released()
    cluster: Any = SimpleNamespace(id="no-such-cluster")
    events: list[Event] = []
    made = ExecLauncher(cluster, listeners, events.append)
    made._running["worker-0"] = 1, DAEMON
    made.on_exit("worker-0", 1)
    assert [event.name for event in events] == ["left_in_background"]
    assert made.leaves_background(DAEMON)
    return made


def named(name: str) -> ReplicaSpec:
    return replace(DAEMON, name=name)


def test_background_processes_stay_known_under_another_name(launcher: ExecLauncher) -> None:
    launcher.rename("worker-0", "worker-0~former")
    assert launcher.leaves_background(named("worker-0~former"))
    assert not launcher.leaves_background(named("worker-0"))
    launcher.rename("worker-0~next", "worker-0~former")
    assert not launcher.leaves_background(named("worker-0~former"))


def test_a_later_replica_of_a_released_name_has_no_past(launcher: ExecLauncher) -> None:
    launcher.release("worker-0")
    assert not launcher.leaves_background(DAEMON)
