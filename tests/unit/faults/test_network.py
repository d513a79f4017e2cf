"""Orders for the networks of workers: what is refused, what reaches the runtime, and what a failure leaves."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from comet.common.errors import UserError
from comet.config.schema import ConfigError, parse
from comet.events.event import Event
from comet.faults import files
from comet.faults.counts import Counts
from comet.faults.orders import change
from comet.runtimes.external.runtime import ExternalRuntime
from comet.runtimes.process.runtime import ProcessRuntime
from comet.runtimes.swarm.runtime import SwarmRuntime
from comet.state.directory import Cluster

WHERE = Path("/somewhere/config.yaml")
NAMES = ["worker-0", "worker-1"]


class Network:
    """Stands in for a runtime whose workers have networks; it fails for those in `broken`."""

    def __init__(self, *broken: str, seconds: float = 0.0) -> None:
        self.broken = broken
        self.seconds = seconds
        self.present: dict[str, list[dict[str, Any]]] = {}

    def require_network_faults(self, name: str) -> None:
        return

    async def inject_network_faults(self, name: str, leases: list[dict[str, Any]]) -> None:
        if name in self.broken:
            raise UserError(f"{name}: cannot")
        await asyncio.sleep(self.seconds)
        self.present[name] = leases

    def settings(self) -> dict[str, list[dict[str, Any]]]:
        limits = ("until", "boot-id")
        return {
            name: [{key: value for key, value in lease.items() if key not in limits} for lease in leases]
            for name, leases in self.present.items()
            if leases
        }


class Orders:
    """A cluster's folder, and what is ordered in it."""

    def __init__(self, folder: Path, network: Network, config: str = "worker: 2") -> None:
        self.cluster = Cluster(folder)
        self.cluster.state.mkdir()
        self.network = network
        self.config = parse(config, WHERE)
        self.events: list[Event] = []

    def give(self, target: str, **request: Any) -> dict[str, Any]:
        wanted = {"target": target, **{name.rstrip("_").replace("_", "-"): value for name, value in request.items()}}
        return asyncio.run(
            files.handle_request(self.cluster, self.config, NAMES, wanted, self.events.append, self.network, Counts())
        )

    def file(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cluster.path(f"faults/{name}.json").read_text())
        return found


@pytest.mark.parametrize(
    "fault",
    [{"partition": True}, {"loss": 5}, {"bandwidth": "10kB/s"}, {"network-delay": "100ms"}, {"network-jitter": 20}],
)
def test_it_needs_a_time_limit(fault: dict[str, Any]) -> None:
    (name,) = fault
    for limits in ({}, {"for": "5s", "count": 3}):
        with pytest.raises(UserError, match=f"{name}: needs a time limit, and no count") as caught:
            change(fault | limits)
        assert caught.value.exit_code == 2
    assert change(fault | {"for": "5s"}).seconds == 5


def test_config_yaml_has_none() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("faults: {worker-0: {loss: 5, partition: true}}", WHERE)
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        "faults.worker-0.partition: needs a time limit (the command: faults worker-0 --partition --for 5s)",
        "faults.worker-0.loss: needs a time limit (the command: faults worker-0 --loss 5 --for 5s)",
    ]
    parse("faults: {worker-0: {loss: 0, partition: false}}", WHERE)


def test_an_order_reaches_the_network_and_not_the_workers_file(tmp_path: Path) -> None:
    orders = Orders(tmp_path, Network())
    orders.give("worker-1", partition=True, failure=30, for_="30s")
    orders.give("worker-1", loss="5%", for_="60s")
    assert orders.network.settings() == {"worker-1": [{"partition": True}, {"loss": 5.0}]}
    assert "partition" not in orders.file("worker-1")
    (lease,) = orders.file("worker-1")["overrides"]
    assert lease["failure"] == 30.0
    assert not {"partition", "loss"} & lease.keys()
    (listed,) = orders.give("worker-1")["workers"]
    assert listed["settings"]["partition"] is True
    assert listed["from"]["loss"] == "lease"


def test_a_fault_that_is_over_before_it_is_injected_is_refused(tmp_path: Path) -> None:
    orders = Orders(tmp_path, Network(seconds=0.02))
    with pytest.raises(UserError, match=r"over before they were in effect.*nothing was changed"):
        orders.give("worker-1", partition=True, failure=30, for_="10ms")
    assert orders.events == []
    (listed,) = orders.give("worker-1")["workers"]
    assert (listed["settings"]["failure"], listed["leases"]) == (12.0, [])
    orders.give("worker-1", partition=True, for_="60s")
    assert orders.network.settings() == {"worker-1": [{"partition": True}]}


def test_a_clear_and_a_harmless_value_end_it(tmp_path: Path) -> None:
    orders = Orders(tmp_path, Network())
    orders.give("all", partition=True, loss=9, for_="30s")
    orders.give("all", loss=0)
    assert orders.network.settings() == {"worker-0": [{"partition": True}], "worker-1": [{"partition": True}]}
    orders.give("worker-0", clear=True)
    assert orders.network.settings() == {"worker-1": [{"partition": True}]}
    orders.give("all", clear=True)
    assert orders.network.settings() == {}


def test_other_orders_leave_networks_alone(tmp_path: Path) -> None:
    orders = Orders(tmp_path, Network(*NAMES))
    orders.give("all", failure=30, for_="30s")
    orders.give("all", clear=True)
    assert orders.network.present == {}


def test_where_one_network_cannot_have_it_none_has_it(tmp_path: Path) -> None:
    orders = Orders(tmp_path, Network("worker-1"))
    orders.give("worker-0", loss=5, for_="60s")
    with pytest.raises(UserError, match="worker-1: cannot"):
        orders.give("all", partition=True, for_="5s")
    assert orders.network.settings() == {"worker-0": [{"loss": 5.0}]}
    assert [len(each["leases"]) for each in orders.give("all")["workers"]] == [1, 0]
    assert [event.fields["settings"] for event in orders.events] == [{"loss": 5.0}]


def test_no_fault_point_is_asked(tmp_path: Path) -> None:
    orders = Orders(tmp_path, Network(), "worker: 2\nworker-image: example")
    orders.give("worker-0", partition=True, for_="5s")
    assert orders.network.settings() == {"worker-0": [{"partition": True}]}
    with pytest.raises(UserError, match="a custom service"):
        orders.give("worker-0", partition=True, failure=3, for_="5s")


@pytest.mark.parametrize("runtime", [ProcessRuntime, SwarmRuntime, ExternalRuntime])
def test_workers_without_a_network_of_their_own_are_refused(runtime: Any) -> None:
    made = runtime.__new__(runtime)
    made.run = SimpleNamespace()
    with pytest.raises(
        UserError, match="worker-0: has no network of its own: partition, loss, bandwidth, net"
    ) as caught:
        made.require_network_faults("worker-0")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("fault", [{"network-delay": "61s"}, {"network-jitter": "2.1s"}, {"network-delay": -1}])
def test_a_delay_has_bounds_of_its_own(fault: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"out of range \(allowed: milliseconds, from 0 to (60000|2000)\)"):
        change(fault | {"for": "5s"})
    assert change({"network-delay": "1m", "network-jitter": "2s", "for": 5}).settings == {
        "network-delay": 60_000.0,
        "network-jitter": 2_000.0,
    }
