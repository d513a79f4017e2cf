"""Measures from within: system calls, disk, and units of work under a CPU quota; the outcome is one JSON line.

It is run as `python3 -c SOURCE NAME ARGUMENT…`, as a process and in a container. It has the standard library and no
other module of the project.
"""

import contextlib
import ctypes
import json
import mmap
import os
import random
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

PARTS = 10
CALLS, FORKS = 20_000, 50
PAGES = 4_096
FUTEX, FUTEX_WAKE = {"x86_64": 202, "aarch64": 98}, 1
"""futex(2): the system call's number by machine, as the C library has no function for it; and its operation."""
SYNCS, RANDOMS, COMMITS = 40, 1_000, 100
BLOCK, FILE = 4_096, 16 << 20
WORK, PAUSE = 0.006, 0.004
"""Seconds of CPU time of a unit of work, and of rest after it: six tenths of a core, more than the quota."""

QUESTION, ORDER = b"q" * 64, b"o" * 64
"""What is its own answer, and what is answered by a stream."""
STREAM, CHUNK = 128 << 20, 1 << 16


def calls() -> dict[str, float]:
    """Microseconds of a system call of each kind, of a page fault, and of fork and exec."""
    null, zero = os.open("/dev/null", os.O_WRONLY), os.open("/dev/zero", os.O_RDONLY)
    found = {
        "getppid": _each(CALLS, os.getppid),
        "write of a byte": _each(CALLS, lambda: os.write(null, b"x")),
        "read of a byte": _each(CALLS, lambda: os.read(zero, 1)),
        "stat": _each(CALLS, lambda: os.stat("/")),
    }
    if (futex := FUTEX.get(os.uname().machine)) is not None:
        call, word = ctypes.CDLL(None).syscall, ctypes.c_int()
        found["futex"] = _each(CALLS, lambda: call(futex, ctypes.byref(word), FUTEX_WAKE, 1))
    began = time.perf_counter()
    with mmap.mmap(-1, PAGES * BLOCK) as memory:
        for page in range(PAGES):
            memory[page * BLOCK] = 1
        found["page fault"] = (time.perf_counter() - began) / PAGES * 1e6
    return found | {"fork": _each(FORKS, _fork), "fork and exec": _each(FORKS, _exec)}


def _each(times: int, work: Callable[[], object]) -> float:
    """Return the microseconds of one of `times` calls, in the best tenth: what disturbs makes it only longer."""
    best = float("inf")
    for _ in range(PARTS):
        began = time.perf_counter()
        for _ in range(times // PARTS):
            work()
        best = min(best, time.perf_counter() - began)
    return best / (times // PARTS) * 1e6


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _exec() -> None:
    os.waitpid(os.posix_spawnp("cat", ["cat", "/dev/null"], os.environ), 0)


def disk(folder: str) -> dict[str, float]:
    """Microseconds of 4 KiB at random, of a synced write, sequential MiB a second; a database's commits a second."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        file = os.open(os.path.join(made, "file"), os.O_RDWR | os.O_CREAT)
        block = os.urandom(BLOCK)
        began = time.perf_counter()
        for _ in range(FILE // (64 * BLOCK)):
            os.write(file, block * 64)
        os.fsync(file)
        sequential = (FILE >> 20) / (time.perf_counter() - began)
        places = [random.randrange(FILE // BLOCK) * BLOCK for _ in range(RANDOMS)]
        order = iter(places * 2)

        def synced() -> None:
            os.write(file, block)
            os.fsync(file)

        result = {
            "4 KiB written at random": _each(RANDOMS, lambda: os.pwrite(file, block, next(order))),
            "4 KiB read at random": _each(RANDOMS, lambda: os.pread(file, BLOCK, next(order))),
            "4 KiB written and synced": _each(SYNCS, synced),
            "sequential write, synced at the end": sequential,
            "database commits": _commits(os.path.join(made, "database")),
        }
        os.close(file)
    return result


def _commits(path: str) -> float:
    """Commits a second of SQLite with a write-ahead log, as workers have it, but each synced."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
        database.execute("create table counts (requests integer)")
        return 1e6 / _each(COMMITS, lambda: database.execute("insert into counts values (1)"))


def work(seconds: str) -> dict[str, float]:
    """Milliseconds that units of WORK took, with PAUSE seconds between them: median and 99th percentile."""
    times, end = [], time.monotonic() + float(seconds)
    while time.monotonic() < end:
        began, spent = time.perf_counter(), time.thread_time() + WORK
        while time.thread_time() < spent:
            pass
        times.append((time.perf_counter() - began) * 1000)
        time.sleep(PAUSE)
    return _percentiles(times)


def serve(*addresses: str) -> dict[str, float]:
    """Answer questions at TCP addresses and UNIX sockets until it is ended."""
    threads = [threading.Thread(target=_serve, args=(each,)) for each in addresses]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return {}


def _serve(address: str) -> None:
    listening, place = _socket(address)
    listening.bind(place)
    listening.listen()
    while True:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(ConnectionError):
            while question := connection.recv(len(QUESTION), socket.MSG_WAITALL):
                if question != ORDER:
                    connection.sendall(question)
                else:
                    for _ in range(STREAM // CHUNK):
                        connection.sendall(bytes(CHUNK))


def _socket(address: str) -> tuple[socket.socket, Any]:
    if "/" in address:
        folder, _, name = address.rpartition("/")
        os.chdir(folder)  # An address has at most 107 bytes (unix(7)), however deep its folder lies.
        return socket.socket(socket.AF_UNIX), name
    made = socket.socket()
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    host, _, port = address.partition(":")
    return made, (host, int(port))


def ask(address: str, seconds: str) -> dict[str, float]:
    """Microseconds of one question at a time and of the machine's CPU for it, and MiB a second of a stream."""
    times: list[float] = []
    with _connected(address) as connection:
        busy, end = _busy(), time.perf_counter() + float(seconds)
        while (began := time.perf_counter()) < end:
            _answered(connection)
            times.append((time.perf_counter() - began) * 1e6)
        busy = (_busy() - busy) / len(times) * 1e6
        connection.sendall(ORDER)
        buffer, left, began = bytearray(CHUNK), STREAM, time.perf_counter()
        while left and (got := connection.recv_into(buffer)):
            left -= got
        streamed = (STREAM >> 20) / (time.perf_counter() - began)
    if left:
        raise SystemExit(f"{address}: the stream broke off")
    return _percentiles(times, "latency ") | {"CPU of the machine": busy, "stream": streamed}


def _connected(address: str) -> socket.socket:
    """Return a connection to what answers already; a proxy may accept it before that is so."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        connection, place = _socket(address)
        connection.settimeout(2)
        with contextlib.suppress(OSError):
            connection.connect(place)
            if _answered(connection):
                connection.settimeout(None)
                return connection
        connection.close()
        time.sleep(0.02)
    raise SystemExit(f"{address}: no answer")


def _answered(connection: socket.socket) -> bool:
    connection.sendall(QUESTION)
    return connection.recv(len(QUESTION), socket.MSG_WAITALL) == QUESTION


def _busy() -> float:
    """Seconds in which cores were not idle: user, nice, system, irq, softirq (proc(5))."""
    with open("/proc/stat") as stat:
        times = stat.readline().split()
    return sum(int(times[place]) for place in (1, 2, 3, 6, 7)) / os.sysconf("SC_CLK_TCK")


def _percentiles(times: list[float], of: str = "") -> dict[str, float]:
    times.sort()
    return {f"{of}p50": times[len(times) // 2], f"{of}p99": times[min(len(times) - 1, len(times) * 99 // 100)]}


if __name__ == "__main__":
    PROGRAMS: dict[str, Callable[..., dict[str, float]]] = {
        "calls": calls, "disk": disk, "work": work, "serve": serve, "ask": ask,
    }  # fmt: skip
    print(json.dumps(PROGRAMS[sys.argv[1]](*sys.argv[2:])))
