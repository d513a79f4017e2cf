"""What the machines of a test swarm were like when something failed: they are gone a moment later, and with them the
reason.

For every machine: its engine's last words, its containers with their published ports, what listens, the processes of
its network (the engine, docker-proxy), its packet filter's rules, addresses and neighbours; and who answers whom, asked
from the first machine by the published port, from the machine itself by the published port and by the container's own
address. Where the three differ lies the fault.
"""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors
import requests.exceptions

from tests.swarm.hosts import NETWORK, Hosts

LOG_LINES = 80
CONNECT_TIMEOUT = 10.0
"""Seconds that a connection may take here."""

Target = tuple[str, int]


def gather_evidence(lab: Hosts) -> str:
    """All of it as text. Raises nothing: what cannot be had is said in its place."""
    return "\n".join(line for number in lab.numbers for line in _machine(lab, number))


@contextlib.contextmanager
def save_evidence_on_failure(lab: Hosts, file: Path, *logs: Path) -> Iterator[None]:
    """Write what was gathered, and these logs, into `file` when the block raises; the error goes on, and names the
    file.
    """
    try:
        yield
    except Exception as error:
        file.parent.mkdir(parents=True, exist_ok=True)
        told = [f"== {log}\n{log.read_text(errors='replace')}" for log in logs if log.exists()]
        file.write_text("\n".join([f"{type(error).__name__}: {error}", gather_evidence(lab), *told]))
        error.add_note(f"what the machines were like is in {file}")
        raise


def _machine(lab: Hosts, number: int) -> Iterator[str]:
    yield f"== h{number}: the engine's log"
    yield from lab.log(number).splitlines()[-LOG_LINES:]
    yield f"== h{number}: containers"
    targets: list[tuple[str, Target, Target]] = []
    if lab.is_on(number):
        try:
            for listed in lab.client(number).api.containers(all=True):
                yield (
                    f"{listed['Id'][:12]} {listed['Image']} {listed['Command']!r} {listed['Status']} {listed['Ports']}"
                )
                targets += _targets(number, listed)
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            yield f"(cannot be asked: {error})"
    else:
        yield "(it is off)"
    yield f"== h{number}: who answers"
    for name, published, own in targets:
        yield (
            f"{name} published {published}: from h1 {_first_response_line(lab, 1, published)}; from h{number} "
            f"{_first_response_line(lab, number, published)}"
        )
        yield f"{name} own address {own}: from h{number} {_first_response_line(lab, number, own)}"
    for words in (
        ["ss", "-Htlnp"], ["iptables-save", "-c"], ["ip", "-brief", "address"], ["ip", "neighbour"], ["ip", "route"],
        ["cat", "/proc/net/nf_conntrack"],
    ):  # fmt: skip
        yield f"== h{number}: {' '.join(words)}"
        yield _output([*lab.enter(number), *words])
    yield f"== h{number}: processes of its network"
    yield _output(["ps", "-o", "pid,ppid,etimes,args", "-p", ",".join(map(str, lab.processes(number))) or "0"])


def _targets(number: int, listed: dict[str, Any]) -> Iterator[tuple[str, Target, Target]]:
    networks = (listed.get("NetworkSettings") or {}).get("Networks") or {}
    addresses = [each["IPAddress"] for each in networks.values() if each.get("IPAddress")]
    for port in listed.get("Ports") or []:
        if port.get("PublicPort") and addresses and ":" not in port.get("IP", ""):
            yield listed["Id"][:12], (f"{NETWORK}.{number}", port["PublicPort"]), (addresses[0], port["PrivatePort"])


def _first_response_line(lab: Hosts, number: int, target: Target) -> str:
    """The first line of what it answers to a request, or the error."""

    def ask() -> str:
        try:
            with socket.create_connection(target, CONNECT_TIMEOUT) as connection:
                connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                return connection.recv(100).partition(b"\r\n")[0].decode(errors="replace") or "closed"
        except OSError as error:
            return f"{type(error).__name__} {error}"

    return lab.within(number, ask)


def _output(words: list[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"({error})"
    return done.stdout + done.stderr
