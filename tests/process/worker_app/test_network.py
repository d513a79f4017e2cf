"""What a container's network loses, in two network namespaces of the test's own that a cable connects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.cluster import ROOT
from tests.support.waiting import wait_until
from worker_app.common.boot import boot_id, boot_time

pytestmark = [pytest.mark.root, pytest.mark.program("ip")]

HERE, THERE, PORT = "10.9.0.1", "10.9.0.2", 9000
COUNT, SIZE = 4000, 1000

SEND = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[3])):
    sock.sendto(bytes(1000), (sys.argv[1], int(sys.argv[2])))
    if number % 20 == 19:
        time.sleep(0.005)
"""
RECEIVE = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
sock.bind(("", int(sys.argv[1])))
sock.settimeout(120)
print("listening", flush=True)
count = 0
try:
    while True:
        sock.recv(65536)
        sock.settimeout(1.5)
        count += 1
except TimeoutError:
    print(count)
"""


@dataclass(frozen=True)
class Place:
    """A network namespace, which lives as long as the process that was made for it."""

    pid: int

    def run(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["nsenter", "-t", str(self.pid), "-n", *words], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def done(self, *words: str) -> str:
        with self.run(*words) as process:
            assert process.stdout is not None
            said = process.stdout.read()
        assert process.returncode == 0, words
        return said

    def ping(self) -> bool:
        """Whether a connection to the other end is refused: that takes a packet each way."""
        script = f"import socket; s = socket.socket(); s.settimeout(0.3); print(s.connect_ex(({HERE!r}, 1)))"
        return self.done(sys.executable, "-c", script).strip() == "111"


@pytest.fixture
def places() -> Iterator[tuple[Place, Place]]:
    own = os.readlink("/proc/self/ns/net")
    with (
        subprocess.Popen(["unshare", "-n", "sleep", "600"]) as one,
        subprocess.Popen(["unshare", "-n", "sleep", "600"]) as two,
    ):
        try:
            for each in (one, two):
                wait_until(lambda pid=each.pid: os.readlink(f"/proc/{pid}/ns/net") != own)  # type: ignore[misc]
            here, there = Place(one.pid), Place(two.pid)
            here.done("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
            here.done("ip", "link", "set", "eth1", "netns", str(there.pid))
            for place, device, address in ((here, "eth0", HERE), (there, "eth1", THERE)):
                place.done("ip", "address", "add", f"{address}/24", "dev", device)
                place.done("ip", "link", "set", device, "up")
            yield here, there
        finally:
            one.kill()
            two.kill()


@pytest.fixture
def hold(places: tuple[Place, Place]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Lets leases hold in the second place: each a mapping of settings with `seconds`."""
    started: list[subprocess.Popen[str]] = []

    def begin(*leases: dict[str, Any]) -> subprocess.Popen[str]:
        made = [
            {**{name: value for name, value in each.items() if name != "seconds"},
             "until": boot_time() + each["seconds"], "boot-id": boot_id()}
            for each in leases
        ]  # fmt: skip
        process = places[1].run(sys.executable, "-m", "worker_app.network", json.dumps(made))
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def arrived(places: tuple[Place, Place]) -> int:
    """How many of COUNT datagrams arrive in the second place."""
    here, there = places
    with there.run(sys.executable, "-c", RECEIVE, str(PORT)) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "listening\n"
        here.done(sys.executable, "-c", SEND, THERE, str(PORT), str(COUNT))
        return int(receiver.stdout.readline())


def test_a_share_of_the_packets_is_lost(
    places: tuple[Place, Place], hold: Callable[..., subprocess.Popen[str]]
) -> None:
    assert arrived(places) == COUNT
    hold({"loss": 25.0, "seconds": 300})
    assert abs(arrived(places) - 0.75 * COUNT) < 200  # Seven standard deviations.


def test_no_more_than_the_bandwidth_passes(
    places: tuple[Place, Place], hold: Callable[..., subprocess.Popen[str]]
) -> None:
    hold({"bandwidth": 200_000.0, "seconds": 300})
    began = time.monotonic()
    passed = arrived(places) * (SIZE + 42)
    seconds = time.monotonic() - began
    assert passed < (128 << 10) + 200_000 * seconds
    assert passed > 128 << 10


def test_a_partition_ends_with_its_lease_or_its_holder(
    places: tuple[Place, Place], hold: Callable[..., subprocess.Popen[str]]
) -> None:
    there = places[1]
    assert there.ping()
    killed = hold({"partition": True, "seconds": 300})
    assert not there.ping()
    killed.kill()
    killed.wait()
    assert there.ping()
    began = time.monotonic()
    ending = hold({"loss": 0.0, "seconds": 300}, {"partition": True, "seconds": 1.5})
    assert not there.ping()
    wait_until(there.ping)
    assert time.monotonic() - began > 1.4
    assert ending.poll() is None


def test_it_ends_with_the_last_lease(places: tuple[Place, Place], hold: Callable[..., subprocess.Popen[str]]) -> None:
    ended = hold({"partition": True, "seconds": 0.5}, {"loss": 100.0, "seconds": 1.0})
    assert ended.wait(30) == 0
    assert places[1].ping()


def test_a_process_without_the_right_says_so(places: tuple[Place, Place]) -> None:
    lease = json.dumps([{"partition": True, "until": boot_time() + 60, "boot-id": boot_id()}])
    words = (
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        sys.executable,
        "-m",
        "worker_app.network",
        lease,
    )
    with places[1].run(*words) as process:
        assert process.stdout is not None
        assert "the engine does not let a container change its network" in process.stdout.readline()
        process.kill()
    assert places[1].ping()
