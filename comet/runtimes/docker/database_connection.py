"""Sets up the containers' access to their database and tests it.

If the access needs a relay, the relay runs from before the first worker's start to the end.
"""

import asyncio
import threading
import time
from collections.abc import Callable

import docker

from comet.common.errors import UserError
from comet.concurrency.cancellation import Interruptible, Stopped
from comet.engine import traits as engine_traits
from comet.events.event import Event
from comet.runtimes.docker.network import Networks, network_name
from comet.runtimes.docker.relay import Relay, RelaySupervisor, forget_trial, trial
from comet.state.directory import Cluster, worker_owner
from comet.statistics import access as database_access
from comet.statistics import database

POLL_INTERVAL = 0.02
"""Seconds between two checks whether the relay is gone."""


LOOPBACK = (
    "containers of rootless Docker do not reach this machine's loopback (name the folder of the server's socket as "
    "the host: "
    "postgresql://user@/database?host=/run/postgresql, or another address of this machine)"
)


class DatabaseConnection:
    """The database access of one run of one cluster; it is used on the loop's thread."""

    def __init__(self, cluster: Cluster, url_file: str, wait: Interruptible, notify: Callable[[Event], None]) -> None:
        """Create the connection; `url_file` is the name of the file in which the database's URL is kept."""
        self._cluster = cluster
        self._url_file = url_file
        self._wait = wait
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._supervisor: RelaySupervisor | None = None

    async def open(
        self,
        where: database.Place | database.Server,
        client: docker.DockerClient,
        image: str | None,
        relayed: tuple[str, str] | None,
    ) -> database.Access:
        """Return how workers reach the database, after a test before any of them is started.

        `relayed` is the address that containers reach only through a relay. Raise UserError if they cannot reach it.
        """
        cluster, owner = self._cluster, worker_owner()
        access = await self._wait.blocking(lambda: database_access.by_container(where, cluster, owner, self._url_file))
        if isinstance(where, database.Place) or image is None:
            return access
        identity = cluster.id or ""
        if relayed is not None:
            if not engine_traits.of(client).reaches_loopback:
                raise UserError(f"{where.origin}: {where.location}: {LOOPBACK}", 2)
            await self._start_relay(Relay(client, identity, image, owner, cluster.path(database_access.RELAY), relayed))
        try:
            problem = await self._wait.blocking(self._connection_test(client, image, access))
        except Stopped:
            threading.Thread(target=forget_trial, args=(client, identity), daemon=True).start()
            raise
        if problem is not None:
            raise UserError(f"{where.origin}: from within a container: {problem}", 2)
        return access

    def _connection_test(
        self, client: docker.DockerClient, image: str, access: database.Access
    ) -> Callable[[], str | None]:
        """Return the test as work for a thread; it uses the network that the workers will use."""
        identity, owner = self._cluster.id or "", worker_owner()
        networks = Networks(client, identity, lambda event: self._loop.call_soon_threadsafe(self._notify, event))

        def work() -> str | None:
            network = networks.ensure(network_name(identity, access.outward))
            return trial(client, identity, image, owner, access.environment, access.mounts, network)

        return work

    async def close(self, timeout: float, leave: bool = False) -> None:
        """Remove the relay, if there is one, and wait at most `timeout` seconds for its end.

        With `leave` it stays, because others need it.
        """
        if self._supervisor is None:
            return
        self._supervisor.end(leave)
        deadline = time.monotonic() + timeout
        while not self._supervisor.ended() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_INTERVAL)

    async def _start_relay(self, relay: Relay) -> None:
        """Run the relay from now on until the end; raise UserError if it does not start."""
        started: asyncio.Future[str | None] = self._loop.create_future()

        def report_start(problem: str | None) -> None:
            if not started.done():
                started.set_result(problem)

        self._supervisor = RelaySupervisor(
            relay,
            lambda problem: self._loop.call_soon_threadsafe(report_start, problem),
            lambda event: self._loop.call_soon_threadsafe(self._notify, event),
        )
        problem = await self._wait.outcome(started)
        if problem is not None:
            raise UserError(problem)
