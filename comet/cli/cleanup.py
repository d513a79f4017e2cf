"""Removes what a stopped cluster keeps on purpose: state for the next run, images for a quick start."""

import contextlib
from collections.abc import Iterator

from comet.common.errors import UserError
from comet.config import chosen_ports, scale_override
from comet.engine import connection as engine
from comet.engine.errors import engine_errors
from comet.faults import files as fault_files
from comet.host.files import Directory
from comet.images.worker_image import used_images
from comet.runtimes.docker.network import remove_networks
from comet.runtimes.replica_records import StateFile
from comet.state import secrets as secret_files
from comet.state import traffic_orders
from comet.state.directory import Cluster

KEPT = ("stats",)
"""Entries of `.comet/` that belong to the user and are kept: the statistics database."""


def forget_run(cluster: Cluster) -> None:
    """Remove the state that only matters while replicas live."""
    StateFile(cluster.path("state.json")).remove()
    scale_override.forget(cluster)
    chosen_ports.forget(cluster)
    fault_files.forget(cluster)
    traffic_orders.forget(cluster)
    secret_files.forget(cluster)
    cluster.clear_run()


def forget_networks(cluster: Cluster) -> None:
    """Remove the network of this cluster's containers, if there is one and an engine answers."""
    with contextlib.suppress(UserError), contextlib.closing(engine.connect()) as client:
        remove_networks(client, cluster.id or "")


def remove_all(cluster: Cluster) -> Iterator[str]:
    """Remove the worker images that this cluster has used, and all state except the statistics.

    Yields a line for each thing removed.
    """
    with contextlib.suppress(UserError, *engine_errors()):
        client = engine.connect()
        for name in remove_networks(client, cluster.id) if cluster.id is not None else ():
            yield f"network {name} removed"
        for tag in used_images(cluster):
            with contextlib.suppress(*engine_errors()):  # It is in use by another cluster, or already gone.
                client.images.remove(tag)
                yield f"image {tag} removed"
        if not client.images.list(filters={"label": "comet.image=worker"}):
            # Images that the last worker image was built from have no further use.
            for image in client.images.list(filters={"label": "comet.image"}):
                with contextlib.suppress(*engine_errors()):
                    client.images.remove(str(image.id))
                    yield f"image {', '.join(image.tags) or image.short_id} removed"
    with Directory.of(cluster.state) as state:
        for name in state.names():
            if name not in KEPT:
                state.remove(name)
        kept = any(state.lstat(name) is not None for name in KEPT)
    yield f"{cluster.state} cleared" + (", the statistics are kept" if kept else "")
