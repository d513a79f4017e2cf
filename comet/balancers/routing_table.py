"""Derives the routing table of the load balancers from the state of the replicas.

Pure: the table has no memory of its own, so it never contradicts the replicas.
"""

from collections.abc import Iterable, Mapping

from comet.reconcile.observations import Endpoint
from comet.reconcile.replica import SERVING, Replica, State
from lb.interface.settings import DOWN, DRAINING, UP, UpstreamSpec


def table(fleet: Iterable[Replica], endpoints: Mapping[str, Endpoint]) -> tuple[UpstreamSpec, ...]:
    """Return the upstreams in rotation order: replicas that have an endpoint, their own or a fixed one by name."""
    return tuple(
        UpstreamSpec(
            replica.name,
            endpoint.host,
            endpoint.port,
            _upstream_state(replica),
            endpoint.health_path,
            endpoint.health_host,
            spare=replica.spec.spare,
        )
        for replica in sorted(fleet, key=lambda replica: replica.spec.port)
        if (endpoint := replica.endpoint or endpoints.get(replica.name)) is not None
        and replica.state is not State.STOPPED
    )


def _upstream_state(replica: Replica) -> str:
    if replica.lost:
        return DOWN
    if replica.state in SERVING:
        return UP
    return DRAINING if replica.state is State.STOPPING and replica.alive else DOWN


def keeps_view(former: UpstreamSpec | None, spec: UpstreamSpec) -> bool:
    """Whether a load balancer keeps its view of this worker; the path of its health check may differ."""
    return former is not None and (former.host, former.port, former.state) == (spec.host, spec.port, spec.state)
