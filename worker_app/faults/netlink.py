"""Writes messages to the kernel's network and reads its answers: netlink, as in linux/netlink.h."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

ANSWER_TIMEOUT = 5.0
"""Seconds that the kernel may take to answer; it does at once."""

REQUEST, ACKNOWLEDGE = 0x1, 0x4
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800

_ERROR = 2
_NESTED = 0x8000


class Channel:
    """A socket to one part of the kernel. What the kernel ties to the socket ends with it."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(ANSWER_TIMEOUT)
        except BaseException:
            self._socket.close()
            raise

    @property
    def address(self) -> int:
        """A number that no other socket of the network has."""
        return int(self._socket.getsockname()[0])

    def ask(self, messages: bytes, count: int = 1) -> None:
        """Send messages that have `count` answers; raise OSError with the first error among these."""
        self._socket.send(messages)
        answered = 0
        while answered < count:
            for problem in answers(self._socket.recv(1 << 16)):
                if problem:
                    raise OSError(problem, os.strerror(problem))
                answered += 1

    def close(self) -> None:
        self._socket.close()


def message(kind: int, flags: int, number: int, content: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(content), kind, REQUEST | flags, number, 0) + content


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def text(kind: int, words: str) -> bytes:
    return attribute(kind, words.encode() + b"\0")


def answers(data: bytes) -> Iterator[int]:
    """Yield the error number of each answer, 0 for what was done."""
    while len(data) >= 20:
        length, kind = struct.unpack_from("=IH", data)
        if kind == _ERROR:
            yield -struct.unpack_from("=i", data, 16)[0]
        data = data[max(length + 3 & ~3, 16) :]
