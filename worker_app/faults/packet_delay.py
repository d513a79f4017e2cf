"""Makes packets wait before they leave a network device: queues of the kernel, as `tc` makes them.

    tc qdisc add dev eth0 root handle c03e: htb
    tc class replace dev eth0 parent c03e: classid c03e:1 htb rate 8000gbit quantum 200000
    tc qdisc replace dev eth0 parent c03e:1 handle 4d2e: netem limit 100000 delay 100ms 20ms

A queue has no owner: it outlives the process that made it, however that ends. So no packet gets into the netem of class
c03e:1 but those that a rule of `worker_app.faults.packet_rules` puts there, and these rules end with their holder. What
a killed holder leaves passes packets on at once, is known by its handle, and ends with the container or the next holder
at the latest.

The messages are those of linux/rtnetlink.h and linux/pkt_sched.h. Numbers in them have the machine's byte order.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from worker_app.faults.netlink import ACKNOWLEDGE, CREATE, EXCLUSIVE, REPLACE, Channel, attribute, message, text

NETLINK_ROUTE = 0

ROOT = 0xC03E << 16
"""The handle by which the queues are known."""

DELAYED = ROOT | 1
"""The priority of a packet that is to wait."""

MOST_PACKETS = 100_000
"""How many packets wait at most: 1 s at 1 Gbit/s. More are lost."""

LONGEST_DRAIN = 1.0
"""Seconds for which packets that wait can leave before a queue is removed; the others are lost, and sent again."""

LOCK, LOCK_TIMEOUT = "\0comet-network-delay", 5.0
"""What one holder at a time has, and for how many seconds another waits for it: the name belongs to the network."""

_NEW_QDISC, _DELETE_QDISC, _NEW_CLASS = 36, 37, 40
_TOP = 0xFFFFFFFF
_KIND, _OPTIONS = 1, 2
_TICKS_PER_MS = 15_625
"""The kernel counts in steps of 64 ns."""

_RATE = 10**12
"""Bytes per second of the class: faster than any device."""


class Unavailable(Exception):
    """The network can have no delay; the text says why."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A kind of queue, its options as the kernel reads them, and how many seconds a packet waits at most."""

    kind: str
    options: bytes
    longest: float = 0.0


def netem(delay: float, jitter: float) -> Queue:
    """Return a queue in which each packet waits from `delay - jitter` to `delay + jitter` milliseconds."""
    ticks = (round(each * _TICKS_PER_MS) for each in (delay, jitter))
    options = struct.pack("=IIIIII", next(ticks), MOST_PACKETS, 0, 0, 0, next(ticks))
    return Queue("netem", options, (delay + jitter) / 1000)


class DelayQueues:
    """The queues of a network's devices. `close` removes them, unless another holder has put its own in their place.

    Close it after the rules that lead packets into the queues.
    """

    def __init__(self, devices: Iterable[str]) -> None:
        self._devices = [socket.if_nametoindex(device) for device in devices]
        self._channel = Channel(NETLINK_ROUTE)
        self._own = (0x4000 | int.from_bytes(os.getrandom(2), "little") & 0x3FFF) << 16
        self._holds, self._longest = False, 0.0

    def put(self, queue: Queue) -> None:
        """Let packets with the priority DELAYED wait in this queue; Unavailable where the kernel has none such."""
        with _alone():
            for device in self._devices:
                self._put(device, queue)
        self._holds, self._longest = True, max(self._longest, queue.longest)

    def sweep(self) -> None:
        """Remove what a killed holder has left."""
        with _alone():
            for device in self._devices:
                self._attempt(removal(device, ROOT, _TOP))

    def close(self) -> None:
        if self._holds:
            time.sleep(min(self._longest, LONGEST_DRAIN))
            with _alone():
                for device in self._devices:
                    if not self._attempt(removal(device, self._own, DELAYED)):
                        self._attempt(removal(device, ROOT, _TOP))
        self._channel.close()

    def _put(self, device: int, queue: Queue) -> None:
        known = self._attempt(shaper(device))
        if known not in (0, errno.EEXIST):
            raise _unavailable(known, "htb")
        if self._attempt(gate(device)):
            raise Unavailable("its device has queues of its own (tc qdisc show)")
        if problem := self._attempt(waiting(device, self._own, queue)):
            if not known:
                self._attempt(removal(device, ROOT, _TOP))
            raise _unavailable(problem, queue.kind)

    def _attempt(self, request: bytes) -> int:
        """Return the number of the error, 0 where there is none."""
        try:
            self._channel.ask(request)
        except TimeoutError:
            raise
        except OSError as error:
            return error.errno or errno.EIO
        return 0


def shaper(device: int) -> bytes:
    """Return the message that makes the root, which passes on at once whatever has no class."""
    options = attribute(2, struct.pack("=IIIII", 3, 10, 0, 0, 0))
    return _request(_NEW_QDISC, CREATE | EXCLUSIVE, device, ROOT, _TOP, Queue("htb", options))


def gate(device: int) -> bytes:
    """Return the message that makes the class of packets that are to wait."""
    ethernet = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, 0xFFFFFFFF)
    second = 1000 * _TICKS_PER_MS
    speed = struct.pack("=Q", _RATE)
    settings = attribute(1, ethernet * 2 + struct.pack("=IIIII", second, second, 200_000, 0, 0))
    options = Queue("htb", attribute(6, speed) + attribute(7, speed) + settings)
    return _request(_NEW_CLASS, CREATE | REPLACE, device, DELAYED, ROOT, options)


def waiting(device: int, handle: int, queue: Queue) -> bytes:
    """Return the message that makes the queue in which they wait."""
    return _request(_NEW_QDISC, CREATE | REPLACE, device, handle, DELAYED, queue)


def removal(device: int, handle: int, parent: int) -> bytes:
    """Return the message that removes a queue if it has this handle."""
    return _request(_DELETE_QDISC, 0, device, handle, parent, None)


def _request(kind: int, flags: int, device: int, handle: int, parent: int, queue: Queue | None) -> bytes:
    content = struct.pack("=BxxxiIII", 0, device, handle, parent, 0)
    if queue is not None:
        content += text(_KIND, queue.kind) + attribute(_OPTIONS, queue.options)
    return message(kind, flags | ACKNOWLEDGE, 1, content)


def _unavailable(problem: int, kind: str) -> Exception:
    if problem in (errno.ENOENT, errno.EOPNOTSUPP):
        return Unavailable(
            f"this kernel cannot delay packets: it has no {kind} (on the engine's machine: modprobe sch_{kind}, which "
            "may be in a package linux-modules-extra or kernel-modules-extra)"
        )
    return OSError(problem, os.strerror(problem))


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep other holders in this network from changing its queues; what ends this process lets them."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        while True:
            try:
                lock.bind(LOCK)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise
            time.sleep(0.005)
        yield
