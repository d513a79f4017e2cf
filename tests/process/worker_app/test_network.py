"""What a container's network loses, in two network namespaces of the test's own that a cable connects."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.support.network_places import THERE, Place
from tests.support.waiting import wait_until
from worker_app.common.boot import boot_id, boot_time

pytestmark = [pytest.mark.root, pytest.mark.program("ip")]

PORT = 9000
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
