"""Keeps what operators have ordered of the traffic in `.comet/traffic.json`: drained workers, and a pause.

Orders outlive restarts of workers and load balancers, `reload`, and the supervisor. They end when the cluster is
stopped.
"""

import json
from dataclasses import dataclass
from math import inf

from comet.common.json_values import decode, require_shape
from comet.host import files
from comet.host.process_identity import boot_id
from comet.state.directory import Cluster

FILE = "traffic.json"


@dataclass(frozen=True)
class TrafficOrders:
    """The orders.

    `paused_until` is when the pause ends, in monotonic seconds; infinity where only an order ends it, None without a
    pause.
    """

    drained: frozenset[str] = frozenset()
    paused_until: float | None = None


def read(cluster: Cluster) -> TrafficOrders:
    """Return the orders; none if the file is missing or invalid. A pause does not outlive a boot."""
    try:
        shape = {"drained": list[str], "pause": dict[str, float | None] | None, "boot": str}
        content = require_shape(decode(files.read(cluster.path(FILE))), shape)
    except (OSError, ValueError):
        return TrafficOrders()
    until = None
    if content["pause"] is not None and content["boot"] == boot_id():
        end = content["pause"].get("until")
        until = inf if end is None else end
    return TrafficOrders(frozenset(content["drained"]), until)


def write(cluster: Cluster, orders: TrafficOrders) -> None:
    """Write the orders; raise OSError where the disk is full."""
    until = orders.paused_until
    pause = None if until is None else {"until": None if until == inf else until}
    content = {"drained": sorted(orders.drained), "pause": pause, "boot": boot_id()}
    files.write(cluster.path(FILE), json.dumps(content) + "\n")


def forget(cluster: Cluster) -> None:
    files.remove(cluster.path(FILE))
