"""The worker's image: built when one of its inputs has changed, never run from an old state.

The tag is a hash of everything that goes into the image: the Dockerfile, the worker's sources, the packages asked for and the base. So
"is it up to date?" is "is there an image with this tag?", two checkouts do not overwrite each other, and nothing is built twice.
The build reaches for no network: base (`comet.base_image`) and packages (`comet.wheels`) are there before it starts, and its
containers have none.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import docker
import docker.errors

from comet import base_image, wheels
from comet.cluster import Cluster
from comet.errors import UserError

Progress = Callable[[str], None]

PROJECT = Path(__file__).resolve().parent.parent
DOCKERFILE = PROJECT / "docker" / "Dockerfile"
SOURCES = PROJECT / "worker_app"
REPOSITORY = "comet-worker"
USED = "images"  # in the cache: tags of the worker images that the cluster has run, a line each
BUILD_AT_MOST = 600.0  # seconds; a stage younger than that may belong to a build that is still running
QUOTED_LINES = 25  # of a failed build's output: enough for pip's or a compiler's whole complaint


def ensure_image(client: docker.DockerClient, root: Path, progress: Progress, cancelled: threading.Event | None = None) -> str:
    """The tag of the up-to-date worker image, which is built if it is missing.

    `root` is the cluster's folder, whose `.comet/` keeps what was collected. `progress` is given one line per step. Raises
    UserError with the failing step's output, or BuildCancelled soon after `cancelled` is set.
    """
    stop = cancelled or threading.Event()
    try:
        tag = _up_to_date(client, root / ".comet" / "cache", progress, stop)
        _note_use(root / ".comet" / "cache", tag)
        return tag
    except (OSError, docker.errors.DockerException) as error:
        raise UserError(f"the worker image cannot be made: {error}") from error


def used_images(cluster: Cluster) -> list[str]:
    """The tags of the worker images that this cluster has run."""
    try:
        return cluster.path("cache", USED).read_text().split()
    except OSError:
        return []


def _note_use(cache: Path, tag: str) -> None:
    """Remember that this cluster runs this image: clusters of other folders may share it, and have others."""
    base_image.make_private(cache)
    note = cache / USED
    used = note.read_text().split() if note.exists() else []
    if tag not in used:
        note.write_text("".join(f"{each}\n" for each in [*used, tag]))


def foreign_image(client: docker.DockerClient, name: str, progress: Progress, cancelled: threading.Event) -> str:
    """The id of somebody else's image, which is pulled if it is not here. An id stays what it is when the name moves on.

    UserError: it is neither here nor to be had.
    """
    full = named(name)
    with contextlib.suppress(docker.errors.ImageNotFound):
        return str(client.images.get(full).id)
    progress(f"pulling {full}")
    try:
        for _ in base_image.interruptible(base_image.pull(base_image.socket_of(client), full, base_image.SILENCE), cancelled):
            pass
        return str(client.images.get(full).id)
    except (OSError, ValueError, http.client.HTTPException, docker.errors.DockerException) as error:
        raise UserError(f"worker-image: {full} is not on this machine and cannot be pulled: {error}; build, load or tag it first") from None


def named(name: str) -> str:
    """An image's name with its tag or digest."""
    return name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"


def pushed(client: docker.DockerClient, image: str, name: str | None, registry: str, progress: Progress, cancelled: threading.Event) -> str:
    """Put `image` into a registry, under `name` or its own; the reference by digest, which is the same image for every node and for ever.

    UserError: the registry does not take it.
    """
    last = named((name or image).partition("@")[0]).rpartition("/")[2]
    repository, _, tag = f"{registry}/{last}".rpartition(":")
    progress(f"pushing {repository}:{tag}")
    try:
        client.images.get(image).tag(repository, tag)
        messages = client.api.push(repository, tag, stream=True, decode=True)
        for message in base_image.interruptible(messages, cancelled):
            if "error" in message:
                raise UserError(f"registry: {repository}:{tag} cannot be pushed: {' '.join(str(message['error']).split())}")
        digests = client.images.get(image).attrs.get("RepoDigests") or []
    except (OSError, docker.errors.DockerException) as error:
        raise UserError(f"registry: {repository}:{tag} cannot be pushed: {' '.join(str(error).split())}") from None
    return next((str(digest) for digest in digests if digest.startswith(f"{repository}@")), f"{repository}:{tag}")


def _up_to_date(client: docker.DockerClient, cache: Path, progress: Progress, cancelled: threading.Event) -> str:
    requirements = wheels.requirements(PROJECT / "setup.cfg")
    inputs = image_inputs(requirements)
    base = base_image.present(client)
    if base is None and not has_image(client, image_tag(inputs, base_image.own().key)):
        # Only a build that is due anyway is worth asking a registry.
        base = base_image.pulled(client, cache, progress, cancelled)
    base = base or base_image.own()
    tag = image_tag(inputs, base.key)
    if has_image(client, tag):
        return tag
    began = time.monotonic()
    base_image.ensure(client, base, progress, cancelled)
    collected = wheels.collect(requirements, base, cache, progress, cancelled)
    progress(f"building {tag} on {base.reference}")
    build(client, tag, base.reference, context(inputs, collected), progress, cancelled)
    forget_old_stages(client)
    progress(f"built {tag} in {time.monotonic() - began:.1f} s")
    return tag


def image_inputs(requirements: Iterable[str]) -> dict[str, bytes]:
    """What goes into the image besides the base and the wheels: path in the build context -> content."""
    inputs = {"Dockerfile": DOCKERFILE.read_bytes(), "requirements.txt": "".join(f"{line}\n" for line in requirements).encode()}
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            inputs[f"{SOURCES.name}/{path.relative_to(SOURCES).as_posix()}"] = path.read_bytes()
    return inputs


def image_tag(inputs: dict[str, bytes], base_key: str) -> str:
    """`comet-worker:<12 hex digits>`, the same for the same inputs on the same base."""
    digest = hashlib.sha256(base_key.encode())
    for name, content in sorted(inputs.items()):
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return f"{REPOSITORY}:{digest.hexdigest()[:12]}"


def has_image(client: docker.DockerClient, tag: str) -> bool:
    try:
        client.images.get(tag)
    except docker.errors.ImageNotFound:
        return False
    return True


def context(inputs: dict[str, bytes], collected: Iterable[Path]) -> io.BytesIO:
    """The build context as a tar in memory. Owner, mode and time of every file are fixed, so that a clone's umask has no say."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in [*inputs.items(), *((f"wheels/{path.name}", path.read_bytes()) for path in sorted(collected))]:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def build(
    client: docker.DockerClient, tag: str, base_reference: str, build_context: io.BytesIO, progress: Progress, cancelled: threading.Event
) -> None:
    """Build and tag; raises UserError with the failing step and what it printed. The context carries its Dockerfile."""
    try:
        messages = client.api.build(
            fileobj=build_context,
            custom_context=True,
            tag=tag,
            rm=True,
            forcerm=True,
            decode=True,
            network_mode="none",
            buildargs={"BASE": base_reference},
        )
        follow(base_image.interruptible(messages, cancelled), progress)
    except docker.errors.DockerException as error:
        raise UserError(f"building the worker image failed: {error}") from error
    if not has_image(client, tag):
        raise UserError(f"building the worker image failed: the engine ended the build without {tag}")


def follow(messages: Iterable[dict[str, Any]], progress: Progress) -> None:
    """Report the steps of a build and raise UserError at its first error.

    The engine answers 200 before it builds, so a failure is known only from an `error` message inside the stream.
    """
    step, printed = "", list[str]()
    for message in messages:
        if "error" in message:
            output = "\n".join(f"    {line}" for line in printed[-QUOTED_LINES:])
            reason = str(message["error"]).strip()
            raise UserError(f"building the worker image failed at {step or 'its start'}: {reason}" + (f"\n{output}" if output else ""))
        for line in str(message.get("stream", "")).splitlines():
            if line.startswith("Step "):
                step, printed = shortened(line), []
                progress(step)
            elif line.strip():
                printed.append(line.rstrip())


def forget_old_stages(client: docker.DockerClient) -> None:
    """Remove the nameless first stages of earlier builds. The newest stays: it holds the installed packages for the next build."""
    stages = client.api.images(filters={"dangling": True, "label": "comet.image=build"})
    for stage in sorted(stages, key=lambda image: image["Created"])[:-1]:
        if time.time() - stage["Created"] > BUILD_AT_MOST:
            with contextlib.suppress(docker.errors.APIError):  # in use after all, or gone already
                client.api.remove_image(stage["Id"])


def shortened(line: str, width: int = 100) -> str:
    """A build step on one line of a terminal."""
    line = " ".join(line.split())
    return line if len(line) <= width else line[: width - 1] + "…"
