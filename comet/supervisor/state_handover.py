"""Decides whether a supervisor that ends may delete the cluster's state, or must leave it to the next one.

A `run` that finds replicas of an earlier supervisor takes them over late: it first needs its config, ports, image and
database. Until then the state by which those replicas are known stays untouched, however the `run` ends, and the next
`run` finds the same replicas. Once the takeover has begun, the state belongs to this supervisor: its end also ends what
it has not yet taken over.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

from comet.common.errors import UserError
from comet.concurrency.cancellation import Interruptible
from comet.config import chosen_ports, scale_override
from comet.engine.clients import Engines
from comet.engine.errors import engine_errors
from comet.faults import files as fault_files
from comet.runtimes import discovery
from comet.runtimes.replica_records import StateFile
from comet.state import secrets as secret_files
from comet.state import traffic_orders
from comet.state.directory import Cluster

T = TypeVar("T")

ENGINE_TIMEOUT = 15.0
"""Seconds until the engine must have listed its containers."""


class StateOwnership:
    """The ownership of one run's state; used on the loop's thread. `engines` are those that the run has connected."""

    def __init__(self, cluster: Cluster, engines: Engines) -> None:
        self._cluster = cluster
        self._engines = engines
        self.begun = False
        self.complete = False

    async def belongs_to_predecessor(self) -> bool:
        """Whether replicas of an earlier supervisor run that were not taken over.

        Containers of an engine that cannot be reached count as running.
        """
        return not self.begun and await self._on_thread(self._anything_runs, True)

    async def end_remaining(self, grace: float) -> None:
        """End what is left after all replicas have stopped.

        These are replicas that were not taken over, and stray processes of replicas.
        """
        await self._on_thread(lambda: self._end_remaining(grace), None, ENGINE_TIMEOUT + grace)

    def remove_state(self) -> None:
        """Remove the files that matter only while replicas run."""
        self._cluster.follow()
        for forget in (StateFile(self._cluster.path("state.json")).remove, self._cluster.clear_run):
            with contextlib.suppress(OSError):  # Something else is in its place; the next start reports it.
                forget()
        for kept in (scale_override, chosen_ports, fault_files, traffic_orders, secret_files):
            with contextlib.suppress(OSError):
                kept.forget(self._cluster)

    async def _on_thread(self, work: Callable[[], T], default: T, timeout: float = ENGINE_TIMEOUT) -> T:
        try:
            # Not with the waits of the run: the stop that is under way would end them at once.
            return await asyncio.wait_for(Interruptible(asyncio.get_running_loop()).blocking(work), timeout)
        except UserError:
            return default
        except engine_errors():  # A TimeoutError is one of these.
            return default

    def _anything_runs(self) -> bool:
        found = discovery.find(self._cluster, self._engines, complete=True, recorded=True)
        return any(each.name and each.running for each in found)

    def _end_remaining(self, grace: float) -> None:
        rest = [] if self.complete or not self.begun else discovery.find(self._cluster, self._engines)
        rest += discovery.find_strays(self._cluster)
        for _ in discovery.end(self._cluster, rest, self._engines, grace):
            pass
