"""The interface of all runtimes: how the replicas of one kind are made, driven, adopted and replaced.

A run makes one object of each runtime that it uses. The supervisor asks these, and never which runtime it is that it
asks. Load balancers are a runtime as workers are. What needs no supervisor is in `comet.runtimes.finder`.

The order of a run is: `connect` (on a thread), `prepare`, `open`, then whatever happens to its replicas, then `close`.
A `Runtime` may be composed of others; what concerns single replicas is asked of the `SingleRuntime` with their driver.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from comet.common.errors import UserError
from comet.common.file_checks import Owner
from comet.concurrency.cancellation import Interruptible
from comet.config.fault_settings import NETWORK
from comet.config.schema import Config
from comet.engine.clients import Engines
from comet.events.event import Event
from comet.host.sockets import Listeners
from comet.reconcile.driver_interface import Driver, Sink
from comet.reconcile.observations import Endpoint
from comet.reconcile.replica import ManagedReplica, Replica, ReplicaSpec
from comet.runtimes.adoption import Adoption, Inheritance
from comet.runtimes.orphan import Orphan
from comet.runtimes.replica_records import Record
from comet.state.directory import Cluster
from comet.statistics.database import Access, Place, Server


class Replacement(Enum):
    """How a running replica is replaced while the cluster serves, in the order in which an update goes about it."""

    DELEGATED = "the runtime replaces all of them itself"
    SURGE = "one by one, while one more than wanted serves"
    HAND_OVER = "a successor accepts on the same socket before the old one ends"


@dataclass(frozen=True)
class RenderContext:
    """What replicas depend on besides the config: the cluster, its database, their user, their image.

    `certificate` is the digest of the load balancers' certificate, None for plain HTTP. A runtime that is composed of
    others keeps the context of each in `parts`.
    """

    cluster: Cluster
    database: Access
    owner: Owner
    image: str | None = None
    certificate: str | None = None
    parts: tuple["RenderContext", ...] = ()

    def of_parts(self, parts: Iterable["RenderContext"]) -> "RenderContext":
        return replace(self, parts=tuple(parts))


@dataclass(frozen=True)
class RunServices:
    """What a run provides to its runtimes.

    `config` returns the effective config. `step` tells the user of a step; it may be called on any thread.
    """

    loop: asyncio.AbstractEventLoop
    cluster: Cluster
    sink: Sink
    notify: Callable[[Event], None]
    listeners: Listeners
    engines: Engines
    wait: Interruptible
    step: Callable[[str], None]
    config: Callable[[], Config]


class Runtime(ABC):
    """What `runtime:` names, in one run: it provides what replicas need, and renders them.

    All methods but `connect` run on the loop's thread.
    """

    def __init__(self, run: RunServices) -> None:
        self.run = run

    @property
    @abstractmethod
    def parts(self) -> Sequence["SingleRuntime"]:
        """The runtimes of its replicas' drivers: itself, or those that it is composed of."""

    def connect(self, where: Place | Server | None) -> None:
        """Connect whatever the runtime needs, on a thread; UserError where that is missing.

        `where` is the database, None where the workers are a custom service.
        """
        return

    async def prepare(self, where: Place | Server | None) -> RenderContext:
        """Provide image and database access; UserError where workers could not be started with them."""
        return RenderContext(self.run.cluster, Access({}), Owner(0, 0))

    async def renew(self, config: Config, context: RenderContext) -> RenderContext:
        """Return the context for another config."""
        return context

    async def complete(self, config: Config, context: RenderContext) -> RenderContext:
        """Return the context with what the workers of this config need and it lacks."""
        return context

    async def close(self, timeout: float, belongs_to_predecessor: bool, stuck: bool) -> None:
        """Remove what serves all replicas, within `timeout` seconds; the drivers are closed afterwards.

        Nothing is removed that an earlier supervisor's replicas need, or those that are `stuck`.
        """
        return

    @classmethod
    @abstractmethod
    def render(cls, config: Config, context: RenderContext, index: int) -> ManagedReplica:
        """Return the replica with this number."""

    def require_orders(self) -> None:
        """Raise UserError while nothing can be changed."""
        return

    def require_lifecycle(self) -> None:
        """Raise UserError where replicas are neither started nor stopped by Comet."""
        return


class SingleRuntime(Runtime):
    """A runtime with one driver, which all its replicas have. All methods run on the loop's thread.

    `driver_name` and `kind` are the names in the state file.
    """

    driver_name: str
    kind: str
    replacement = Replacement.SURGE
    is_upstream = True
    """Whether load balancers forward requests to its replicas."""
    trims_logs = False
    """Whether its replicas write logs that nothing else bounds."""
    driver: Driver
    """Set by `open`."""

    @property
    def parts(self) -> Sequence["SingleRuntime"]:
        return (self,)

    def warm_up(self) -> None:
        """Begin what takes a while before a first start."""
        return

    @abstractmethod
    def open(self) -> None:
        """Make the driver, if it is not made yet, and begin to watch."""

    @property
    def is_open(self) -> bool:
        """Whether there is a driver."""
        return "driver" in vars(self)

    def address(self, config: Config, spec: ReplicaSpec) -> tuple[str, int] | None:
        """Return host and port of this machine that a replica listens on; None where other machines have them."""
        return config.worker_host, spec.port

    def url_path(self, config: Config) -> str:
        """Return what follows host and port in the URL that a user is shown."""
        return ""

    def held_socket(self, config: Config, spec: ReplicaSpec) -> tuple[str, int, bool] | None:
        """Return host, port and whether it blocks of the listening socket that the supervisor is to hold."""
        return None

    # What an earlier supervisor left.

    @property
    def adopting(self) -> "AdoptingRuntime | None":
        """The interface by which a supervisor takes over replicas; None where it starts all of them itself."""
        return None

    def keeps(self, orphan: Orphan) -> bool:
        """Whether something that was found and not adopted is still of use, so that it must not be ended."""
        return False

    # Single replicas.

    def must_roll(self, before: ReplicaSpec, after: ReplicaSpec) -> bool:
        """Whether a running replica has to be replaced for this change."""
        return bool(before.launch != after.launch)

    def apply(self, present: ReplicaSpec, member: ManagedReplica) -> ManagedReplica:
        """Apply what can change while the replica runs; return its description from now on."""
        return member

    def successor(self, former: ReplicaSpec, spec: ReplicaSpec) -> ReplicaSpec:
        """Return the spec of a replica that runs next to the previous one of its name."""
        return spec

    def shorten_drain(self, config: Config, spec: ReplicaSpec) -> ReplicaSpec:
        """Have a replica end sooner, since at a stop no successor continues what it does; return its spec."""
        return spec

    def repair(self, replicas: Iterable[Replica]) -> list[str]:
        """Restore files that were removed and belong to the runtime or its replicas; return their names."""
        return []

    async def send_signal(self, name: str, signal: int) -> None:
        """Send a signal to a replica; raise UserError unless it was sent."""
        self.driver.kill(name, signal)

    def require_killable(self, name: str) -> None:
        """Raise UserError where no signal reaches the replica."""
        return

    def require_single(self, name: str) -> None:
        """Raise UserError where a single replica cannot be replaced."""
        return

    def keeps_mounts(self, spec: ReplicaSpec) -> bool:
        """Whether a replica sees the cluster's folders as they were mounted at its start."""
        return False

    def has_lost_access(self, replica: Replica) -> bool:
        """Whether a folder above what a replica needs was closed to its user since its start."""
        return False

    def port_conflict(self, replica: Replica, endpoint: Endpoint) -> str:
        """Return why a ready check does not reach this replica but another program, "" where it does; may block."""
        return ""

    def port_hint(self, replica: Replica) -> str:
        """Return what keeps a replica from its port, "" where nothing is known; may block."""
        return ""

    def record(self, replica: Replica) -> dict[str, Any]:
        """Return the fields of a replica's record that only this runtime knows."""
        return {}

    def require_network_faults(self, name: str) -> None:
        """Raise UserError where a replica has no network of its own that could have faults."""
        raise UserError(
            f"faults: {name}: has no network of its own: {', '.join(NETWORK)} are for containers of this machine "
            "(choose one, or hang with fault-point: lb); nothing was changed",
            2,
        )

    async def inject_network_faults(self, name: str, leases: list[dict[str, Any]]) -> None:
        """Let these leases hold of a replica's network, in place of earlier ones; UserError where they cannot."""
        return

    def counters(self, replica: Replica) -> str | None:
        """Return the file in `.comet/run/` in which a replica counts the traffic; None where it counts none."""
        return None

    @property
    def awaited_pids(self) -> set[int]:
        """The PIDs of this process's children that the runtime itself waits for."""
        return set()


class AdoptingRuntime(SingleRuntime):
    """A runtime whose replicas outlive a supervisor, so that the next one can take them over."""

    @property
    def adopting(self) -> "AdoptingRuntime":
        return self

    @abstractmethod
    def adoptable(
        self, members: Sequence[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
    ) -> list[Adoption]:
        """Return the replicas among `members` that run and can be adopted; may block."""

    @abstractmethod
    def adopt(self, adoption: Adoption, replica: Replica) -> None:
        """Drive a replica that already runs."""

    def inherit(
        self, members: Sequence[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
    ) -> list[Inheritance]:
        """Hold the sockets of replicas that live and cannot be adopted; return what is to be started on them."""
        return []


class DelegatedRuntime(SingleRuntime):
    """A runtime that replaces all its replicas itself."""

    replacement = Replacement.DELEGATED

    @abstractmethod
    async def roll(self, member: ManagedReplica) -> None:
        """Replace all replicas by such ones; UserError where that was undone."""

    @abstractmethod
    async def roll_back(self, member: ManagedReplica) -> None:
        """Undo the last `roll`."""
