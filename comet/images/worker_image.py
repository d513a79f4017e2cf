"""Builds the worker image when one of its inputs has changed, so that a stale image never runs.

The tag is a hash of everything that goes into the image: the Dockerfile, the worker's sources, the required packages
and the base. So an image is up to date if one with this tag exists, two checkouts do not overwrite each other, and
nothing is built twice. The build uses no network: base (`comet.images.base_image`) and packages (`comet.images.wheels`)
exist before it starts, and its containers have none.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import re
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import docker
import docker.errors

from comet.common.errors import UserError
from comet.common.yaml_lines import ConfigError
from comet.config.schema import load
from comet.engine.connection import connect
from comet.engine.errors import engine_errors, error_text
from comet.host import files
from comet.host.checkout import SOURCES, WORKER_SOURCES, resource
from comet.images import base_image, wheels
from comet.state.directory import Cluster

Progress = Callable[[str], None]

DOCKERFILE = resource("docker") / "Dockerfile"
REPOSITORY = "comet-worker"
USED = "images"
"""File in the cache: the tags of the worker images that the cluster has run, one a line."""

_TAG = re.compile(rf"{REPOSITORY}:[0-9a-f]{{12}}")
STEP = re.compile(r"(?:\[\d+/\d+\] )?step \d+/\d+ ?: ", re.IGNORECASE)
"""A build step in the engine's output; Docker: `Step 1/19 : `, Podman: `[1/3] STEP 1/4: `."""

BUILD_TIMEOUT = 600.0
"""Seconds; a younger stage may belong to a build that still runs."""

QUOTED_LINES = 25
"""Lines of a failed build's output that are quoted: enough for a whole error of pip or a compiler."""


def ensure_image(
    client: docker.DockerClient, root: Path, progress: Progress, cancelled: threading.Event | None = None
) -> str:
    """Return the tag of the up-to-date worker image; build it if it is missing.

    `root` is the cluster's folder, whose `.comet/` caches what was collected. `progress` gets one line per step. Raises
    UserError with the failing step's output, or BuildCancelled soon after `cancelled` is set.
    """
    stop = cancelled or threading.Event()
    try:
        tag = _ensure_current(client, root / ".comet" / "cache", progress, stop)
        _note_use(root / ".comet" / "cache", tag)
        return tag
    except (OSError, docker.errors.DockerException) as error:
        reason = error_text(error) if isinstance(error, engine_errors()) else error
        raise UserError(f"the worker image cannot be made: {reason}") from error


def provided(
    client: docker.DockerClient, root: Path, wanted: str | None, progress: Progress, cancelled: threading.Event
) -> str:
    """Return the image that workers run: the user's `wanted` one, or the built-in worker's, brought up to date."""
    if wanted is not None:
        return foreign_image(client, wanted, progress, cancelled)
    progress("looking for the worker image")
    return ensure_image(client, root, progress, cancelled)


def used_images(cluster: Cluster) -> list[str]:
    """Return the tags of the worker images that this cluster has run."""
    return _used(cluster.path("cache"))


def _used(cache: Path) -> list[str]:
    """Return the recorded tags that have the form of this project's tags, since `clean` removes these images."""
    try:
        noted = files.read_text(cache / USED).split()
    except (OSError, ValueError):
        return []
    return [tag for tag in noted if _TAG.fullmatch(tag)]


def _note_use(cache: Path, tag: str) -> None:
    """Record that this cluster runs this image: clusters in other folders may share it, and have others."""
    base_image.make_private(cache)
    used = _used(cache)
    if tag not in used:
        files.write(cache / USED, "".join(f"{each}\n" for each in [*used, tag]))


def foreign_image(client: docker.DockerClient, name: str, progress: Progress, cancelled: threading.Event) -> str:
    """Return the id of the user's image, which is pulled if the engine does not have it.

    An id stays the same when the name is moved to another image. Raises UserError where the image is neither here nor
    available.
    """
    full = qualified_name(name)
    with contextlib.suppress(docker.errors.ImageNotFound):
        return str(client.images.get(full).id)
    progress(f"pulling {full}")
    try:
        for _ in base_image.interruptible(
            base_image.pull(base_image.socket_of(client), full, base_image.PULL_TIMEOUT), cancelled
        ):
            pass
        return str(client.images.get(full).id)
    except (OSError, ValueError, http.client.HTTPException, docker.errors.DockerException) as error:
        raise UserError(
            f"worker-image: {full} is not on this machine and cannot be pulled: {error}; build, load or tag it first"
        ) from None


def qualified_name(name: str) -> str:
    """Return an image's name with its tag or digest."""
    return name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"


def push(
    client: docker.DockerClient,
    image: str,
    name: str | None,
    registry: str,
    progress: Progress,
    cancelled: threading.Event,
) -> str:
    """Push `image` to a registry, under `name` or its own name; return the reference by digest.

    The digest is the same image for every node and forever. Raises UserError where the registry refuses it.
    """
    last = qualified_name((name or image).partition("@")[0]).rpartition("/")[2]
    repository, _, tag = f"{registry}/{last}".rpartition(":")
    progress(f"pushing {repository}:{tag}")
    try:
        client.images.get(image).tag(repository, tag)
        messages = client.api.push(repository, tag, stream=True, decode=True)
        for message in base_image.interruptible(messages, cancelled):
            reason = base_image.failure(message)
            if reason is not None:
                raise UserError(f"registry: {repository}:{tag} cannot be pushed: {reason}")
        digests = client.images.get(image).attrs.get("RepoDigests") or []
    except (OSError, docker.errors.DockerException) as error:
        raise UserError(f"registry: {repository}:{tag} cannot be pushed: {' '.join(str(error).split())}") from None
    return next((str(digest) for digest in digests if digest.startswith(f"{repository}@")), f"{repository}:{tag}")


def _ensure_current(client: docker.DockerClient, cache: Path, progress: Progress, cancelled: threading.Event) -> str:
    requirements = wheels.requirements(resource("setup.cfg"))
    inputs = image_inputs(requirements)
    base = base_image.present(client)
    if base is None and not has_image(client, image_tag(inputs, base_image.own_base().key)):
        # A registry is asked only where a build is necessary anyway.
        base = base_image.pull_official(client, cache, progress, cancelled)
    base = base or base_image.own_base()
    tag = image_tag(inputs, base.key)
    if has_image(client, tag):
        return tag
    began = time.monotonic()
    base_image.ensure(client, base, progress, cancelled)
    collected = wheels.collect(requirements, base, cache, progress, cancelled)
    progress(f"building {tag} on {base.reference}")
    build(client, tag, base.reference, context(inputs, collected), progress, cancelled)
    remove_old_stages(client)
    progress(f"built {tag} in {time.monotonic() - began:.1f} s")
    return tag


def image_inputs(requirements: Iterable[str]) -> dict[str, bytes]:
    """Return the image's inputs except base and wheels: path in the build context -> content."""
    inputs = {
        "Dockerfile": DOCKERFILE.read_bytes(),
        "requirements.txt": "".join(f"{line}\n" for line in requirements).encode(),
    }
    for package in WORKER_SOURCES:
        for path in sorted((SOURCES / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                inputs[path.relative_to(SOURCES).as_posix()] = path.read_bytes()
    return inputs


def image_tag(inputs: dict[str, bytes], base_key: str) -> str:
    """Return `comet-worker:<12 hex digits>`, the same for the same inputs on the same base."""
    digest = hashlib.sha256(base_key.encode())
    for name, content in sorted(inputs.items()):
        digest.update(b"\0%b\0%d\0" % (os.fsencode(name), len(content)) + content)  # A name may be no UTF-8.
    return f"{REPOSITORY}:{digest.hexdigest()[:12]}"


def has_image(client: docker.DockerClient, tag: str) -> bool:
    try:
        client.images.get(tag)
    except docker.errors.ImageNotFound:
        return False
    return True


def context(inputs: dict[str, bytes], collected: Iterable[Path]) -> io.BytesIO:
    """Return the build context as a tar in memory.

    Owner, mode and time of every file are fixed, so that a clone's umask has no effect. Every folder has its own entry,
    since an engine chooses the modes of missing ones itself.
    """
    buffer = io.BytesIO()
    packed = [*inputs.items(), *((f"wheels/{path.name}", path.read_bytes()) for path in sorted(collected))]
    folders = {str(parent) for name, _ in packed for parent in list(PurePosixPath(name).parents)[:-1]}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in sorted(folders):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, content in packed:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def build(
    client: docker.DockerClient,
    tag: str,
    base_reference: str,
    build_context: io.BytesIO,
    progress: Progress,
    cancelled: threading.Event,
) -> None:
    """Build and tag the image; UserError with the failing step and its output. The context has the Dockerfile."""
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

    The engine answers 200 before it builds, so a failure is known only from an `error` message inside the stream. The
    borders of messages are not those of lines: a line may come in pieces, and its end separately.
    """
    step, printed, rest = "", list[str](), ""
    for message in messages:
        *lines, rest = (rest + str(message.get("stream", ""))).split("\n")
        reason = base_image.failure(message)
        if reason is not None:
            lines.append(rest)
        for line in lines:
            if STEP.match(line):
                step, printed = shortened(line), []
                progress(step)
            elif line.strip():
                printed.append(line.rstrip())
        if reason is not None:
            output = "\n".join(f"    {line}" for line in printed[-QUOTED_LINES:])
            raise UserError(
                f"building the worker image failed at {step or 'its start'}: {reason}"
                + (f"\n{output}" if output else "")
            )


def remove_old_stages(client: docker.DockerClient) -> None:
    """Remove the untagged first stages of earlier builds.

    The newest stays: it holds the installed packages for the next build.
    """
    stages = client.api.images(filters={"dangling": True, "label": "comet.image=build"})
    for stage in sorted(stages, key=lambda image: image["Created"])[:-1]:
        if time.time() - stage["Created"] > BUILD_TIMEOUT:
            with contextlib.suppress(docker.errors.APIError):  # in use, or already removed
                client.api.remove_image(stage["Id"])


def shortened(line: str) -> str:
    """Return a build step on one line of a terminal."""
    line = " ".join(line.split())
    return line if len(line) <= 100 else line[:99] + "…"


def main(arguments: Sequence[str]) -> int:
    """Build what a run of this config would build: `python -m comet.images.worker_image CONFIG`.

    The set-up scripts use it to build in the background. What a run would refuse or not need is left to the run: the
    exit code is 0 unless the build failed.
    """
    try:
        config = load(Path(arguments[0]))
        traits = config.traits
        if traits.uses_engine and not traits.remote and not config.custom_service and config.worker:
            with contextlib.closing(connect()) as client:
                ensure_image(client, config.folder, lambda line: print(line, flush=True))
    except ConfigError:
        pass
    except UserError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
