"""Reads /proc/PID of one process, and of no other.

The folder is opened once. Its descriptor belongs to that process for ever: when the process ends, reading fails, and
whatever gets its PID later is never read. Then the time of birth is compared with the expected one. Paths are relative
to the descriptor from there on.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from comet.common.redaction import concealed
from comet.host.process_identity import CLOCK_TICKS, DEAD
from comet.inspection import proc_text
from comet.inspection.facts import (
    DENIED,
    NAMESPACES,
    UNSUPPORTED,
    Descriptors,
    Fact,
    Interface,
    Machine,
    Missing,
    ProcessFacts,
    fact,
)

PROC: Final = Path("/proc")
LONGEST_COMMAND: Final = 300
"""Characters of a command line that are shown."""

NO_MODULE: Final = Missing("none", "no security module is active", absent=True)


class Gone(Exception):
    """The process has ended, or its PID belongs to another one by now."""


class ProcessFolder:
    """The folder of one living process in /proc."""

    def __init__(self, pid: int, birth: float | None = None, proc: Path = PROC) -> None:
        """Open the folder; raise Gone unless that process was born then (seconds since boot; None: at any time)."""
        self.pid = pid
        try:
            self._fd = os.open(proc / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            raise Gone(pid) from None
        try:
            self.birth = self.check()
        except Gone:
            self.close()
            raise
        if birth is not None and self.birth != birth:
            self.close()
            raise Gone(pid)

    def __enter__(self) -> "ProcessFolder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def check(self) -> float:
        """Return the time of birth in seconds since boot; raise Gone if the process has ended."""
        try:
            fields = self.bytes("stat").rpartition(b")")[2].split()
            state, birth = fields[0].decode(), int(fields[19]) / CLOCK_TICKS
        except (OSError, ValueError, IndexError):
            raise Gone(self.pid) from None
        if state in DEAD:
            raise Gone(self.pid)
        return birth

    def bytes(self, name: str) -> bytes:
        """Return the content of a file; raise OSError where the kernel refuses it."""
        with open(name, "rb", opener=self._open) as file:
            return file.read()

    def text(self, name: str) -> str:
        return self.bytes(name).decode(errors="replace")

    def link(self, name: str) -> str:
        return os.readlink(name, dir_fd=self._fd)

    def names(self, folder: str) -> list[str]:
        opened = self._open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return os.listdir(opened)
        finally:
            os.close(opened)

    def open(self, name: str) -> int:
        """Return a descriptor of a file, for reading."""
        return self._open(name, os.O_RDONLY)

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._fd)


def read(folder: ProcessFolder, now: float | None = None) -> ProcessFacts:
    """Return everything that the folder says; `now` is in seconds since boot."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME) if now is None else now
    return ProcessFacts(
        pid=folder.pid,
        age=max(0.0, now - folder.birth),
        command=command(folder),
        status=fact(lambda: proc_text.status(folder.text("status"))),
        uid_map=fact(lambda: proc_text.id_map(folder.text("uid_map"))),
        label=_label(folder),
        namespaces=namespaces(folder),
        mounts=fact(lambda: proc_text.mounts(folder.text("mountinfo"))),
        interfaces=fact(lambda: _interfaces(folder)),
        gateway=fact(lambda: proc_text.gateway(folder.text("net/route"))),
        descriptors=fact(lambda: _descriptors(folder)),
        environment=fact(lambda: _environment(folder)),
        oom=fact(lambda: (int(folder.text("oom_score")), int(folder.text("oom_score_adj")))),
        memory=fact(lambda: proc_text.memory(folder.text("smaps_rollup"))),
    )


def command(folder: ProcessFolder) -> str:
    """Return the command line in one line, without passwords; the process's name where it has none."""
    with contextlib.suppress(OSError):
        words = folder.text("cmdline").split("\0")
        line = concealed(" ".join(" ".join(words).split()))
        if line:
            return line if len(line) <= LONGEST_COMMAND else f"{line[: LONGEST_COMMAND - 1]}…"
        return folder.text("comm").strip()
    return ""


def namespaces(folder: ProcessFolder) -> Mapping[str, Fact[int]]:
    """Return the inodes of the namespaces of a process by kind, except kinds that this kernel does not have."""
    found = {name: _namespace(folder, name) for name in NAMESPACES}
    return {name: inode for name, inode in found.items() if inode is not UNSUPPORTED}


def _namespace(folder: ProcessFolder, name: str) -> Fact[int]:
    return fact(lambda: proc_text.namespace(folder.link(f"ns/{name}")))


def machine(proc: Path = PROC) -> Machine:
    """Return what replicas are compared with; without the right to read the first process, this process's own."""
    kernel = os.uname().release
    for pid, reference in ((1, "PID 1"), (os.getpid(), "this command")):
        with contextlib.suppress(Gone), ProcessFolder(pid, proc=proc) as folder:
            found = namespaces(folder)
            if not any(isinstance(inode, Missing) for inode in found.values()):
                return Machine(kernel, reference, found)
    return Machine(kernel, "nothing", dict.fromkeys(NAMESPACES, DENIED))


def _label(folder: ProcessFolder) -> Fact[str]:
    """Return the label of the security module (AppArmor, SELinux); Missing where none is active."""
    try:
        label = folder.text("attr/current").strip("\0\n ")
    except PermissionError:
        return DENIED
    except OSError:
        return NO_MODULE
    return label or NO_MODULE


def _interfaces(folder: ProcessFolder) -> tuple[Interface, ...]:
    def optional(name: str) -> str:
        try:
            return folder.text(name)
        except FileNotFoundError:
            return ""  # A kernel without IPv6, or without the table of addresses.

    return proc_text.interfaces(
        folder.text("net/dev"), folder.text("net/route"), optional("net/fib_trie"), optional("net/if_inet6")
    )


def _descriptors(folder: ProcessFolder) -> Descriptors:
    targets = []
    for number in folder.names("fd"):
        with contextlib.suppress(FileNotFoundError):
            targets.append(folder.link(f"fd/{number}"))
    return Descriptors(*proc_text.kinds_of_files(targets), proc_text.open_files_limit(folder.text("limits")))


def _environment(folder: ProcessFolder) -> tuple[int, int]:
    content = folder.bytes("environ")
    return sum(b"=" in entry for entry in content.split(b"\0")), len(content)
