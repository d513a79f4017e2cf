"""What a container's network delays, in two network namespaces of the test's own that a cable connects.

The queue of a delay is netem. Where the kernel lacks it, a slow queue shows all but the delay itself.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.support.network_places import Place, holder, lacks_queues, needs_no_netem
from tests.support.waiting import wait_until
from worker_app.faults.netlink import attribute

Hold = Callable[..., subprocess.Popen[str]]

pytestmark = [pytest.mark.root, pytest.mark.program("ip"), pytest.mark.machine(partial(lacks_queues, "htb", "tbf"))]
WITH_NETEM = pytest.mark.machine(partial(lacks_queues, "netem"))
WITHOUT_NETEM = pytest.mark.machine(partial(needs_no_netem))

SPEED, BURST = 740, 100
"""Of the slow queue, in bytes per second and in bytes: a SYN has 74 bytes."""

NOTHING = {"noqueue": 0}
"""The queues of a device as it was made."""

HOLDER = """
import signal, sys
from worker_app.faults.packet_delay import DelayQueues, Queue
from worker_app.faults.packet_rules import PacketRules
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
queues = DelayQueues(["eth1"])
queues.put(Queue("tbf", bytes.fromhex(sys.argv[1])))
rules = PacketRules({"network-delay": 1.0}, ["eth1"])
print("ready", flush=True)
signal.sigwait([signal.SIGTERM])
rules.close()
queues.close()
"""


def slow_queue() -> str:
    speed = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, SPEED)
    return attribute(1, speed + bytes(12) + struct.pack("=III", 10_000, BURST * 15_625_000 // SPEED, 0)).hex()


@pytest.fixture
def slow(places: tuple[Place, Place]) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Lets packets from the second place wait in the slow queue, for as long as the process lives."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        process = places[1].run(sys.executable, "-c", HOLDER, slow_queue())
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    assert process.wait(30) == 0


def test_packets_wait_while_the_holder_lives_however_it_ends(
    places: tuple[Place, Place], slow: Callable[[], subprocess.Popen[str]], hold: Hold
) -> None:
    there = places[1]
    assert there.queues() == NOTHING
    held = slow()
    count = 6
    assert there.round_trips(count) > (74 * count - BURST) / SPEED * 0.9
    assert there.queues()["tbf"] >= count
    held.kill()
    held.wait()
    wait_until(lambda: not there.waiting(), what="an empty queue")
    before = there.queues()["tbf"]
    there.round_trips(count)
    assert there.queues()["tbf"] == before  # What is left lets them pass.
    hold({"loss": 0.0, "seconds": 300})
    assert there.queues() == NOTHING


def test_a_holder_that_ends_by_itself_leaves_nothing(
    places: tuple[Place, Place], slow: Callable[[], subprocess.Popen[str]]
) -> None:
    end(slow())
    assert places[1].queues() == NOTHING
    assert places[1].ping()


def test_a_holder_removes_no_queue_that_replaced_its_own(
    places: tuple[Place, Place], slow: Callable[[], subprocess.Popen[str]]
) -> None:
    there = places[1]
    first = slow()
    second = slow()
    end(first)
    before = there.queues()["tbf"]
    there.round_trips(1)
    assert there.queues()["tbf"] > before
    end(second)
    assert there.queues() == NOTHING


def said(place: Place, **settings: float) -> str:
    """What a process says first that is to hold these settings."""
    with place.run(*holder({**settings, "seconds": 300})) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    return line


def test_a_device_with_queues_of_others_is_refused(places: tuple[Place, Place]) -> None:
    there = places[1]
    there.done("tc", "qdisc", "add", "dev", "eth1", "root", "handle", "5:", "htb")
    assert "its device has queues of its own (tc qdisc show)" in said(there, **{"network-delay": 100.0})
    assert set(there.queues()) == {"htb"}


@WITHOUT_NETEM
def test_a_kernel_without_netem_says_so_and_is_left_as_it_was(places: tuple[Place, Place]) -> None:
    there = places[1]
    for setting in ("network-delay", "network-jitter"):
        assert "this kernel cannot delay packets: it has no netem (on the engine's machine: modprobe sch_netem" in said(
            there, **{setting: 100.0}
        )
        assert there.queues() == NOTHING
    assert there.ping()


@WITH_NETEM
def test_each_packet_is_late_by_the_delay_and_some_jitter(places: tuple[Place, Place], hold: Hold) -> None:
    there = places[1]
    held = hold({"network-delay": 100.0, "network-jitter": 20.0, "bandwidth": 1e6, "loss": 0.0, "seconds": 300})
    assert there.round_trips(10) > 10 * 0.08
    assert there.queues()["netem"] >= 10
    end(held)
    assert there.queues() == NOTHING


@WITH_NETEM
def test_a_delay_ends_with_its_lease_and_leaves_nothing(places: tuple[Place, Place], hold: Hold) -> None:
    there = places[1]
    began = time.monotonic()
    ended = hold({"network-delay": 300.0, "seconds": 2})
    assert there.round_trips(1) > 0.3
    assert ended.wait(30) == 0
    assert time.monotonic() - began > 1.9
    wait_until(lambda: there.queues() == NOTHING)
