"""The messages to the kernel, read back; that the kernel does as they say is in tests/security and tests/docker."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from fault_rules import NETWORK
from worker_app import network
from worker_app.faults.netlink import answers
from worker_app.faults.packet_delay import DELAYED
from worker_app.faults.packet_rules import messages

NESTED = 0x8000
TABLE, CHAIN, RULE = 10 << 8, 10 << 8 | 3, 10 << 8 | 6


def parts(batch: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and attributes of each message."""
    while batch:
        length, kind = struct.unpack_from("=IH", batch)
        yield kind, batch[20:length]
        batch = batch[length + 3 & ~3 :]


def attributes(data: bytes) -> dict[int, Any]:
    """Return the attributes by number; those of one list have the same number, and the last one is kept."""
    found: dict[int, Any] = {}
    while data:
        length, kind = struct.unpack_from("=HH", data)
        content = data[4:length]
        found[kind & ~NESTED] = attributes(content) if kind & NESTED else content
        data = data[length + 3 & ~3 :]
    return found


def expressions(rule: bytes) -> list[str]:
    listed, found = rule, []
    while listed:
        length, kind = struct.unpack_from("=HH", listed)
        if kind == 4 | NESTED:
            inner = listed[4:length]
            while inner:
                size, _ = struct.unpack_from("=HH", inner)
                found.append(attributes(inner[4:size])[1].rstrip(b"\0").decode())
                inner = inner[size + 3 & ~3 :]
        listed = listed[length + 3 & ~3 :]
    return found


def test_a_partition_is_two_chains_of_each_device_that_drop_all() -> None:
    count, batch = messages("mine", {"partition": True}, ["eth0", "eth1"])
    kinds = [kind for kind, _ in parts(batch)]
    assert kinds == [0x10, TABLE, CHAIN, CHAIN, CHAIN, CHAIN, 0x11]
    assert count == 5
    chains = [attributes(data) for kind, data in parts(batch) if kind == CHAIN]
    assert [(each[4][3], each[4][1], each[5]) for each in chains] == [
        (device, struct.pack(">I", hook), struct.pack(">I", 0)) for device in (b"eth0\0", b"eth1\0") for hook in (0, 1)
    ]


def test_the_table_belongs_to_the_socket() -> None:
    _, batch = messages("mine", {"partition": True}, ["eth0"])
    (table,) = [attributes(data) for kind, data in parts(batch) if kind == TABLE]
    assert table == {1: b"mine\0", 2: struct.pack(">I", 2)}


def test_shares_and_speeds_are_rules_that_let_the_rest_pass() -> None:
    count, batch = messages("mine", {"loss": 12.5, "bandwidth": 2000.0}, ["eth0"])
    assert count == 7
    chains = [attributes(data) for kind, data in parts(batch) if kind == CHAIN]
    assert {each[5] for each in chains} == {struct.pack(">I", 1)}
    rules = [data for kind, data in parts(batch) if kind == RULE]
    assert [expressions(rule) for rule in rules] == [
        ["numgen", "byteorder", "cmp", "immediate"],
        ["limit", "immediate"],
    ] * 2
    assert struct.pack(">I", 125_000) in rules[0]
    assert struct.pack(">Q", 2000) in rules[1]


@pytest.mark.parametrize("setting", ["network-delay", "network-jitter"])
def test_a_delay_marks_what_leaves_after_what_is_lost(setting: str) -> None:
    _, batch = messages("mine", {"loss": 5.0, "bandwidth": 2000.0, setting: 20.0}, ["eth0"])
    rules = [data for kind, data in parts(batch) if kind == RULE]
    lost = [["numgen", "byteorder", "cmp", "immediate"], ["limit", "immediate"]]
    assert [expressions(rule) for rule in rules] == [*lost, *lost, ["immediate", "meta"]]
    assert [attributes(rule)[2] for rule in rules] == [b"in-0\0"] * 2 + [b"out-0\0"] * 3
    assert struct.pack("=I", DELAYED) in rules[-1]


def test_without_a_delay_nothing_is_marked() -> None:
    assert messages("mine", {"network-delay": 0.0, "network-jitter": 0.0}, ["eth0"])[0] == 3


def test_each_answer_has_its_error() -> None:
    def answer(problem: int) -> bytes:
        return struct.pack("=IHHIIi16x", 36, 2, 0, 1, 0, -problem)

    assert list(answers(answer(0) + answer(95))) == [0, 95]


def test_later_leases_override_earlier_ones_until_they_end() -> None:
    leases = network.read(
        [
            {"loss": 10.0, "until": 60.0, "boot-id": "now"},
            {"partition": True, "loss": 0.0, "until": 5.0, "boot-id": "now"},
            {"bandwidth": 1.0, "until": 90.0, "boot-id": "earlier"},
        ],
        "now",
    )
    assert network.effective(leases, 1.0) == {"partition": True, "loss": 0.0}
    assert network.next_end(leases, 1.0) == 5.0
    assert network.effective(leases, 5.0) == {"loss": 10.0}
    assert network.next_end(leases, 5.0) == 60.0
    assert network.next_end(leases, 60.0) is None


@pytest.mark.parametrize(
    "lease",
    [
        {"loss": 101, "until": 1.0, "boot-id": "now"},
        {"partition": 1, "until": 1.0, "boot-id": "now"},
        {"bandwidth": "x", "until": 1.0, "boot-id": "now"},
        {"loss": 1, "until": None, "boot-id": "now"},
    ],
)
def test_what_is_no_lease_is_refused(lease: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is n"):
        network.read([lease], "now")


def test_a_kernel_that_cannot_differs_from_a_forbidding_engine() -> None:
    assert "this kernel cannot" in network.reason(OSError(95, "Operation not supported"))
    assert "the engine does not let" in network.reason(OSError(1, "Operation not permitted"))


def test_no_network_fault_is_one_that_a_request_can_have() -> None:
    assert not any(fault.drawn or fault.slot is not None for fault in NETWORK)
