"""The runtime in which workers alternate: those with an even number are containers, the others are processes.

All is done by the two runtimes that it is composed of; this only says which worker is whose. Both kinds share the
application, the policy, the load balancers and the database: its file by a mount and by its path, or a server.
"""

import asyncio

from comet.config.schema import Config
from comet.reconcile.replica import ManagedReplica
from comet.runtimes.docker.runtime import DockerRuntime
from comet.runtimes.interface import RenderContext, RunServices, Runtime
from comet.runtimes.process.runtime import ProcessRuntime
from comet.state.directory import worker_owner
from comet.statistics.database import Access, Place, Server

CONTAINER_URL_FILE = "container-database"
"""The file with the database's URL for containers, which may reach a server at another address than processes."""


class MixedRuntime(Runtime):
    def __init__(self, run: RunServices) -> None:
        super().__init__(run)
        self._parts = DockerRuntime(run, CONTAINER_URL_FILE), ProcessRuntime(run)

    @property
    def parts(self) -> tuple[DockerRuntime, ProcessRuntime]:
        return self._parts

    def connect(self, where: Place | Server | None) -> None:
        for part in self.parts:
            part.connect(where)

    async def prepare(self, where: Place | Server | None) -> RenderContext:
        contexts = [await part.prepare(where) for part in self.parts]
        return RenderContext(self.run.cluster, Access({}), worker_owner(), parts=tuple(contexts))

    async def renew(self, config: Config, context: RenderContext) -> RenderContext:
        pairs = zip(self.parts, context.parts, strict=True)
        return context.of_parts([await part.renew(config, each) for part, each in pairs])

    async def complete(self, config: Config, context: RenderContext) -> RenderContext:
        pairs = zip(self.parts, context.parts, strict=True)
        return context.of_parts([await part.complete(config, each) for part, each in pairs])

    async def close(self, timeout: float, belongs_to_predecessor: bool, stuck: bool) -> None:
        await asyncio.gather(*(part.close(timeout, belongs_to_predecessor, stuck) for part in self.parts))

    def require_orders(self) -> None:
        for part in self.parts:
            part.require_orders()

    @classmethod
    def render(cls, config: Config, context: RenderContext, index: int) -> ManagedReplica:
        part = (DockerRuntime, ProcessRuntime)[index % 2]
        return part.render(config, context.parts[index % 2], index)


RUNTIME = MixedRuntime
