"""The runtime of upstreams that already run: the load balancers forward to them, and nothing starts or stops them."""

from dataclasses import replace

from comet.common.errors import UserError
from comet.config.schema import Config
from comet.reconcile.replica import ManagedReplica, ReplicaSpec
from comet.runtimes.external.driver import Address, ExternalDriver
from comet.runtimes.external.finder import DRIVER, KIND, refuse
from comet.runtimes.interface import RenderContext, RunServices, SingleRuntime
from comet.workloads import builtin


class ExternalRuntime(SingleRuntime):
    driver_name, kind = DRIVER, KIND
    driver: ExternalDriver

    def __init__(self, run: RunServices) -> None:
        super().__init__(run)
        self.driver = ExternalDriver(run.loop, run.sink)

    def open(self) -> None:
        return

    @classmethod
    def render(cls, config: Config, context: RenderContext, index: int) -> ManagedReplica:
        address = Address(*config.upstreams[index])
        launch = builtin.with_fingerprint(address, address.port)
        spec = builtin.worker(config, index, KIND, DRIVER, launch).spec
        return ManagedReplica(replace(spec, port=address.port, unhealthy_grace=None))

    def address(self, config: Config, spec: ReplicaSpec) -> tuple[str, int] | None:
        return None

    def must_roll(self, before: ReplicaSpec, after: ReplicaSpec) -> bool:
        return False

    def apply(self, present: ReplicaSpec, member: ManagedReplica) -> ManagedReplica:
        if present.launch != member.spec.launch:
            self.driver.move(member.spec.name, member.spec.launch)
        return member

    def require_killable(self, name: str) -> None:
        refuse(name, "send no signal to it")

    def require_lifecycle(self) -> None:
        raise UserError(
            "the workers are upstreams that Comet neither starts nor stops (edit `upstreams` and reload; `restart lb` "
            "renews the load balancers)",
            2,
        )


RUNTIME = ExternalRuntime
