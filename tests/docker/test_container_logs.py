"""A container's log as its engine keeps it, and as it was written."""

import contextlib
import json
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.types import LogConfig

from comet.common.errors import UserError
from comet.images.worker_image import ensure_image
from comet.runtimes import logs
from comet.runtimes.docker.container_spec import LOG_SIZE
from comet.state.directory import Cluster
from tests.support.waiting import PATIENCE

# With an engine.

PRINTS = """import os, sys
def w(fd, data):
    while data:
        data = data[os.write(fd, data):]
w(1, bytes(range(256)) + b"\\n")
w(1, b"cr\\r\\nlone\\rcr\\n\\xff\\xfe no UTF-8 \\x00\\n\\x1b[31mred\\x1b[0m\\n\\n\\n")
for size in (16383, 16384, 16385, 32768, 3000000):
    w(1, b"%d:" % size + b"L" * (size - 1 - len(str(size))) + b"\\n")
w(1, b"last\\nunfinished")
"""
PRINTS_IN_TURNS = """import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
for turn in range(6):
    for number in range(500 * turn, 500 * turn + 500): print(number, "x" * 200, flush=True)
    signal.sigwait({signal.SIGUSR1})
"""
CONTENT = (
    bytes(range(256)) + b"\n" + b"cr\r\nlone\rcr\n\xff\xfe no UTF-8 \x00\n\x1b[31mred\x1b[0m\n\n\n"
    + b"".join(b"%d:" % size + b"L" * (size - 1 - len(str(size))) + b"\n" for size in (16383, 16384, 16385, 32768,
    3000000))
    + b"last\nunfinished"
)  # fmt: skip


class Bench:
    """Containers that print, each the worker-0 of a cluster of its own."""

    def __init__(self, client: docker.DockerClient, image: str) -> None:
        self.client, self.image = client, image
        self.made: list[str] = []

    def container(self, folder: Path, code: str, log: LogConfig | None = None) -> tuple[Cluster, str]:
        cluster = Cluster(folder)
        cluster.create()
        log = log or LogConfig(type="local", config={"max-size": LOG_SIZE, "max-file": "2", "compress": "false"})
        made = self.client.api.create_container(
            self.image,
            entrypoint=["python3", "-c", code],
            name=f"comet-test-{secrets.token_hex(4)}",
            labels={"comet.cluster": cluster.id or "", "comet.replica": "worker-0"},
            host_config=self.client.api.create_host_config(init=True, log_config=log, network_mode="none"),
        )["Id"]
        self.made.append(made)
        self.client.api.start(made)
        return cluster, made


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    client = docker.from_env()
    made = Bench(client, ensure_image(client, tmp_path_factory.mktemp("image"), lambda _: None))
    try:
        yield made
    finally:
        for container in made.made:
            with contextlib.suppress(docker.errors.APIError):
                client.api.remove_container(container, force=True)
        client.close()


def printed(cluster: Cluster, count: int = 1000, follow: bool = False) -> bytes:
    return b"".join(logs.pieces(cluster, "worker-0", "container", count, follow))


def test_container_output_is_returned_byte_for_byte(bench: Bench, tmp_path: Path) -> None:
    cluster, container = bench.container(tmp_path, PRINTS)
    bench.client.api.wait(container)
    assert printed(cluster) == CONTENT
    assert printed(cluster, follow=True) == CONTENT  # Nobody sees to it: it ends with the container.
    *lines, _ = (line + b"\n" for line in CONTENT.split(b"\n"))
    for count in (1, 2, 3, 5):
        assert printed(cluster, count) == b"".join([*lines, b"unfinished"][-count:])
    bench.client.api.rename(container, f"comet-test-{secrets.token_hex(4)}")
    assert printed(cluster, 1) == b"unfinished"
    told = [json.loads(line)["line"] for line in b"".join(logs.as_json("worker-0", [printed(cluster)])).splitlines()]
    assert told == [line.decode(errors="replace").rstrip("\r") for line in CONTENT.split(b"\n")]
    assert len(logs.recent(cluster, "worker-0", "container")) == logs.RECENT
    # Its next life goes on behind it.
    bench.client.api.start(container)
    bench.client.api.wait(container)
    assert printed(cluster) == CONTENT + CONTENT


@pytest.mark.parametrize("driver", ["json-file", "none"])
def test_logs_of_other_drivers(bench: Bench, tmp_path: Path, driver: str) -> None:
    cluster, container = bench.container(tmp_path, "print('L' * 40000); print('ä')", LogConfig(type=driver))
    bench.client.api.wait(container)
    if driver == "none":
        with pytest.raises(
            UserError, match=r"worker-0: its container's log cannot be read: .*does not support reading"
        ):
            printed(cluster)
    else:
        assert printed(cluster) == b"L" * 40000 + "\nä\n".encode()
        assert printed(cluster, 1) == "ä\n".encode()


def test_a_log_that_its_engine_rotates_is_followed(bench: Bench, tmp_path: Path) -> None:
    """The container goes on when what it has printed is read: of what nobody reads for longer than a file lasts, the
    engine keeps nothing.
    """
    log = LogConfig(type="local", config={"max-size": "200k", "max-file": "2", "compress": "false"})
    cluster, container = bench.container(tmp_path, PRINTS_IN_TURNS, log)
    end = threading.Timer(60 * PATIENCE, bench.client.api.kill, [container])  # A follower of less would wait forever.
    end.start()
    read, turns = b"", 0
    try:
        for piece in logs.pieces(cluster, "worker-0", "container", 3000, True):
            read += piece
            if read.count(b"\n") == 500 * (turns + 1):
                turns += 1
                bench.client.api.kill(container, "SIGUSR1")
    finally:
        end.cancel()
    assert [int(line.split()[0]) for line in read.splitlines()] == list(range(3000))


def test_output_without_a_final_newline_is_read(bench: Bench, tmp_path: Path) -> None:
    cluster, container = bench.container(tmp_path, "import os\nfor _ in range(300): os.write(1, b'y' * 60000)")
    bench.client.api.wait(container)
    assert logs.recent(cluster, "worker-0", "container") in (b"y" * logs.RECENT, b"y" * (logs.RECENT - 1) + b"\n")
