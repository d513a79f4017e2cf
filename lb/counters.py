"""Counters that outlive a crash: unsigned 64-bit slots in a mapped file, one writer (the LB), any number of readers.

Layout, native byte order (a file never leaves its machine): 8 bytes magic with the version, 8 bytes number of slots, then the
slots in the order of FIELDS. Stores of aligned 8-byte words are atomic on the machines Comet runs on, so a reader needs no lock.
The space is reserved with posix_fallocate: a sparse mapping would meet SIGBUS on a full disk. `multiprocessing.shared_memory`
is not used because its maker's death unlinks it.

Counters go on counting in the successor; GAUGES describe the process that runs and begin at zero with it.

Latency: bucket k of LATENCY_BUCKETS holds the exchanges whose time from a request's complete head to the last byte of its
response, cut to whole microseconds, lay in [2^(k/4), 2^((k+1)/4)) (bucket 0 also all below, the last also all above, about 67 s):
`latency_bound(k)` is the upper edge in seconds. Four buckets per doubling put a percentile within 19 %.
"""

import mmap
import os
from math import ceil, log2
from pathlib import Path
from typing import Final

MAGIC: Final = b"comet\x00\x00\x01"
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

_SIZE: Final = _HEADER + 8 * len(FIELDS)


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
        self.slots = memoryview(self._map)[_HEADER:].cast("Q")
        for name in GAUGES:
            self.slots[FIELDS.index(name)] = 0

    def close(self) -> None:
        """Unmap; the file stays."""
        self.slots.release()
        self._map.close()

    def as_dict(self) -> dict[str, int]:
        """Return all fields by name."""
        return dict(zip(FIELDS, self.slots, strict=True))


def read(path: str | Path) -> dict[str, int]:
    """Return all fields by name, from any process. OSError: no such file; ValueError: not a counters file of this version."""
    data = Path(path).read_bytes()
    if not _valid(data):
        raise ValueError(f"{path}: not a counters file of this version")
    return dict(zip(FIELDS, memoryview(data)[_HEADER:].cast("Q"), strict=True))


def _header() -> bytes:
    return MAGIC + len(FIELDS).to_bytes(8, "little")


def _valid(data: bytes) -> bool:
    return len(data) == _SIZE and data.startswith(_header())


def _map_file(path: Path) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fresh = not _valid(os.pread(fd, _SIZE + 1, 0))
        if fresh:
            os.ftruncate(fd, 0)
            os.posix_fallocate(fd, 0, _SIZE)
        mapped = mmap.mmap(fd, _SIZE)
    finally:
        os.close(fd)
    if fresh:
        mapped[:_HEADER] = _header()
    return mapped
