"""Keeps counters in a mapped file, so that they survive a crash: one writer (the load balancer), any number of readers.

Layout, in native byte order (a file never leaves its machine): 8 bytes magic with the version, 8 bytes number of slots,
the unsigned 64-bit slots in the order of FIELDS, then EDGES blocks, one for each upstream: its name (NAME_BYTES, padded
with zeros) and EDGE_SLOTS slots. The response of an upstream is counted in that upstream's block alone, so that
counting per upstream costs no more than counting once; `read` and `as_dict` sum the blocks up. The first block, without
a name, is for responses that came from no upstream, and for upstreams for which no block was left.

Stores of aligned 8-byte words are atomic on the machines Comet runs on, so a reader needs no lock. The space is
reserved with posix_fallocate, because a sparse mapping raises SIGBUS on a full disk. `multiprocessing.shared_memory` is
not used: it is unlinked when its creator dies.

A successor continues the counters. GAUGES describe the running process and start at zero with it. A file
of an earlier version is converted, so that the counts survive an upgrade: until 0.2.0 it has one gauge less, until
0.6.0 no slots for what was injected in a block.

Latency: bucket k of LATENCY_BUCKETS counts the exchanges whose time from a request's complete head to the last byte of
its response, rounded down to whole microseconds, is in [2^(k/4), 2^((k+1)/4)). Bucket 0 also counts all below, the last
one all above (about 67 s). With four buckets per doubling a percentile is exact to 19 %.
"""

import ctypes
import errno
import logging
import mmap
import os
from collections.abc import Iterator
from math import ceil, log2
from pathlib import Path
from typing import Final

from fault_rules import FRONT_COUNTED, WORKER, counted
from lb.system.regular_files import opened

MAGIC: Final = b"comet\x00\x00\x03"
_HEADER: Final = 16

LATENCY_BUCKETS: Final = 104

COUNTERS: Final = (
    "requests",
    "responses_1xx",
    "responses_2xx",
    "responses_3xx",
    "responses_4xx",
    "responses_5xx",
    "own_errors",
    "retries",
    "upstream_errors",
    "bytes_in",
    "bytes_out",
    "latency_us",
    "aborted",
)
GAUGES: Final = ("in_flight", "connections", "queued", "tunnels")
FIELDS: Final = COUNTERS + GAUGES + tuple(f"latency_{k}" for k in range(LATENCY_BUCKETS))

REQUESTS: Final = FIELDS.index("requests")
RESPONSES: Final = FIELDS.index("responses_1xx") - 1  # + the status's first digit
OWN_ERRORS: Final = FIELDS.index("own_errors")
RETRIES: Final = FIELDS.index("retries")
UPSTREAM_ERRORS: Final = FIELDS.index("upstream_errors")
BYTES_IN: Final = FIELDS.index("bytes_in")
BYTES_OUT: Final = FIELDS.index("bytes_out")
ABORTED: Final = FIELDS.index("aborted")
IN_FLIGHT: Final = FIELDS.index("in_flight")
CONNECTIONS: Final = FIELDS.index("connections")
QUEUED: Final = FIELDS.index("queued")
TUNNELS: Final = FIELDS.index("tunnels")
LATENCY: Final = FIELDS.index("latency_0")

# A block contains the errors of the upstream, its responses by the first digit of the status, and the EDGE_ slots.
EDGES: Final = 257
EDGE_ERRORS: Final = 0
EDGE_US: Final = 6
EDGE_IN_FLIGHT: Final = 7
EDGE_LATENCY: Final = 8
INJECTED: Final = counted(WORKER)
FRONT_BLOCK: Final = "front"
"""The name of the block that counts faults of the front, from EDGE_LATENCY on; it belongs to no upstream."""

EDGE_INJECTED: Final = EDGE_LATENCY + LATENCY_BUCKETS
_FIRST_KINDS: Final = 5
EDGE_INJECTED_RESPONSES: Final = EDGE_INJECTED + _FIRST_KINDS
"""Slot of the responses with 5xx that were injected."""
EDGE_INJECTED_ERRORS: Final = EDGE_INJECTED_RESPONSES + 1
"""Slot of the errors (EDGE_ERRORS) that were injected."""
INJECTED_SLOTS: Final = tuple(EDGE_INJECTED + at + (2 if at >= _FIRST_KINDS else 0) for at in range(len(INJECTED)))
"""Slots of the kinds in INJECTED. Kinds that are added later come last: in a file without them nothing moves."""
EDGE_SLOTS: Final = EDGE_INJECTED_ERRORS + 1 + len(INJECTED) - _FIRST_KINDS
NAME_BYTES: Final = 32

_TABLE_END: Final = _HEADER + 8 * len(FIELDS)
_BLOCK: Final = NAME_BYTES + 8 * EDGE_SLOTS
_SIZE: Final = _TABLE_END + EDGES * _BLOCK
_EARLIEST_BLOCK: Final = NAME_BYTES + 8 * EDGE_INJECTED_RESPONSES

_MAP_FIXED: Final = 0x10
"""MAP_FIXED of mmap(2), which Python's module lacks."""


def latency_bucket(micros: int) -> int:
    """Return the bucket of a latency in whole microseconds."""
    return 0 if micros < 1 else min(int(log2(micros) * 4), LATENCY_BUCKETS - 1)


def _latency_table() -> bytes:
    edges = [ceil(2 ** (k / 4)) for k in range(1, 65)]
    return b"".join(bytes((k,)) * (high - low) for k, (low, high) in enumerate(zip([0, *edges], edges, strict=False)))


LATENCY_TABLE: Final = _latency_table()
"""The buckets of all latencies below 65 ms by whole microseconds: an index costs a fraction of a logarithm."""


class Counters:
    """The writer; the interface is `slots[INDEX] += n`, because a method call would cost more than the count."""

    def __init__(self, path: str | Path | None = None) -> None:
        """Open or create the file at `path` (None: memory only); raise OSError if it is not writable.

        A file with an unknown layout is emptied: its numbers cannot be interpreted.
        """
        self._map = mmap.mmap(-1, _SIZE) if path is None else _mapped(Path(path))
        self._bytes = memoryview(self._map)
        self.slots = self._bytes[_HEADER:_TABLE_END].cast("Q")
        self._edges = {name: self._edge(index) for index, name in _names(self._bytes)}
        for name in GAUGES:
            self.slots[FIELDS.index(name)] = 0
        for edge in self._edges.values():
            edge[EDGE_IN_FLIGHT] = 0

    def edge(self, upstream: str) -> memoryview:
        """Return the EDGE_SLOTS slots of the upstream with this name; when no block is left, a shared block."""
        padded = _padded(upstream)
        if padded not in self._edges:
            index = len(self._edges)
            if index >= EDGES:
                return self._edges[_padded("")]
            self._edges[padded] = self._edge(index)
            at = _TABLE_END + index * _BLOCK
            self._bytes[at : at + NAME_BYTES] = padded
        return self._edges[padded]

    def move(self, path: str | Path) -> None:
        """Continue in a new file at `path` if the file was removed; the new one gets all counts.

        Other objects hold views of the slots (`edge`), so the new file is mapped at the same address, in place of the
        old one. Raise OSError like the constructor; nothing is changed then.
        """
        fd = opened(path, os.O_RDWR | os.O_CREAT)
        try:
            if os.fstat(fd).st_size:
                return
            os.posix_fallocate(fd, 0, _SIZE)
            os.pwrite(fd, self._map[:], 0)
            _map_over(self._map, fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Unmap the file, which stays."""
        for edge in self._edges.values():
            edge.release()
        self.slots.release()
        self._bytes.release()
        self._map.close()

    def as_dict(self) -> dict[str, int]:
        """Return all fields by name, summed over all upstreams."""
        return Reading(bytes(self._map)).totals()

    def _edge(self, index: int) -> memoryview:
        at = _TABLE_END + index * _BLOCK + NAME_BYTES
        return self._bytes[at : at + 8 * EDGE_SLOTS].cast("Q")


class Reading:
    """One reading of a counters file, from any process."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = memoryview(data)
        self.own = self._data[_HEADER:_TABLE_END].cast("Q")
        """The slots in the order of FIELDS, without the counts in the upstreams' blocks."""
        named = _names(self._data)
        self._blocks = {name.rstrip(b"\0").decode(errors="replace"): self._block(index) for index, name in named}

    def edges(self) -> dict[str, list[int]]:
        """Return the EDGE_SLOTS slots by upstream; the empty name has the responses that came from no upstream."""
        return {name: block for name, block in self._blocks.items() if name != FRONT_BLOCK}

    def front(self) -> dict[str, int]:
        """Return how often each fault was injected at the front."""
        block = self._blocks.get(FRONT_BLOCK, [0] * EDGE_SLOTS)
        return dict(zip(FRONT_COUNTED, block[EDGE_LATENCY:], strict=False))

    def totals(self) -> dict[str, int]:
        """Return all fields by name, summed over all upstreams."""
        found = dict(zip(FIELDS, self.own, strict=True))
        summed = [sum(column) for column in zip(*self.edges().values(), strict=True)]
        for digit in range(1, 6):
            found[f"responses_{digit}xx"] += summed[digit]
        found["latency_us"] += summed[EDGE_US]
        for bucket in range(LATENCY_BUCKETS):
            found[f"latency_{bucket}"] += summed[EDGE_LATENCY + bucket]
        return found

    def _block(self, index: int) -> list[int]:
        at = _TABLE_END + index * _BLOCK + NAME_BYTES
        return self._data[at : at + 8 * EDGE_SLOTS].cast("Q").tolist()


def read_counters(path: str | Path) -> Reading:
    """Read a file; raise OSError if it is missing, ValueError if it is not a counters file of this version."""
    with os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(_HEADER)
        if _has_earlier_layout(head, size):
            return Reading(_converted(head + file.read()))
        if not _is_valid(head, size):
            raise ValueError(f"{path}: not a counters file of this version")
        # Mapped instead of read: most blocks of most files are unused.
        return Reading(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _padded(upstream: str) -> bytes:
    return upstream.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0")


def _names(data: memoryview) -> Iterator[tuple[int, bytes]]:
    """Yield index and padded name of each used block; blocks are used in order, the nameless one always."""
    yield 0, bytes(NAME_BYTES)
    for index in range(1, EDGES):
        at = _TABLE_END + index * _BLOCK
        if not data[at]:
            return
        yield index, bytes(data[at : at + NAME_BYTES])


def _header(fields: int = len(FIELDS)) -> bytes:
    return MAGIC + fields.to_bytes(8, "little")


def _is_valid(data: bytes, size: int) -> bool:
    return size == _SIZE and data.startswith(_header())


def _has_earlier_layout(data: bytes, size: int) -> bool:
    """Return whether the layout is that of an earlier version: with one gauge less, or with shorter blocks."""
    fields = len(FIELDS) - (not data.startswith(_header()))
    block, rest = divmod(size - _HEADER - 8 * fields, EDGES)
    return not rest and not block % 8 and _EARLIEST_BLOCK <= block <= _BLOCK and data.startswith(_header(fields))


def _converted(data: bytes) -> bytes:
    """Return a file of an earlier layout in the present one: with a slot for tunnels, and longer blocks."""
    at = _HEADER + 8 * TUNNELS
    if not data.startswith(_header()):
        data = data[:at] + bytes(8) + data[at:]
    block = (len(data) - _TABLE_END) // EDGES
    starts = range(_TABLE_END, len(data), block)
    blocks = [data[start : start + block] + bytes(_BLOCK - block) for start in starts]
    return _header() + data[_HEADER:_TABLE_END] + b"".join(blocks)


def _mapped(path: Path) -> mmap.mmap:
    """Return a mapping of the file, or of private memory if the disk is full: the load balancer then still serves."""
    try:
        return _map_file(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        logging.getLogger("lb").warning(
            "%s: the disk is full (%s): the counters of this process are not visible", path, error.strerror
        )
        return mmap.mmap(-1, _SIZE)


def _map_over(mapped: mmap.mmap, fd: int) -> None:
    """Map the file in place of the one that is mapped there (mmap(2), MAP_FIXED); raise OSError if that fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    found = libc.mmap(address, _SIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, fd, 0)
    if found != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _map_file(path: Path) -> mmap.mmap:
    fd = opened(path, os.O_RDWR | os.O_CREAT)
    try:
        size, head = os.fstat(fd).st_size, os.pread(fd, _HEADER, 0)
        new = not _is_valid(head, size)
        if new and _has_earlier_layout(head, size):
            os.posix_fallocate(fd, 0, _SIZE)
            os.pwrite(fd, _converted(os.pread(fd, size, 0)), 0)
        elif new:
            os.ftruncate(fd, 0)
            os.posix_fallocate(fd, 0, _SIZE)
        mapped = mmap.mmap(fd, _SIZE)
    finally:
        os.close(fd)
    if new:
        mapped[:_HEADER] = _header()
    return mapped
