"""Two network namespaces that a cable connects: `eth0` of the first, `eth1` of the second."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.cluster import ROOT
from tests.support.waiting import wait_until
from worker_app.common.boot import boot_id, boot_time

HERE, THERE = "10.9.0.1", "10.9.0.2"

ROUND_TRIPS = """
import socket, sys, time
began = time.monotonic()
for _ in range(int(sys.argv[2])):
    with socket.socket() as one:
        assert one.connect_ex((sys.argv[1], 1)) == 111
print(time.monotonic() - began)
"""
QUEUES = {"htb": "", "netem": "", "tbf": "rate 1mbit burst 10kb latency 1s"}
"""The kinds of queues that tests need, with what `tc` wants of each."""


def holder(*leases: dict[str, Any]) -> list[str]:
    """The command line that lets these leases hold: each settings with `seconds`."""
    made = [
        {**{name: value for name, value in each.items() if name != "seconds"},
         "until": boot_time() + each["seconds"], "boot-id": boot_id()}
        for each in leases
    ]  # fmt: skip
    return [sys.executable, "-m", "worker_app.network", json.dumps(made)]


@functools.cache
def lacks_queues(*kinds: str) -> str:
    """Which of these kinds of queues the kernel lacks; empty where it has all."""
    if os.getuid() != 0 or shutil.which("tc") is None:
        return "tc, or root's rights"
    return ", ".join(kind for kind in kinds if not _has_queue(kind))


def needs_no_netem() -> str:
    """Why a test of a kernel without netem cannot run here; empty where it can."""
    return "" if lacks_queues("netem") == "netem" else "a kernel that is known to have no netem"


def _has_queue(kind: str) -> bool:
    words = ["unshare", "-n", "tc", "qdisc", "add", "dev", "lo", "root", kind, *QUEUES[kind].split()]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


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

    def round_trips(self, count: int) -> float:
        """How many seconds that many pings take, one after the other."""
        return float(self.done(sys.executable, "-c", ROUND_TRIPS, HERE, str(count)))

    def queues(self) -> dict[str, int]:
        """How many packets each kind of queue has sent, of those at the device of the second place."""
        return {each["kind"]: each.get("packets", 0) for each in self._listed_queues()}

    def waiting(self) -> int:
        """How many packets wait in these queues; the kernel sends some of its own (ARP, IPv6) at any time."""
        return sum(each.get("qlen", 0) for each in self._listed_queues())

    def _listed_queues(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.done("tc", "-s", "-json", "qdisc", "show", "dev", "eth1"))
        return listed


@contextlib.contextmanager
def connected_places() -> Iterator[tuple[Place, Place]]:
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
