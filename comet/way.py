"""The workers' way to their database: found, tried and, where it needs a relay, kept up from before the first worker's start to the end."""

import asyncio
import threading
import time
from collections.abc import Callable

import docker

from comet import database, reach
from comet.cluster import Cluster, worker_owner
from comet.config import Config
from comet.drivers.relay import Keeper, Relay, forget_trial, trial
from comet.errors import UserError
from comet.events import Event
from comet.interruptible import Interruptible, Stopped

LOOK_PAUSE = 0.02
"""Seconds between two looks whether the relay is gone."""


class Way:
    """Of one run of one cluster; on the loop's thread."""

    def __init__(self, cluster: Cluster, config: Config, wait: Interruptible, tell: Callable[[Event], None]) -> None:
        self._cluster = cluster
        self._config = config
        self._wait = wait
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._keeper: Keeper | None = None

    async def open(
        self,
        where: database.Place | database.Server,
        client: docker.DockerClient | None,
        image: str | None,
        relayed: tuple[str, str] | None,
    ) -> database.Access:
        """How workers come to the database; before any is started it is tried whether they can. `relayed` is the address that containers
        reach through a relay only. UserError: they cannot."""
        cluster, owner = self._cluster, worker_owner()
        if self._config.runtime == "swarm":
            return await self._wait.blocking(lambda: reach.by_task(where))
        if client is None:
            return reach.by_process(where, cluster, owner)
        access = await self._wait.blocking(lambda: reach.by_container(where, cluster, owner))
        if isinstance(where, database.Place) or image is None:
            return access
        identity = cluster.id or ""
        if relayed is not None:
            await self._keep(Relay(client, identity, image, owner, cluster.path(reach.RELAY), relayed))
        try:
            trouble = await self._wait.blocking(lambda: trial(client, identity, image, owner, access.environment, access.mounts))
        except Stopped:
            threading.Thread(target=forget_trial, args=(client, identity), daemon=True).start()
            raise
        if trouble is not None:
            raise UserError(f"{where.origin}: from within a container: {trouble}", 2)
        return access

    async def close(self, patience: float) -> None:
        """Remove the relay, if there is one; waits for that for so many seconds at most."""
        if self._keeper is None:
            return
        self._keeper.end()
        deadline = time.monotonic() + patience
        while not self._keeper.ended() and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_PAUSE)

    async def _keep(self, relay: Relay) -> None:
        """Have the relay run from here on until the end; UserError: it does not."""
        up: asyncio.Future[str | None] = self._loop.create_future()

        def told(trouble: str | None) -> None:
            if not up.done():
                up.set_result(trouble)

        self._keeper = Keeper(
            relay,
            lambda trouble: self._loop.call_soon_threadsafe(told, trouble),
            lambda event: self._loop.call_soon_threadsafe(self._tell, event),
        )
        trouble = await self._wait.outcome(up)
        if trouble is not None:
            raise UserError(trouble)
