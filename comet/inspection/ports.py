"""Finds how a connection to a replica's port reaches it: its own socket, a proxy process of the engine, NAT rules."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import Final

from comet.host import port_owners, process_identity
from comet.inspection.facts import DENIED, Fact, Missing, PortRoute, fact
from comet.inspection.proc import PROC

TIMEOUT: Final = 5.0
"""Seconds for the listing of the NAT rules."""

PROXY: Final = "docker-proxy"

ELSEWHERE: Final = Missing("not visible", "the engine has another network namespace")
NO_PROGRAM: Final = Missing("not known", "install iptables")

Listener = tuple[str, int, str]
"""A process that accepts connections: its name, its PID, and where it sends them (empty: it serves them itself)."""


def of_process(pid: int, port: int) -> PortRoute:
    """Return the route to a port of a process in this network namespace."""

    def listeners() -> tuple[Listener, ...]:
        ours = port_owners.held(pid)
        found = port_owners.listening(None, port)
        return (("itself", pid, ""),) if ours & found.keys() else ()

    return PortRoute(port, fact(listeners), ())


def of_container(port: int, inside: str, engine: int | None) -> PortRoute:
    """Return the route to a published port; `inside` is the address in the container.

    `engine` is a process of the engine, whose network namespace holds the port and its rules.
    """
    here = engine is None or _share_network(engine, "self")
    rules: Fact[tuple[str, ...]] = ELSEWHERE
    skips = False
    if here:
        listed = nat_rules()
        rules = listed if isinstance(listed, Missing) else matching(listed, port)
        skips = not isinstance(listed, Missing) and skips_loopback(listed)
    return PortRoute(port, fact(lambda: _proxies(port, inside, engine)), rules, skips)


def _proxies(port: int, inside: str, engine: int | None) -> tuple[Listener, ...]:
    """Return the engine's helper processes that accept connections to a published port."""
    found = [(PROXY, pid, inside) for pid in forwarders(port, inside, engine, proxies())]
    return tuple(found or _publishers(port, inside))


def forwarders(port: int, inside: str, engine: int | None, known: Iterable[tuple[int, str, str]]) -> list[int]:
    """Return which of these proxies forward a port, in the network namespace of a process of the engine."""
    fits = [pid for pid, number, target in known if (number, target) == (str(port), inside)]
    return [pid for pid in fits if engine is None or _share_network(pid, engine)]


def proxies() -> list[tuple[int, str, str]]:
    """Return Docker's proxy processes as (PID, port on the host, target in the container)."""
    found = []
    for pid in process_identity.pids():
        words = process_identity.command_line(pid)
        if words and words[0].rpartition("/")[2] == PROXY:
            target = f"{_option(words, '-container-ip')}:{_option(words, '-container-port')}"
            found.append((pid, _option(words, "-host-port"), target))
    return found


def _publishers(port: int, inside: str) -> list[Listener]:
    """Return the helpers of other engines that listen on a port, found by the socket that they hold."""
    sockets = port_owners.listening(None, port).keys()
    found: list[Listener] = []
    for pid in process_identity.pids():
        with contextlib.suppress(OSError):
            name = process_identity.name(pid)
            if name in port_owners.PUBLISHERS and port_owners.held(pid) & sockets:
                found.append((name, pid, inside))
    return found


def _option(words: tuple[str, ...], name: str) -> str:
    return words[words.index(name) + 1] if name in words[:-1] else ""


def _share_network(pid: int, other: int | str) -> bool:
    """Return whether two processes are in one network namespace, or that is not known."""
    try:
        return (PROC / str(pid) / "ns/net").readlink() == (PROC / str(other) / "ns/net").readlink()
    except OSError:
        return True


def nat_rules() -> Fact[str]:
    """Return this network namespace's NAT rules, as iptables-save writes them."""
    program = shutil.which("iptables-save") or shutil.which("iptables-save", path="/usr/sbin:/sbin")
    if program is None:
        return NO_PROGRAM
    try:
        done = subprocess.run(
            [program, "-t", "nat"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return Missing("not known", "iptables-save does not answer")
    return done.stdout if done.returncode == 0 else DENIED


def matching(listed: str, port: int) -> tuple[str, ...]:
    """Return the rules that rewrite the destination of connections to a port, as `address:port → target`."""
    found = []
    for line in listed.splitlines():
        words = line.split()
        if words[:1] == ["-A"] and "DNAT" in words and _option(tuple(words), "--dport") == str(port):
            address = _option(tuple(words), "-d").partition("/")[0]
            found.append(f"{address or '*'}:{port} → {_option(tuple(words), '--to-destination')}")
    return tuple(found)


def skips_loopback(listed: str) -> bool:
    """Return whether the rules leave alone what this machine sends to its loopback: a proxy process gets that."""
    return bool(re.search(r"^-A OUTPUT ! -d 127\.0\.0\.0/8 .*-j DOCKER$", listed, re.MULTILINE))
