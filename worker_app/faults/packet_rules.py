"""Makes a network device lose or delay packets, by rules of the kernel that end with the process that holds them.

The rules are a table of nf_tables that belongs to this process's socket (NFT_TABLE_F_OWNER): the kernel removes it
when the socket closes, also when the process is killed, and no other program can change it. Its chains belong to single
devices (netdev). They see every packet of theirs, whatever its protocol; other devices, addresses and routes stay as
they are. A rule does not delay a packet itself: it gives it the priority that leads it into the queue of
`worker_app.faults.packet_delay`.

The messages are those of linux/netfilter/nf_tables.h. Numbers in them are in network byte order, except for headers.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from worker_app.faults.netlink import ACKNOWLEDGE, APPEND, CREATE, Channel, attribute, message, nested, text
from worker_app.faults.packet_delay import DELAYED

NETLINK_NETFILTER = 12

BURST = 128 << 10
"""Bytes that may follow one another at once within a bandwidth: one packet of a virtual device can have 64 KiB."""

_DROP, _ACCEPT = 0, 1
_NETDEV, _NF_TABLES = 5, 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 3, 6
_OWNER = 2
_HOOKS = {"in": 0, "out": 1}
_PERCENT = 1_000_000
"""The number of values that the random number of a rule can have."""

_REGISTER, _VERDICT = 1, 0
_PRIORITY = 2


class PacketRules:
    """Rules that are effective until `close`; OSError where the kernel does not accept them."""

    def __init__(self, settings: Mapping[str, Any], devices: Iterable[str]) -> None:
        self._channel = Channel(NETLINK_NETFILTER)
        try:
            count, batch = messages(f"comet-{self._channel.address}", settings, list(devices))
            self._channel.ask(batch, count)
        except BaseException:
            self._channel.close()
            raise

    def close(self) -> None:
        self._channel.close()


def is_delayed(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("network-delay") or settings.get("network-jitter"))


def messages(table: str, settings: Mapping[str, Any], devices: list[str]) -> tuple[int, bytes]:
    """Return the number of answers that are to come, and the messages, which the kernel carries out all or none."""
    parts = [(_NEW_TABLE, CREATE, text(1, table) + _number(2, _OWNER))]
    for index, device in enumerate(devices):
        for way, hook in _HOOKS.items():
            chain = f"{way}-{index}"
            place = nested(4, _number(1, hook), _number(2, 0), text(3, device))
            policy = _DROP if settings.get("partition") else _ACCEPT
            body = text(1, table) + text(3, chain) + place + _number(5, policy) + text(7, "filter")
            parts.append((_NEW_CHAIN, CREATE, body))
            named = text(1, table) + text(2, chain)
            parts += [(_NEW_RULE, CREATE | APPEND, named + nested(4, *rule)) for rule in _rules(settings, way)]
    wanted = [
        _message(_NF_TABLES << 8 | kind, flags | ACKNOWLEDGE, number, _NETDEV, 0, body)
        for number, (kind, flags, body) in enumerate(parts, 1)
    ]
    begin, end = (_message(kind, 0, 0, 0, _NF_TABLES, b"") for kind in (_BATCH_BEGIN, _BATCH_END))
    return len(wanted), b"".join([begin, *wanted, end])


def _rules(settings: Mapping[str, Any], way: str) -> Iterator[list[bytes]]:
    """Yield the expressions of each rule that drops packets, or marks those that leave."""
    lost, speed = settings.get("loss") or 0.0, settings.get("bandwidth") or 0.0
    drop = _expression("immediate", _number(1, _VERDICT), nested(2, nested(2, _number(1, _DROP))))
    if lost:
        # The number has the byte order of the machine; the comparison is one of bytes.
        random = _expression("numgen", _number(1, _REGISTER), _number(2, _PERCENT), _number(3, 1), _number(4, 0))
        swap = _expression(
            "byteorder", _number(1, _REGISTER), _number(2, _REGISTER), _number(3, 1), _number(4, 4), _number(5, 4)
        )
        limit = nested(3, _number(1, round(lost / 100 * _PERCENT)))
        yield [random, swap, _expression("cmp", _number(1, _REGISTER), _number(2, 2), limit), drop]
    if speed:
        rate, second = attribute(1, struct.pack(">Q", max(1, round(speed)))), attribute(2, struct.pack(">Q", 1))
        over = _expression("limit", rate, second, _number(3, BURST), _number(4, 1), _number(5, 1))
        yield [over, drop]
    if way == "out" and is_delayed(settings):
        # A priority has the byte order of the machine.
        value = nested(2, attribute(1, DELAYED.to_bytes(4, sys.byteorder)))
        load = _expression("immediate", _number(1, _REGISTER), value)
        yield [load, _expression("meta", _number(2, _PRIORITY), _number(3, _REGISTER))]


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *data))


def _message(kind: int, flags: int, number: int, family: int, subsystem: int, body: bytes) -> bytes:
    return message(kind, flags, number, struct.pack("=BB", family, 0) + struct.pack(">H", subsystem) + body)


def _number(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack(">I", number))
