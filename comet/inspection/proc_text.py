"""Parses the files of /proc/PID. Pure.

Every function takes a file's text, as proc(5) describes it, and raises ValueError or LookupError for text that is none.
"""

import ipaddress
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from comet.inspection.facts import Interface, Memory, Mount, Status

LOOPBACK: Final = "lo"


def status(text: str) -> Status:
    """Parse /proc/PID/status; what an old kernel does not say is None."""
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in text.splitlines())}

    def number(name: str) -> int | None:
        return int(fields[name][0]) if name in fields else None

    return Status(
        parent=int(fields["PPid"][0]),
        threads=int(fields["Threads"][0]),
        uids=tuple(map(int, fields["Uid"])),
        gids=tuple(map(int, fields["Gid"])),
        groups=tuple(map(int, fields.get("Groups", ()))),
        inside=tuple(map(int, fields.get("NSpid", fields["Pid"]))),
        effective=int(fields["CapEff"][0], 16),
        bounding=int(fields["CapBnd"][0], 16),
        no_new_privileges=None if (value := number("NoNewPrivs")) is None else bool(value),
        seccomp=number("Seccomp"),
        filters=number("Seccomp_filters"),
        cpus=fields.get("Cpus_allowed_list", [""])[0],
    )


def id_map(text: str) -> tuple[tuple[int, int, int], ...]:
    """Parse /proc/PID/uid_map into (first inside, first outside, count)."""
    rows = [tuple(map(int, line.split())) for line in text.splitlines()]
    return tuple((row[0], row[1], row[2]) for row in rows)


def namespace(link: str) -> int:
    """Return the inode that identifies a namespace, from the target of /proc/PID/ns/NAME: `net:[4026531833]`."""
    found = re.fullmatch(r"[a-z]+:\[(\d+)\]", link)
    if found is None:
        raise ValueError(link)
    return int(found[1])


def mounts(text: str) -> tuple[Mount, ...]:
    """Parse /proc/PID/mountinfo."""
    return tuple(_mount(line) for line in text.splitlines())


def _mount(line: str) -> Mount:
    place, _, kind = line.partition(" - ")
    words, more = place.split(" "), kind.split(" ")
    return Mount(
        id=int(words[0]),
        parent=int(words[1]),
        device=words[2],
        root=_unescaped(words[3]),
        place=_unescaped(words[4]),
        read_only="ro" in words[5].split(","),
        kind=more[0],
        source=_unescaped(more[1]),
        options=tuple(more[2].split(",")) if len(more) > 2 else (),
    )


def _unescaped(word: str) -> str:
    """Return a path in which the kernel wrote blanks, tabs, newlines and backslashes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def layers(mount: Mount) -> int:
    """Return how many read-only layers an overlay file system has; 0 for any other file system.

    Kernels since 6.5 may write one `lowerdir+` for each layer.
    """
    if mount.kind != "overlay":
        return 0
    named = (option.partition("=") for option in mount.options)
    lower = [value for name, _, value in named if name in ("lowerdir", "lowerdir+", "datadir+")]
    return sum(len(re.split(r"(?<!\\)::?", value)) for value in lower)


def interfaces(devices: str, routes: str, trie: str, six: str) -> tuple[Interface, ...]:
    """Return the interfaces of a network namespace with their addresses, from /proc/PID/net.

    The files are dev, route, fib_trie and if_inet6. The kernel's list of addresses does not name the interface, so an
    IPv4 address belongs to the interface whose route leads to its subnet.
    """
    names = [line.partition(":")[0].strip() for line in devices.splitlines()[2:]]
    found: dict[str, list[str]] = {name: [] for name in names}
    subnets = _subnets(routes)
    for address in _local_addresses(trie):
        at = next(((name, net) for name, net in subnets if address in net), None)
        if at is not None and at[0] in found:
            found[at[0]].append(f"{address}/{at[1].prefixlen}")
        elif address.is_loopback and LOOPBACK in found:
            found[LOOPBACK].append(f"{address}/8")
    for line in six.splitlines():
        words = line.split()
        if words[5] in found:
            found[words[5]].append(f"{ipaddress.IPv6Address(int(words[0], 16))}/{int(words[2], 16)}")
    return tuple(Interface(name, tuple(addresses)) for name, addresses in found.items())


def _subnets(routes: str) -> list[tuple[str, ipaddress.IPv4Network]]:
    """Return the directly connected subnets, the longest prefixes first."""
    found = []
    for line in routes.splitlines()[1:]:
        words = line.split()
        if int(words[2], 16) == 0 and int(words[1], 16) != 0:
            found.append((words[0], ipaddress.ip_network(f"{_dotted(words[1])}/{_dotted(words[7])}", strict=False)))
    nets = [(name, net) for name, net in found if isinstance(net, ipaddress.IPv4Network)]
    return sorted(nets, key=lambda each: -each[1].prefixlen)


def gateway(routes: str) -> str | None:
    """Return the default gateway from /proc/PID/net/route, None where there is none."""
    for line in routes.splitlines()[1:]:
        words = line.split()
        if int(words[1], 16) == 0 and int(words[2], 16) != 0:
            return f"{_dotted(words[2])} by {words[0]}"
    return None


def _dotted(word: str) -> str:
    """Return an address from its form in /proc/net/route: hexadecimal, in the machine's byte order."""
    return str(ipaddress.IPv4Address(struct.pack("=I", int(word, 16))))


def _local_addresses(trie: str) -> list[ipaddress.IPv4Address]:
    """Return this machine's own IPv4 addresses from fib_trie, each once."""
    found: dict[ipaddress.IPv4Address, None] = {}
    last = ""
    for line in trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found[ipaddress.IPv4Address(last)] = None
    return list(found)


def open_files_limit(text: str) -> int | None:
    """Return the soft limit of open files from /proc/PID/limits; None where there is none."""
    found = re.search(r"^Max open files\s+(\d+|unlimited)", text, re.MULTILINE)
    if found is None:
        raise ValueError("Max open files")
    return None if found[1] == "unlimited" else int(found[1])


def kinds_of_files(targets: Iterable[str]) -> tuple[int, int, int, int]:
    """Return how many sockets, pipes, files and others the targets of /proc/PID/fd are."""
    counts = [0, 0, 0, 0]
    for target in targets:
        kinds = ("socket:", "pipe:", "/")
        counts[next((index for index, kind in enumerate(kinds) if target.startswith(kind)), 3)] += 1
    return counts[0], counts[1], counts[2], counts[3]


def memory(text: str) -> Memory:
    """Parse /proc/PID/smaps_rollup."""
    found = sizes(text)
    return Memory(
        resident=found["Rss"],
        private=found["Private_Clean"] + found["Private_Dirty"],
        shared=found["Shared_Clean"] + found["Shared_Dirty"],
        proportional=found["Pss"],
        swapped=found.get("Swap", 0),
    )


def sizes(text: str) -> Mapping[str, int]:
    """Return the sizes in bytes that lines like `Rss:  35060 kB` name."""
    return {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def resident_ranges(text: str) -> list[tuple[int, int]]:
    """Return the address ranges (first, end) of /proc/PID/smaps that have pages in memory."""
    found = []
    current: tuple[int, int] | None = None
    for line in text.splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if head is not None:
            current = (int(head[1], 16), int(head[2], 16))
        elif line.startswith("Rss:") and current is not None and int(line.split()[1]) > 0:
            found.append(current)
    return found


CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
"""The names of the capabilities, by bit (capabilities(7))."""


def capabilities(mask: int) -> list[str]:
    """Return the names of the capabilities in a bit mask; one that is newer than this list is named by its number."""
    bits = (bit for bit in range(64) if mask >> bit & 1)
    return [CAPABILITIES[bit] if bit < len(CAPABILITIES) else str(bit) for bit in bits]
