"""The runtime of workers that are containers of this machine's Docker engine."""

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import docker

from comet.common.errors import UserError
from comet.config.schema import Config
from comet.engine import connection
from comet.engine import traits as engine_traits
from comet.events.event import Event
from comet.faults import files as fault_files
from comet.images import worker_image
from comet.reconcile.replica import ManagedReplica, Replica, ReplicaSpec
from comet.runtimes.adoption import Adoption, running_workers
from comet.runtimes.docker import render
from comet.runtimes.docker.container_states import Known
from comet.runtimes.docker.database_connection import DatabaseConnection
from comet.runtimes.docker.driver import ContainerDriver
from comet.runtimes.docker.finder import DRIVER, KIND, is_network_fault, is_relay
from comet.runtimes.docker.network import remove_networks
from comet.runtimes.docker.network_faults import NetworkFaults
from comet.runtimes.interface import AdoptingRuntime, RenderContext, RunServices
from comet.runtimes.orphan import Orphan
from comet.runtimes.replica_records import Record
from comet.state.directory import worker_owner
from comet.statistics import access
from comet.statistics.database import Access, Place, Server


class DockerRuntime(AdoptingRuntime):
    driver_name, kind = DRIVER, KIND
    driver: ContainerDriver

    def __init__(self, run: RunServices, url_file: str = "database") -> None:
        """Create the runtime; `url_file` is the name of the file in which the database's URL is kept."""
        super().__init__(run)
        self._client: docker.DockerClient | None = None
        self._database = DatabaseConnection(run.cluster, url_file, run.wait, run.notify)
        self._relayed: tuple[str, str] | None = None
        self._restoring_image = threading.Lock()

    @property
    def client(self) -> docker.DockerClient:
        assert self._client is not None, "connect comes first"
        return self._client

    def connect(self, where: Place | Server | None) -> None:
        self._client = self.run.engines.local = connection.connect_for_workers()
        self._relayed = None if where is None else access.relayed(where)

    async def prepare(self, where: Place | Server | None) -> RenderContext:
        config, owner = self.run.config(), worker_owner()
        image = await self._image(config) if config.worker or self._relayed else None
        database = Access({})
        if where is not None:
            database = await self._database.open(where, self.client, image, self._relayed)
        return RenderContext(self.run.cluster, database, owner, image)

    async def renew(self, config: Config, context: RenderContext) -> RenderContext:
        return replace(context, image=await self._image(config))

    async def complete(self, config: Config, context: RenderContext) -> RenderContext:
        return await self.renew(config, context) if context.image is None and config.worker else context

    def open(self) -> None:
        run = self.run
        traits = engine_traits.of(self.client)
        self.driver = ContainerDriver(
            run.loop, run.sink, run.notify, self.client, run.cluster.id or "", run.cluster.mark, traits
        )
        self.driver.before_start = run.cluster.require_in_place
        self.driver.containers.restore_image = self._restore_image
        self._network_faults = NetworkFaults(self.client, run.cluster.id or "", traits, self._own_image)
        self.driver.after_start = self._resume_network_faults
        self.driver.before_removal = self._network_faults.end
        self.driver.watch()

    async def close(self, timeout: float, belongs_to_predecessor: bool, stuck: bool) -> None:
        await self._database.close(timeout, leave=belongs_to_predecessor)
        if self._client is not None and not stuck and not belongs_to_predecessor:
            await self._remove_networks(self._client, timeout)

    @classmethod
    def render(cls, config: Config, context: RenderContext, index: int) -> ManagedReplica:
        return render.worker(config, context, index)

    def adoptable(
        self, members: Sequence[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
    ) -> list[Adoption]:
        return running_workers(members, found, records)

    def adopt(self, adoption: Adoption, replica: Replica) -> None:
        self.driver.adopt(replica.spec, replica.instance, adoption.orphan.id)

    def keeps(self, orphan: Orphan) -> bool:
        """Whether it is the relay, and workers need one, or injects faults that have their time limit."""
        return orphan.driver == DRIVER and (
            is_network_fault(orphan) or (is_relay(orphan) and self._relayed is not None)
        )

    def keeps_mounts(self, spec: ReplicaSpec) -> bool:
        return True

    def require_orders(self) -> None:
        if self.driver.lost:
            raise UserError(f"{self.driver.lost}; try again when it is back")

    def require_network_faults(self, name: str) -> None:
        if not engine_traits.of(self.client).networks_can_fail:
            raise UserError(
                f"faults: {name}: published ports bypass its network on rootless Podman (choose another engine, or "
                "hang with fault-point: lb); nothing was changed",
                2,
            )

    async def inject_network_faults(self, name: str, leases: list[dict[str, Any]]) -> None:
        await self.driver.between_actions(name, lambda known: self._network_faults.inject(name, known, leases))

    async def send_signal(self, name: str, signal: int) -> None:
        self.require_orders()
        await self.driver.send_signal(name, signal)

    def _resume_network_faults(self, known: Known) -> None:
        """Let the leases that hold apply to a container that was started: its network is a new one."""
        name = known.spec.name
        try:
            leases = fault_files.network_leases(self.run.cluster, name)
            if leases:
                self._network_faults.inject(name, known, leases)
        except UserError as error:
            event = Event("engine_error", name, {"reason": error.message})
            self.run.loop.call_soon_threadsafe(self.run.notify, event)

    def _own_image(self) -> str:
        """Return the image of the built-in worker, in which the helpers of any service are; it may have to be built."""
        run = self.run
        return worker_image.ensure_image(self.client, run.cluster.folder, run.step, run.wait.cancelled)

    async def _image(self, config: Config) -> str:
        run = self.run
        return await run.wait.blocking(
            lambda: worker_image.provided(
                self.client, run.cluster.folder, config.worker_image, run.step, run.wait.cancelled
            )
        )

    def _restore_image(self, image: str) -> None:
        """Rebuild the worker image after it was deleted while the cluster runs; UserError where it is the user's image.

        To be called on a thread. One call builds at a time.
        """
        run, wanted = self.run, self.run.config().worker_image
        if wanted is not None:
            raise UserError(f"the image {wanted} was deleted: get it again, then: python supervisor.py reload")
        with self._restoring_image:
            if not worker_image.has_image(self.client, image):  # Another worker may just have got it.
                run.loop.call_soon_threadsafe(run.notify, Event("image_deleted", None, {"image": image}))
            worker_image.ensure_image(self.client, run.cluster.folder, run.step, run.wait.cancelled)

    async def _remove_networks(self, client: docker.DockerClient, timeout: float) -> None:
        """Remove the networks, for `timeout` seconds at most; `stop` or `clean` removes what is left then."""
        removed = asyncio.Event()

        def remove() -> None:
            remove_networks(client, self.run.cluster.id or "")
            with contextlib.suppress(RuntimeError):  # The loop is closed: the wait has ended.
                self.run.loop.call_soon_threadsafe(removed.set)

        threading.Thread(target=remove, name="networks", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(removed.wait(), timeout)


RUNTIME = DockerRuntime
