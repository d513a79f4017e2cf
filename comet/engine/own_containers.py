"""Tells the containers that Comet made from copies of them.

A container has the labels of its image, and `docker commit` gives an image the labels of the container. So a container
that a user starts from a committed worker carries the worker's labels. It is the user's: its image explains every label
of Comet's that it has. A worker that runs such an image has a fingerprint of its own, which covers the image.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Labels = Mapping[str, str]

PREFIX = "comet."


def without_copies(entries: Iterable[dict[str, Any]], labels_of: Callable[[str], Labels]) -> list[dict[str, Any]]:
    """Return the entries of an engine's list of containers that are no copies.

    `labels_of` returns the labels of the image with an id, none where the image does not exist.
    """
    images: dict[str, Labels] = {}
    kept = []
    for entry in entries:
        image = str(entry.get("ImageID") or "")
        if image and image not in images:
            images[image] = labels_of(image)
        if not is_copy(entry.get("Labels") or {}, images.get(image, {})):
            kept.append(entry)
    return kept


def is_copy(labels: Labels, image: Labels) -> bool:
    """Return whether a container has each of its labels of Comet's from its image."""
    return bool(image) and all(image.get(name) == value for name, value in labels.items() if name.startswith(PREFIX))


def listed(api: Any, *labels: str) -> list[dict[str, Any]]:
    """Return the containers with these labels, running or not, without copies; `api` is that of an SDK client."""
    import docker.errors

    def labels_of(image: str) -> Labels:
        try:
            return api.inspect_image(image)["Config"].get("Labels") or {}
        except docker.errors.NotFound:
            return {}

    return without_copies(api.containers(all=True, filters={"label": list(labels)}), labels_of)
