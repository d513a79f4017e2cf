"""The messages that make queues, next to those that `tc` of iproute2 6.1 sends (as strace shows them).

That the kernel does as they say is in tests/process/worker_app/test_network_delay.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from worker_app import network
from worker_app.faults import packet_delay
from worker_app.faults.packet_delay import DELAYED, ROOT, Queue, Unavailable, netem

DEVICE = 7
ADD, REMOVE, ADD_CLASS = 36, 37, 40
REPLACE = 0x1 | 0x4 | 0x100 | 0x400
TOP = 0xFFFFFFFF


def parts(message: bytes) -> tuple[int, int, tuple[int, int, int], bytes]:
    """Type, flags, (device, handle, parent), attributes."""
    length, kind, flags, _, _ = struct.unpack_from("=IHHII", message)
    assert length == len(message)
    family, device, handle, parent, info = struct.unpack_from("=BxxxiIII", message, 16)
    assert (family, info) == (0, 0)
    return kind, flags, (device, handle, parent), message[36:]


@pytest.mark.parametrize(
    ("delay", "jitter", "sent"),
    [
        # tc qdisc replace dev eth0 parent c03e:1 handle 4d2e: netem limit 100000 delay 100ms 20ms
        (100.0, 20.0, "84d71700 a0860100 00000000 00000000 00000000 b4c40400"),
        # … netem limit 100000 delay 100ms
        (100.0, 0.0, "84d71700 a0860100 00000000 00000000 00000000 00000000"),
    ],
)
def test_a_delay_is_what_tc_sends(delay: float, jitter: float, sent: str) -> None:
    kind, flags, where, attributes = parts(packet_delay.waiting(DEVICE, 0x4D2E << 16, netem(delay, jitter)))
    assert (kind, flags, where) == (ADD, REPLACE, (DEVICE, 0x4D2E0000, 0xC03E0001))
    assert attributes == bytes.fromhex("0a000100 6e6574656d000000 1c000200 " + sent)


def test_the_root_is_what_tc_sends_and_replaces_nothing() -> None:
    kind, flags, where, attributes = parts(packet_delay.shaper(DEVICE))
    assert (kind, flags, where) == (ADD, 0x1 | 0x4 | 0x200 | 0x400, (DEVICE, 0xC03E0000, TOP))
    # tc qdisc add dev eth0 root handle c03e: htb
    sent = "08000100 68746200 1c000200 18000200 03000000 0a000000 00000000 00000000 00000000"
    assert attributes == bytes.fromhex(sent)


def test_its_class_is_named_by_the_priority_of_the_packets() -> None:
    kind, flags, where, _ = parts(packet_delay.gate(DEVICE))
    assert (kind, flags, where) == (ADD_CLASS, REPLACE, (DEVICE, DELAYED, ROOT))


def test_a_removal_names_the_handle_and_so_no_queue_of_others() -> None:
    assert parts(packet_delay.removal(DEVICE, ROOT, TOP)) == (REMOVE, 0x1 | 0x4, (DEVICE, ROOT, TOP), b"")


@pytest.mark.parametrize(("make", "longest"), [(lambda: netem(100.0, 20.0), 0.12), (lambda: Queue("pfifo", b""), 0.0)])
def test_how_long_a_packet_waits_at_most(make: Callable[[], Queue], longest: float) -> None:
    assert make().longest == longest


def test_the_longest_delay_fits_the_message() -> None:
    latency, *_, jitter = struct.unpack("=IIIIII", netem(60_000.0, 2_000.0).options)
    assert (latency * 64, jitter * 64) == (60_000_000_000, 2_000_000_000)  # In nanoseconds.


def test_what_the_kernel_lacks_is_said_as_it_is() -> None:
    assert network.reason(Unavailable("it has no netem")) == "it has no netem"
