"""Provides the base of the worker image: python:3.12-slim, else one made of this machine's own Python.

The official image is used if the engine has it or can pull it. A pull fails after ten seconds without progress, since
an unreachable registry fails at once on one machine and hangs on another. A failure is remembered for a day, so that it
costs time only once. The self-made base is kept in the engine under a tag that identifies its interpreter.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors

from comet.common.errors import UserError
from comet.engine.connection import UnixConnection
from comet.host import files
from comet.host.checkout import resource
from comet.host.files import Directory

Progress = Callable[[str], None]

OFFICIAL = "python:3.12-slim"
OFFICIAL_VERSION = "3.12"
"""Version of the official image where the image does not state it."""

OFFICIAL_GLIBC = 36
"""Minor version of the official image's glibc: Debian 12's, the older of the releases that this tag has stood for."""

PULL_TIMEOUT = 10.0
"""Seconds without progress after which a pull is given up."""

RETRY_PULL_AFTER = 86400.0
"""Seconds for which a failed pull is not repeated."""

MAKER = resource("docker") / "make_base.py"
OWN_REPOSITORY = "comet-base"


class BuildCancelled(UserError):
    """The user requested a stop while the image was being prepared."""

    def __init__(self) -> None:
        super().__init__("stopped while the worker image was being built")


def check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise BuildCancelled


@dataclass(frozen=True)
class Base:
    """A base image: its reference in the engine, its part of the worker's tag, and what wheels must fit.

    `python` is its version (major.minor), `glibc` the minor version of its C library.
    """

    reference: str
    key: str
    python: str
    glibc: int


def present(client: docker.DockerClient) -> Base | None:
    """Return the official base, None if the engine does not have it."""
    try:
        image = client.images.get(OFFICIAL)
    except docker.errors.ImageNotFound:
        return None
    settings = dict(line.partition("=")[::2] for line in image.attrs["Config"].get("Env") or [])
    python = ".".join(settings.get("PYTHON_VERSION", OFFICIAL_VERSION).split(".")[:2])
    return Base(OFFICIAL, str(image.id), python, OFFICIAL_GLIBC)


def own_base() -> Base:
    """Return the base made of this machine's Python, whether it exists yet or not.

    A new interpreter or a new recipe results in a new base.
    """
    major, minor = sys.version_info[:2]
    glibc = platform.libc_ver()[1]
    interpreter = os.path.realpath(f"{sys.base_prefix}/bin/python{major}.{minor}")
    made = os.stat(interpreter)
    identity = [sys.version, platform.machine(), glibc, interpreter, made.st_size, made.st_mtime_ns, MAKER.read_text()]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return Base(
        f"{OWN_REPOSITORY}:{key}", key, f"{major}.{minor}", int(glibc.split(".")[1]) if "." in glibc else OFFICIAL_GLIBC
    )


def pull_official(
    client: docker.DockerClient, cache: Path, progress: Progress, cancelled: threading.Event
) -> Base | None:
    """Pull the official base; return None where that failed now or within the last day."""
    note = cache / "pull-failed"
    with contextlib.suppress(OSError):
        noted = files.lstat(note)
        if noted is not None and 0 <= time.time() - noted.st_mtime < RETRY_PULL_AFTER:
            return None
    progress(f"pulling {OFFICIAL}")
    try:
        for _ in interruptible(pull(socket_of(client), OFFICIAL, PULL_TIMEOUT), cancelled):
            pass
        return present(client)
    except (OSError, http.client.HTTPException, ValueError) as error:
        progress(f"{OFFICIAL} cannot be pulled ({error}): going on without it, and not asking again for a day")
        make_private(cache)
        files.write(note, f"{error}\n")
        return None


def make_private(cache: Path) -> None:
    """Create the cache, and the `.comet/` around it, accessible to this user only."""
    with Directory.based(cache.parent.parent) as folder, folder.child(cache.parent.name, make=True) as state:
        state.child(cache.name, make=True).close()


def socket_of(client: docker.DockerClient) -> str:
    """Return the path of the socket of a client that `comet.engine.connection.connect` made.

    Raises OSError where the engine is on another machine.
    """
    path = getattr(client.api.get_adapter(client.api.base_url), "socket_path", None)
    if path is None:
        raise OSError("the engine is on another machine")
    return str(path)


def pull(path: str, image: str, silence: float) -> Iterator[dict[str, Any]]:
    """Let the engine pull an image; yield its messages.

    Raises OSError with the reason, TimeoutError after `silence` seconds without a message. The request is written by
    hand, since the SDK's pull waits without a limit. Closing the connection ends the engine's side of it too.
    """
    connection = UnixConnection(path, silence)
    try:
        name, _, tag = image.rpartition(":")
        asked = f"fromImage={image}" if "@" in image else f"fromImage={name}&tag={tag}"
        connection.request("POST", f"/images/create?{asked}")
        with connection.getresponse() as response:
            if response.status != http.HTTPStatus.OK:
                raise OSError(json.loads(response.read()).get("message", response.reason))
            while line := response.readline():
                message = json.loads(line)
                reason = failure(message)
                if reason is not None:
                    raise OSError(reason)
                yield message
    except TimeoutError:
        raise TimeoutError(f"no sign of life for {silence:g} s") from None
    finally:
        connection.close()


def failure(message: Mapping[str, Any]) -> str | None:
    """Return the reason if a message of a stream reports a failure, else None.

    The field `error` is the older form (API 1.48).
    """
    if "error" not in message and "errorDetail" not in message:
        return None
    reason = message.get("error") or (message.get("errorDetail") or {}).get("message") or "no reason given"
    return " ".join(str(reason).split())


def interruptible(messages: Iterator[dict[str, Any]], cancelled: threading.Event) -> Iterator[dict[str, Any]]:
    """Yield the same messages; raise BuildCancelled within 0.1 s of `cancelled`, however long the engine is silent.

    A thread reads the messages, and is left alone after a cancellation: the engine ends the work when this process
    closes the connection.
    """
    arrived: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for message in messages:
                arrived.put(message)
                if cancelled.is_set():
                    break
            arrived.put(None)
        except BaseException as error:  # any error is raised in the thread that reads from the queue
            arrived.put(error)

    threading.Thread(target=read, name="image messages", daemon=True).start()
    while True:
        check(cancelled)
        try:
            item = arrived.get(timeout=0.1)
        except queue.Empty:
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item


def ensure(client: docker.DockerClient, base: Base, progress: Progress, cancelled: threading.Event) -> None:
    """Make the self-made base if it is the chosen one and missing."""
    check(cancelled)
    try:
        client.images.get(base.reference)
    except docker.errors.ImageNotFound:
        make(client, base, progress, cancelled)


def make(client: docker.DockerClient, base: Base, progress: Progress, cancelled: threading.Event) -> None:
    """Import a base made of the running Python; UserError where it cannot be made or does not run."""
    progress(f"making a base image of this machine's Python {base.python}")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "base.tar"
        run_step("making the base image", [sys.executable, "-I", str(MAKER), str(archive)], cancelled)
        changes = ["ENV PATH=/usr/local/bin:/usr/bin:/bin", "LABEL comet.image=base", 'CMD ["python3"]']
        try:
            # One field for repository and tag: Podman ignores a tag in a separate field.
            client.api.import_image_from_file(str(archive), repository=base.reference, changes=changes)
        except (OSError, docker.errors.DockerException) as error:
            raise UserError(f"importing the base image failed: {error}") from error
    check(cancelled)


def run_step(what: str, command: list[str], cancelled: threading.Event) -> None:
    """Run a command on the host until it ends or `cancelled` is set; UserError with its last lines when it fails."""
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        while True:
            try:
                process.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                if cancelled.is_set():
                    process.kill()
        check(cancelled)
        if process.returncode:
            output.seek(0)
            quoted = "\n".join(f"    {line}" for line in output.read().splitlines()[-15:])
            raise UserError(f"{what} failed (exit {process.returncode}):\n{quoted}")
