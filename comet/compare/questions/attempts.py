"""Attacks from within a replica, each with its own bound; the outcome is one JSON line.

It is run as `python3 -c SOURCE NAME ARGUMENT…`. This file is all that the attacker has: the standard library, no other
module of the project, no rights but its user's. An attempt returns at once what it takes, and nothing here outlives the
deadline.
"""

import contextlib
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any

DEADLINE = 20
MIB = 1 << 20


def hog(children: str, mib: str) -> dict[str, Any]:
    """Let `children` processes take `mib` MiB of memory each, and hold it until all have it or have died.

    A child's address space is bounded.
    """
    limit = (int(mib) + 256) * MIB
    reader, writer = os.pipe()
    pids = []
    for _ in range(int(children)):
        pid = os.fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            held = bytearray(int(mib) * MIB)
            held[::4096] = b"x" * len(held[::4096])
            os.write(writer, b"x")
            time.sleep(DEADLINE)
            os._exit(0)
        pids.append(pid)
    os.close(writer)
    got = 0
    while got < len(pids) and select.select([reader], [], [], DEADLINE / 2)[0]:
        piece = os.read(reader, len(pids))
        if not piece:
            break
        got += len(piece)
        time.sleep(0.2)
    ended = _end(pids)
    return {"asked_mib": int(children) * int(mib), "held_mib": got * int(mib), "killed": ended}


def _end(pids: list[int]) -> int:
    """Kill and reap the processes; return how many had been killed before."""
    before = 0
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            before += os.waitpid(pid, os.WNOHANG)[0] != 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return before


def bomb(most: str) -> dict[str, Any]:
    """Fork until it is refused, `most` times at most."""
    pids: list[int] = []
    refused = None
    for _ in range(int(most)):
        try:
            pid = os.fork()
        except OSError as error:
            refused = _name(error)
            break
        if pid == 0:
            time.sleep(DEADLINE)
            os._exit(0)
        pids.append(pid)
    time.sleep(0.5)
    _end(pids)
    return {"asked": int(most), "forked": len(pids), "refused": refused}


def burn(processes: str, seconds: str) -> dict[str, Any]:
    """Let `processes` processes compute without a pause for `seconds`."""
    end = time.monotonic() + float(seconds)
    pids = []
    for _ in range(int(processes)):
        pid = os.fork()
        if pid == 0:
            while time.monotonic() < end:
                sum(range(10000))
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return {"processes": len(pids), "seconds": float(seconds)}


def fill(folder: str, mib: str) -> dict[str, Any]:
    """Write a file until the disk is full, `mib` MiB at most."""
    path = os.path.join(folder, f"fill.{os.getpid()}")
    written, refused = 0, None
    try:
        with open(path, "wb", buffering=0) as file:
            while written < int(mib):
                file.write(b"x" * MIB)
                written += 1
    except OSError as error:
        refused = _name(error)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return {"asked_mib": int(mib), "written_mib": written, "refused": refused}


def read(path: str) -> dict[str, Any]:
    """Read a file of the host."""
    try:
        with open(path) as file:
            return {"read": file.read(64)}
    except OSError as error:
        return {"read": None, "refused": _name(error)}


def see(mark: str) -> dict[str, Any]:
    """Look for a process whose command line contains the mark, and end it."""
    visible, found, ended = 0, None, False
    for name in filter(str.isdigit, os.listdir("/proc")):
        visible += 1
        if int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
            # The mark is a separate argument; in this process's own command line it follows the name of the attempt.
            words = file.read().split(b"\0")
            if mark.encode() in words and b"see" not in words:
                found = int(name)
    if found is not None:
        with contextlib.suppress(OSError):
            os.kill(found, signal.SIGTERM)
            ended = True
    return {"visible": visible, "found": found is not None, "signalled": ended}


def port(number: str) -> dict[str, Any]:
    """Listen on a privileged port; the namespace in the result identifies the network."""
    network = os.readlink("/proc/self/ns/net")
    with socket.socket() as listener:
        try:
            listener.bind(("0.0.0.0", int(number)))
            listener.listen()
        except OSError as error:
            return {"bound": False, "refused": _name(error), "network": network}
    return {"bound": True, "network": network}


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def main() -> None:
    signal.alarm(DEADLINE + 5)
    name, *arguments = sys.argv[1:]
    attempts = {each.__name__: each for each in (hog, bomb, burn, fill, read, see, port)}
    print(json.dumps(attempts[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
