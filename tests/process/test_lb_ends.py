"""Every way in which a load balancer can end, under clients on both: none is refused, and only exchanges in flight on
it break.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comet.host.process_identity import birth_of, is_alive
from tests.support.cluster import TestCluster
from tests.support.shared import SharedCluster
from tests.support.waiting import wait_until


class Knocker(threading.Thread):
    """Asks on a new connection each time, and says how each attempt ended."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.done = threading.Event()
        self.seen: list[str] = []

    def run(self) -> None:
        while not self.done.is_set():
            self.seen.append(self._ask())

    def _ask(self) -> str:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=20) as peer:
                peer.sendall(b"GET /api/v1/hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                answer = b""
                while piece := peer.recv(65536):
                    answer += piece
        except ConnectionRefusedError:
            return "refused"
        except OSError as error:
            return f"broken ({type(error).__name__})"
        return "200" if answer.startswith(b"HTTP/1.1 200 ") else "broken" if not answer else answer[9:12].decode()


@contextlib.contextmanager
def knocking(cluster: TestCluster, number: int = 4) -> Iterator[list[Knocker]]:
    knockers = [Knocker(cluster.config["load-balancer-port"] + index % 2) for index in range(number)]
    for knocker in knockers:
        knocker.start()
    try:
        wait_until(lambda: all(len(knocker.seen) > 5 for knocker in knockers))
        yield knockers
    finally:
        for knocker in knockers:
            knocker.done.set()
        for knocker in knockers:
            knocker.join(30)


def end_by_signal(number: signal.Signals) -> Callable[[TestCluster, int], None]:
    return lambda cluster, pid: os.kill(pid, number)


def end_by_the_oom_killer(cluster: TestCluster, pid: int) -> None:
    """Move it into a memory control group with room for next to nothing, and give it bodies to hold."""
    group, birth = memory_group(f"comet-test-{os.getpid()}"), birth_of(pid)
    try:
        (group / "cgroup.procs").write_text(f"{pid}\n")
        peers = []
        for _ in range(400):
            with contextlib.suppress(OSError):
                peers.append(socket.create_connection(("127.0.0.1", cluster.config["load-balancer-port"]), timeout=5))
                peers[-1].sendall(
                    b"POST /api/v1/hello HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 60_000
                )
            if not is_alive(pid, birth):
                break
        wait_until(lambda: not is_alive(pid, birth), 20, "it is killed")
        for peer in peers:
            peer.close()
    finally:
        wait_until(lambda: _removed(group), 20, f"{group} is empty")


def memory_group(name: str) -> Path:
    """A control group whose members may hold 1 MiB more than they do; version 1 charges what is new, version 2 counts
    all.
    """
    first = Path("/sys/fs/cgroup/memory")
    group = (first if first.is_dir() else Path("/sys/fs/cgroup")) / name
    group.mkdir()
    limit = "memory.limit_in_bytes" if first.is_dir() else "memory.max"
    (group / limit).write_text("1048576\n")
    return group


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


ENDS: dict[str, tuple[Callable[[TestCluster, int], None], dict[str, object]]] = {
    "kill": (end_by_signal(signal.SIGKILL), {"signal": "SIGKILL", "oom": False}),
    "segv": (end_by_signal(signal.SIGSEGV), {"signal": "SIGSEGV"}),
    "exit 0": (end_by_signal(signal.SIGTERM), {"code": 0, "signal": None}),
    "out of memory": (end_by_the_oom_killer, {"signal": "SIGKILL", "oom": True}),
}


@pytest.fixture(scope="module")
def shared(share_cluster: Callable[..., SharedCluster]) -> SharedCluster:
    return share_cluster(worker=2, pool=2, runtime="process")


@pytest.mark.parametrize("end", ENDS)
def test_an_ended_load_balancer_refuses_no_connection(shared: SharedCluster, end: str) -> None:
    cluster = shared.lend()
    before = cluster.replicas()
    restarts = before["lb-0"]["restarts"]
    with knocking(cluster) as knockers:
        how, reason = ENDS[end]
        how(cluster, before["lb-0"]["pid"])
        wait_until(lambda: (row := cluster.replicas()["lb-0"])["restarts"] == restarts + 1 and row["state"] == "ready")
        marks = [len(knocker.seen) for knocker in knockers]
        wait_until(lambda: all(len(knocker.seen) > mark + 5 for knocker, mark in zip(knockers, marks, strict=True)))
    seen = [answer for knocker in knockers for answer in knocker.seen]
    assert "refused" not in seen
    # Each client has one exchange in flight at most, and those of lb-1 are not concerned.
    assert len([answer for answer in seen if answer != "200"]) <= 2
    assert {answer for knocker in knockers[1::2] for answer in knocker.seen} == {"200"}
    after = cluster.replicas()
    assert after["lb-1"]["pid"] == before["lb-1"]["pid"]
    assert {key: after["lb-0"]["last_exit"][key] for key in reason} == reason


@pytest.mark.docker
def test_clean_leaves_the_images_of_other_clusters(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1)
    cluster.start()
    cluster.stop()
    cache = cluster.folder / ".comet/cache"
    (tag,) = (cache / "images").read_text().split()
    with cluster.engine() as engine:
        other = f"comet-worker:test-{time.monotonic_ns()}"
        engine.images.get(tag).tag(other)
        try:
            (cache / "images").write_text("comet-worker:gone\n")
            done = cluster.comet("clean")
            assert done.returncode == 0
            assert "image" not in done.stdout
            assert engine.images.get(tag)
        finally:
            engine.images.remove(other)
