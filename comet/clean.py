"""Removing what a cluster that is down has left on purpose: state for the next run, images for a quick start."""

import contextlib
import shutil
from collections.abc import Iterator

from comet import engine, faultfiles, scalefile, secretfiles
from comet.cluster import Cluster
from comet.drivers.container import ENGINE_ERRORS
from comet.errors import UserError
from comet.image import used_images
from comet.statefile import StateFile

KEPT = ("stats",)
"""In `.comet/`, but the user's: the statistics database."""


def forget_run(cluster: Cluster) -> None:
    """Remove what only matters while replicas live."""
    StateFile(cluster.path("state.json")).remove()
    scalefile.forget(cluster)
    faultfiles.forget(cluster)
    secretfiles.forget(cluster)
    cluster.clear_run()


def everything(cluster: Cluster) -> Iterator[str]:
    """Remove the worker images that this cluster has used, and all state but the statistics; a line for each thing done."""
    with contextlib.suppress(UserError, *ENGINE_ERRORS):
        client = engine.connect()
        for tag in used_images(cluster):
            with contextlib.suppress(*ENGINE_ERRORS):  # In use by another cluster, or gone.
                client.images.remove(tag)
                yield f"image {tag} removed"
        if not client.images.list(filters={"label": "comet.image=worker"}):
            # What the last worker image was made with is of no use to anybody.
            for image in client.images.list(filters={"label": "comet.image"}):
                with contextlib.suppress(*ENGINE_ERRORS):
                    client.images.remove(str(image.id))
                    yield f"image {', '.join(image.tags) or image.short_id} removed"
    for entry in sorted(cluster.state.iterdir()):
        if entry.name not in KEPT:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    yield f"{cluster.state} cleared" + (", the statistics are kept" if cluster.path("stats").exists() else "")
