"""Counters that outlive a crash: unsigned 64-bit slots in a mapped file, one writer (the LB), any number of readers.

Layout, native byte order (a file never leaves its machine): 8 bytes magic with the version, 8 bytes number of slots, then the
slots in the order of FIELDS, then EDGES blocks, one for each upstream that was met: its name (NAME_BYTES, padded with zeros) and
EDGE_SLOTS slots. An answer that came from an upstream is counted in that one's block and nowhere else, so that counting by upstream
costs no more than counting once; `read` and `as_dict` add the blocks up. The first block, without a name, is of answers that came
from no upstream (and of upstreams for which no block was left). Stores of aligned 8-byte words are atomic on the machines Comet runs
on, so a reader needs no lock. The space is reserved with posix_fallocate: a sparse mapping would meet SIGBUS on a full disk.
`multiprocessing.shared_memory` is not used because its maker's death unlinks it.

Counters go on counting in the successor; GAUGES describe the process that runs and begin at zero with it.

Latency: bucket k of LATENCY_BUCKETS holds the exchanges whose time from a request's complete head to the last byte of its
response, cut to whole microseconds, lay in [2^(k/4), 2^((k+1)/4)) (bucket 0 also all below, the last also all above, about 67 s):
`latency_bound(k)` is the upper edge in seconds. Four buckets per doubling put a percentile within 19 %.
"""

import mmap
import os
from collections.abc import Iterator
from math import ceil, log2
from pathlib import Path
from typing import Final

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
GAUGES: Final = ("in_flight", "connections", "queued")
FIELDS: Final = COUNTERS + GAUGES + tuple(f"latency_{k}" for k in range(LATENCY_BUCKETS))

REQUESTS: Final = FIELDS.index("requests")
RESPONSES: Final = FIELDS.index("responses_1xx") - 1  # + the status's first digit
OWN_ERRORS: Final = FIELDS.index("own_errors")
RETRIES: Final = FIELDS.index("retries")
UPSTREAM_ERRORS: Final = FIELDS.index("upstream_errors")
BYTES_IN: Final = FIELDS.index("bytes_in")
BYTES_OUT: Final = FIELDS.index("bytes_out")
LATENCY_US: Final = FIELDS.index("latency_us")
ABORTED: Final = FIELDS.index("aborted")
IN_FLIGHT: Final = FIELDS.index("in_flight")
CONNECTIONS: Final = FIELDS.index("connections")
QUEUED: Final = FIELDS.index("queued")
LATENCY: Final = FIELDS.index("latency_0")

# A block: errors of the upstream, its responses by the status's first digit, and what EDGE_ names.
EDGES: Final = 257
EDGE_ERRORS: Final = 0
EDGE_US: Final = 6
EDGE_IN_FLIGHT: Final = 7
EDGE_LATENCY: Final = 8
INJECTED: Final = ("hang", "reset", "truncate", "failure", "slow-body")
EDGE_INJECTED: Final = EDGE_LATENCY + LATENCY_BUCKETS
EDGE_SLOTS: Final = EDGE_INJECTED + len(INJECTED)
NAME_BYTES: Final = 32

_TABLE_END: Final = _HEADER + 8 * len(FIELDS)
_BLOCK: Final = NAME_BYTES + 8 * EDGE_SLOTS
_SIZE: Final = _TABLE_END + EDGES * _BLOCK


def latency_bucket(micros: int) -> int:
    """Return the bucket of a latency in whole microseconds."""
    return 0 if micros < 1 else min(int(log2(micros) * 4), LATENCY_BUCKETS - 1)


def _table() -> bytes:
    edges = [ceil(2 ** (k / 4)) for k in range(1, 65)]
    return b"".join(bytes((k,)) * (high - low) for k, (low, high) in enumerate(zip([0, *edges], edges, strict=False)))


# The buckets of all latencies below 65 ms: an index costs a fraction of a logarithm.
LATENCY_TABLE: Final = _table()


def latency_bound(bucket: int) -> float:
    """Return the upper edge of `bucket` in seconds; of the last bucket infinity."""
    return float(2 ** ((bucket + 1) / 4) / 1e6) if bucket < LATENCY_BUCKETS - 1 else float("inf")


class Counters:
    """The writer. `slots[INDEX] += n` is the interface: a method call per count would cost more than the count."""

    def __init__(self, path: str | Path | None = None) -> None:
        """Open or create the file at `path` (None: memory only). OSError when the disk is full or the path unwritable.

        A file of another layout is begun anew: its numbers could only be misread.
        """
        self._map = mmap.mmap(-1, _SIZE) if path is None else _map_file(Path(path))
        self._bytes = memoryview(self._map)
        self.slots = self._bytes[_HEADER:_TABLE_END].cast("Q")
        self._edges = {name: self._edge(index) for index, name in _names(self._bytes)}
        for name in GAUGES:
            self.slots[FIELDS.index(name)] = 0
        for edge in self._edges.values():
            edge[EDGE_IN_FLIGHT] = 0

    def edge(self, upstream: str) -> memoryview:
        """Return the EDGE_SLOTS slots of the upstream of this name; a name that no block is left for shares one with its like."""
        padded = _padded(upstream)
        if padded not in self._edges:
            index = len(self._edges)
            if index >= EDGES:
                return self._edges[_padded("")]
            self._edges[padded] = self._edge(index)
            at = _TABLE_END + index * _BLOCK
            self._bytes[at : at + NAME_BYTES] = padded
        return self._edges[padded]

    def close(self) -> None:
        """Unmap; the file stays."""
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
    """One look at a file, from any process."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = memoryview(data)
        self.own = self._data[_HEADER:_TABLE_END].cast("Q")
        """The slots in the order of FIELDS, less what stands in the upstreams' blocks."""

    def edges(self) -> dict[str, list[int]]:
        """Return the EDGE_SLOTS slots of each upstream by its name; under the empty name those of answers that came from none."""
        named = _names(self._data)
        return {name.rstrip(b"\0").decode(errors="replace"): self._block(index) for index, name in named}

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


def look(path: str | Path) -> Reading:
    """Look at a file. OSError: no such file; ValueError: not a counters file of this version."""
    with open(path, "rb") as file:
        if not _valid(file.read(_HEADER), os.fstat(file.fileno()).st_size):
            raise ValueError(f"{path}: not a counters file of this version")
        # Mapped, not read: most blocks of most files were never taken.
        return Reading(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read(path: str | Path) -> dict[str, int]:
    """Return all fields by name, summed over all upstreams; raises as `look`."""
    return look(path).totals()


def _padded(upstream: str) -> bytes:
    return upstream.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0")


def _names(data: memoryview) -> Iterator[tuple[int, bytes]]:
    """Each block that is taken: its index and its padded name. They are taken in order, the nameless one always."""
    yield 0, bytes(NAME_BYTES)
    for index in range(1, EDGES):
        at = _TABLE_END + index * _BLOCK
        if not data[at]:
            return
        yield index, bytes(data[at : at + NAME_BYTES])


def _header() -> bytes:
    return MAGIC + len(FIELDS).to_bytes(8, "little")


def _valid(data: bytes, size: int) -> bool:
    return size == _SIZE and data.startswith(_header())


def _map_file(path: Path) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fresh = not _valid(os.pread(fd, _HEADER, 0), os.fstat(fd).st_size)
        if fresh:
            os.ftruncate(fd, 0)
            os.posix_fallocate(fd, 0, _SIZE)
        mapped = mmap.mmap(fd, _SIZE)
    finally:
        os.close(fd)
    if fresh:
        mapped[:_HEADER] = _header()
    return mapped
