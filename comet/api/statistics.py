"""The request statistics of a cluster: from the database of the built-in workers, or the load balancers' counters."""

from typing import Any

from comet.balancers import request_statistics
from comet.config.schema import Config
from comet.state.directory import Cluster, worker_owner
from comet.statistics import database


def report(config: Config, cluster: Cluster) -> dict[str, Any]:
    """Return `total`, and `workers` by name, each with its counts, times in ms, and injections by kind.

    Those of the front are in the total alone, and count from the start of the cluster.
    """
    found = _report(config, cluster)
    found["total"]["injections"] = found["total"]["injections"] | request_statistics.front(cluster)
    return found


def _report(config: Config, cluster: Cluster) -> dict[str, Any]:
    if config.custom_service:
        return request_statistics.report(cluster)
    found = database.report(database.place(config, cluster), worker_owner())
    if config.fault_point == "lb":
        found["total"]["injections"] = request_statistics.report(cluster)["total"]["injections"]
    return found
