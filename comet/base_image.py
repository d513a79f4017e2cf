"""What the worker image stands on: python:3.12-slim if it is here or can be had, else a base made of this machine's own Python.

The pull is given ten seconds to show a sign of life, and as long again after each sign: a registry out of reach fails at once on
one machine and hangs on the next. A failure is remembered for a day, so that it is paid for once. The base of our own is kept in the
engine under a tag that tells which interpreter it was made of.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors

from comet.engine import UnixConnection
from comet.errors import UserError

Progress = Callable[[str], None]

OFFICIAL = "python:3.12-slim"
OFFICIAL_VERSION = "3.12"  # where the image does not say which it is
OFFICIAL_GLIBC = 36  # minor version; Debian 12, the older of the releases that this tag has stood for
SILENCE = 10.0  # seconds without a sign of life after which a pull is given up
REMEMBERED = 86400.0  # seconds for which a failed pull is not tried again
MAKER = Path(__file__).resolve().parent.parent / "docker" / "make_base.py"
OWN_REPOSITORY = "comet-base"


class BuildCancelled(UserError):
    """The user has asked to stop while the image was being prepared."""

    def __init__(self) -> None:
        super().__init__("stopped while the worker image was being built")


def check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise BuildCancelled


@dataclass(frozen=True)
class Base:
    """A base image: how the engine knows it, what of it goes into the worker's tag, and which wheels fit it."""

    reference: str
    key: str
    python: str
    glibc: int


def present(client: docker.DockerClient) -> Base | None:
    """The official base, if the engine has it."""
    try:
        image = client.images.get(OFFICIAL)
    except docker.errors.ImageNotFound:
        return None
    settings = dict(line.partition("=")[::2] for line in image.attrs["Config"].get("Env") or [])
    python = ".".join(settings.get("PYTHON_VERSION", OFFICIAL_VERSION).split(".")[:2])
    return Base(OFFICIAL, str(image.id), python, OFFICIAL_GLIBC)


def own() -> Base:
    """The base made of this machine's Python, whether it exists yet or not. A new interpreter or a new recipe gives a new one."""
    major, minor = sys.version_info[:2]
    glibc = platform.libc_ver()[1]
    interpreter = os.path.realpath(f"{sys.base_prefix}/bin/python{major}.{minor}")
    made = os.stat(interpreter)
    identity = [sys.version, platform.machine(), glibc, interpreter, made.st_size, made.st_mtime_ns, MAKER.read_text()]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return Base(f"{OWN_REPOSITORY}:{key}", key, f"{major}.{minor}", int(glibc.split(".")[1]) if "." in glibc else OFFICIAL_GLIBC)


def pulled(client: docker.DockerClient, cache: Path, progress: Progress, cancelled: threading.Event) -> Base | None:
    """The official base from its registry, or None where that did not work now or within the last day."""
    note = cache / "pull-failed"
    with contextlib.suppress(OSError):
        if 0 <= time.time() - note.stat().st_mtime < REMEMBERED:
            return None
    progress(f"pulling {OFFICIAL}")
    try:
        for _ in interruptible(pull(socket_of(client), OFFICIAL, SILENCE), cancelled):
            pass
        return present(client)
    except (OSError, http.client.HTTPException, ValueError) as error:
        progress(f"{OFFICIAL} cannot be pulled ({error}): going on without it, and not asking again for a day")
        make_private(cache)
        note.write_text(f"{error}\n")
        return None


def make_private(cache: Path) -> None:
    """Make the cache, and the `.comet/` around it, for this user's eyes only."""
    for folder in (cache.parent, cache):
        folder.mkdir(mode=0o700, exist_ok=True)


def socket_of(client: docker.DockerClient) -> str:
    """The path of the socket that a client made by comet.engine.connect uses. OSError: its engine is on another machine."""
    path = getattr(client.api.get_adapter(client.api.base_url), "socket_path", None)
    if path is None:
        raise OSError("the engine is on another machine")
    return str(path)


def pull(path: str, image: str, silence: float) -> Iterator[dict[str, Any]]:
    """Have the engine pull an image; yields its messages. Raises OSError with the reason, TimeoutError after `silence` seconds without one.

    Spoken by hand, as the SDK's pull waits without a limit. Closing the connection ends the engine's side of it too.
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
                if "error" in message:
                    raise OSError(message["error"])
                yield message
    except TimeoutError:
        raise TimeoutError(f"no sign of life for {silence:g} s") from None
    finally:
        connection.close()


def interruptible(messages: Iterator[dict[str, Any]], cancelled: threading.Event) -> Iterator[dict[str, Any]]:
    """The same messages, but with BuildCancelled within a tenth of a second of `cancelled`, however long the engine is silent.

    They are read on a thread that is left to itself in that case: the engine ends the work when our process ends the connection.
    """
    arrived: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for message in messages:
                arrived.put(message)
                if cancelled.is_set():
                    break
            arrived.put(None)
        except BaseException as error:  # whatever it is, it belongs to the thread that asked
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
    """Make the base of our own if that is the one chosen and it is missing."""
    check(cancelled)
    try:
        client.images.get(base.reference)
    except docker.errors.ImageNotFound:
        make(client, base, progress, cancelled)


def make(client: docker.DockerClient, base: Base, progress: Progress, cancelled: threading.Event) -> None:
    """Import a base made of the running Python; raises UserError when it cannot be made or does not run."""
    progress(f"making a base image of this machine's Python {base.python}")
    repository, _, tag = base.reference.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "base.tar"
        run_step("making the base image", [sys.executable, "-I", str(MAKER), str(archive)], cancelled)
        changes = ["ENV PATH=/usr/local/bin:/usr/bin:/bin", "LABEL comet.image=base", 'CMD ["python3"]']
        try:
            client.api.import_image_from_file(str(archive), repository=repository, tag=tag, changes=changes)
        except (OSError, docker.errors.DockerException) as error:
            raise UserError(f"importing the base image failed: {error}") from error
    check(cancelled)


def run_step(what: str, command: list[str], cancelled: threading.Event) -> None:
    """Run a command of the host, to its end or until `cancelled`; raises UserError with its last lines when it fails."""
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True) as process,
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
