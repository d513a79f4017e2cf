"""Drives nothing: an upstream that already runs is there from the first moment, and goes on when the cluster stops.

The load balancers alone decide whether it is healthy. Every report is made in a separate turn of the loop, because
its consequences may call this driver.
"""

import asyncio
from dataclasses import dataclass

from comet.common.values import url_host
from comet.reconcile.driver_interface import Driver, Sink
from comet.reconcile.observations import Endpoint, Observation, Ready, Removed, Replaced, Started
from comet.reconcile.replica import ReplicaSpec


@dataclass(frozen=True)
class Address:
    """Where an upstream listens; a name is looked up by the load balancers, again and again."""

    host: str
    port: int
    fingerprint: str = ""

    def __str__(self) -> str:
        return f"{url_host(self.host)}:{self.port}"

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.host, self.port)


class ExternalDriver(Driver):
    def __init__(self, loop: asyncio.AbstractEventLoop, sink: Sink) -> None:
        self._loop = loop
        self._sink = sink

    def start(self, spec: ReplicaSpec, instance: int) -> None:
        self._report(spec.name, Started(None, str(spec.launch), spec.launch.endpoint), instance)
        self._report(spec.name, Ready(), instance)

    def move(self, name: str, address: Address) -> None:
        """Send the requests of this name to another address from now on."""
        self._report(name, Replaced(str(address), address.endpoint, checked=True))

    def terminate(self, name: str) -> None:
        self._report(name, Removed())

    def kill(self, name: str, signal: int) -> None:
        self._report(name, Removed())

    def remove(self, name: str) -> None:
        self._report(name, Removed())

    def _report(self, name: str, observation: Observation, instance: int | None = None) -> None:
        self._loop.call_soon(self._sink, name, instance, observation)
