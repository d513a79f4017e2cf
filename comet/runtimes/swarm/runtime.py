"""The runtime of workers that are the tasks of a Docker Swarm service."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import docker

from comet.common.errors import UserError
from comet.config.schema import Config
from comet.engine import connection
from comet.images import worker_image
from comet.reconcile.replica import ManagedReplica, Replica, ReplicaSpec
from comet.runtimes.adoption import Adoption
from comet.runtimes.interface import AdoptingRuntime, DelegatedRuntime, RenderContext, RunServices
from comet.runtimes.orphan import Orphan
from comet.runtimes.replica_records import Record
from comet.runtimes.swarm import render
from comet.runtimes.swarm.driver import SwarmDriver
from comet.runtimes.swarm.finder import DRIVER, KIND
from comet.runtimes.swarm.manager import require_manager
from comet.runtimes.swarm.service_spec import SECRET_FILE
from comet.state.directory import worker_owner
from comet.statistics import access
from comet.statistics.database import Access, Place, Server


class SwarmRuntime(AdoptingRuntime, DelegatedRuntime):
    driver_name, kind = DRIVER, KIND
    driver: SwarmDriver

    def __init__(self, run: RunServices) -> None:
        super().__init__(run)
        self._client: docker.DockerClient | None = None
        self._own_node = ""

    @property
    def client(self) -> docker.DockerClient:
        assert self._client is not None, "connect comes first"
        return self._client

    def connect(self, where: Place | Server | None) -> None:
        self._client = self.run.engines.manager = connection.connect_manager()
        self._own_node = require_manager(self.client)

    async def prepare(self, where: Place | Server | None) -> RenderContext:
        config, run = self.run.config(), self.run
        image = await self._image(config) if config.worker else None
        database = Access({})
        if where is not None:
            database = await run.wait.blocking(lambda: access.by_task(where, f"/run/secrets/{SECRET_FILE}"))
        return RenderContext(run.cluster, database, worker_owner(), image)

    async def renew(self, config: Config, context: RenderContext) -> RenderContext:
        return replace(context, image=await self._image(config))

    async def complete(self, config: Config, context: RenderContext) -> RenderContext:
        return await self.renew(config, context) if context.image is None and config.worker else context

    def open(self) -> None:
        run = self.run
        self.driver = SwarmDriver(run.loop, run.sink, run.notify, self.client, run.cluster.id or "", self._own_node)
        self.driver.watch()

    @classmethod
    def render(cls, config: Config, context: RenderContext, index: int) -> ManagedReplica:
        return render.worker(config, context, index)

    def address(self, config: Config, spec: ReplicaSpec) -> tuple[str, int] | None:
        return None

    def adoptable(
        self, members: Sequence[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
    ) -> list[Adoption]:
        """Return the serving tasks of the service, on any node; the label of the service has their fingerprint."""
        serving = {orphan.name: orphan for orphan in found if orphan.task is not None}
        named = [(member, serving.get(member.spec.name)) for member in members]
        return [
            Adoption(member, orphan, records.get(member.spec.name), made_fingerprint=orphan.fingerprint)
            for member, orphan in named
            if orphan is not None
        ]

    def adopt(self, adoption: Adoption, replica: Replica) -> None:
        assert adoption.orphan.task is not None
        assert replica.endpoint is not None
        self.driver.adopt(replica.spec, replica.instance, adoption.orphan.task, replica.id or "", replica.endpoint.port)

    def keeps(self, orphan: Orphan) -> bool:
        """The swarm keeps its tasks running, and ends surplus ones once it knows the wanted number."""
        return orphan.driver == DRIVER

    def require_orders(self) -> None:
        self.driver.require_manager()

    def require_killable(self, name: str) -> None:
        self.driver.require_local(name)

    async def send_signal(self, name: str, signal: int) -> None:
        await self.driver.send_signal(name, signal)

    def require_single(self, name: str) -> None:
        raise UserError(
            f"{name}: a swarm replaces the workers of a service all together (restart worker), it takes no order for "
            "a single one"
        )

    async def roll(self, member: ManagedReplica) -> None:
        await self.driver.roll(member.spec.launch, member.spec.start_timeout)

    async def roll_back(self, member: ManagedReplica) -> None:
        await self.driver.roll_back(member.spec.start_timeout)

    async def _image(self, config: Config) -> str:
        """Return the image by a name that every node understands."""
        run = self.run
        if config.worker_image is not None and config.registry is None:
            return worker_image.qualified_name(config.worker_image)  # Each node has it or pulls it itself.
        image = await run.wait.blocking(
            lambda: worker_image.provided(
                self.client, run.cluster.folder, config.worker_image, run.step, run.wait.cancelled
            )
        )
        registry = config.registry
        if registry is None:
            return image
        return await run.wait.blocking(
            lambda: worker_image.push(self.client, image, config.worker_image, registry, run.step, run.wait.cancelled)
        )


RUNTIME = SwarmRuntime
