"""Defines the facts that are read of a replica. Pure.

A fact that cannot be known is a `Missing`: it says why and what to do, and takes the value's place. So one unreadable
file never hides the others, and never becomes an error.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

T = TypeVar("T")

NAMESPACES = ("mnt", "pid", "net", "uts", "ipc", "user", "cgroup", "time")
"""The kinds of namespaces, as /proc/PID/ns names them (namespaces(7))."""


@dataclass(frozen=True)
class Missing:
    """A fact that has no value: `why`, and in `more` what to do about it, or what that means.

    `absent`: it is known that there is none. Otherwise it is not known what there is.
    """

    why: str
    more: str = ""
    absent: bool = False

    def __str__(self) -> str:
        return f"{self.why} ({self.more})" if self.more else self.why


Fact: TypeAlias = T | Missing

DENIED = Missing("not permitted", "run as root")
UNSUPPORTED = Missing("not known", "this kernel does not say")


def fact(read: Callable[[], T]) -> Fact[T]:
    """Return what `read` returns; a Missing where the kernel refuses it, or has no such file."""
    try:
        return read()
    except PermissionError:
        return DENIED
    except (OSError, ValueError, LookupError):
        return UNSUPPORTED


@dataclass(frozen=True)
class Status:
    """What /proc/PID/status says (proc(5)); capabilities are bit masks.

    `inside` are the PIDs in the namespaces below the reader's, outermost first.
    """

    parent: int
    threads: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    inside: tuple[int, ...]
    effective: int
    bounding: int
    no_new_privileges: bool | None
    seccomp: int | None
    filters: int | None
    cpus: str


@dataclass(frozen=True)
class Mount:
    """One line of /proc/PID/mountinfo; `root` is the part of the file system that is mounted."""

    id: int
    parent: int
    device: str
    root: str
    place: str
    read_only: bool
    kind: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Interface:
    """A network interface, with its addresses as `address/prefix length`."""

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Descriptors:
    """How many files a process has open, by kind, and how many it may have (None: any number)."""

    sockets: int
    pipes: int
    files: int
    others: int
    limit: int | None


@dataclass(frozen=True)
class Memory:
    """The resident memory of a process, in bytes (proc(5), smaps_rollup).

    `private` pages are mapped by this process alone, `shared` pages by others, too. `proportional` divides each shared
    page among those that map it.
    """

    resident: int
    private: int
    shared: int
    proportional: int
    swapped: int


@dataclass(frozen=True)
class ProcessFacts:
    """What /proc says of one process. `age` is in seconds; `environment` is (variables, bytes)."""

    pid: int
    age: float
    command: str
    status: Fact[Status]
    uid_map: Fact[tuple[tuple[int, int, int], ...]]
    label: Fact[str]
    namespaces: Mapping[str, Fact[int]]
    mounts: Fact[tuple[Mount, ...]]
    interfaces: Fact[tuple[Interface, ...]]
    gateway: Fact[str | None]
    descriptors: Fact[Descriptors]
    environment: Fact[tuple[int, int]]
    oom: Fact[tuple[int, int]]
    memory: Fact[Memory]


@dataclass(frozen=True)
class Limit:
    """A limit that applies, and the group that sets it (None: no group does)."""

    value: float | None
    group: str | None = None


@dataclass(frozen=True)
class Pressure:
    """The share of time, in percent of the last ten seconds, in which some task waited for a resource.

    `own`: it is measured for the group alone, and not for the whole machine.
    """

    cpu: float | None
    memory: float | None
    io: float | None
    own: bool


@dataclass(frozen=True)
class CgroupFacts:
    """What the control groups of a process say.

    `paths` are the group's paths by controller, "" for version 2. Memory is in bytes, `cpus` in cores, `throttled` is
    (periods throttled, all periods). `members` counts the processes of the group.
    """

    version: int
    paths: Mapping[str, str]
    memory_limit: Fact[Limit]
    memory_used: Fact[int]
    memory_hits: Fact[int]
    page_cache: Fact[int]
    cpus: Fact[Limit]
    weight: Fact[int]
    throttled: Fact[tuple[int, int]]
    tasks_limit: Fact[Limit]
    tasks: Fact[int]
    pressure: Fact[Pressure]
    members: Fact[int]


@dataclass(frozen=True)
class EngineFacts:
    """What the engine says of a container. `image_layers` are those of its image."""

    id: str
    title: str
    image: str
    image_layers: Fact[int]
    runtime: str
    network: str
    binds: tuple[tuple[str, str, bool], ...]
    ports: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class PortRoute:
    """How a connection to a replica's port reaches it.

    `listeners` are the processes that accept it, as (name, PID, target); `rules` are the kernel's NAT rules for it.
    """

    port: int
    listeners: Fact[tuple[tuple[str, int, str], ...]]
    rules: Fact[tuple[str, ...]]
    skips_loopback: bool = False


@dataclass(frozen=True)
class Link:
    """One process on the path from the first one to a replica."""

    pid: int
    name: str


@dataclass(frozen=True)
class Facts:
    """Everything known of one replica."""

    name: str
    role: str
    kind: str
    chain: tuple[Link, ...]
    process: ProcessFacts
    cgroup: Fact[CgroupFacts]
    engine: EngineFacts | None
    route: PortRoute
    together: Fact[int]
    """The bytes of its memory that the other replicas of the report map, too."""


@dataclass(frozen=True)
class Machine:
    """What the replicas are compared with: the namespaces of the first process, where they can be read.

    `reference` says whose namespaces count as the host's.
    """

    kernel: str
    reference: str
    namespaces: Mapping[str, Fact[int]]
