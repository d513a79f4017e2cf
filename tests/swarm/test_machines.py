"""The test machines themselves: what is powered off there must be as gone as on a machine of its own."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tests.swarm.evidence import gather_evidence, save_evidence_on_failure
from tests.swarm.hosts import NETWORK, Hosts
from tests.swarm.scenes import IMAGE

PORT = 18080
"""No port that the kernel gives a connection of its own: one of the engine could have it."""

COMMAND = ["--listen", "0.0.0.0:8080", "--identity", "container", "--no-faults"]


@pytest.fixture(autouse=True, scope="module")
def restored(lab: Hosts) -> Iterator[None]:
    """h2 is on and has no container afterwards."""
    yield
    if not lab.is_on(2):
        lab.start(2)
    for left in lab.client(2).containers.list(all=True):
        left.remove(force=True)


def serving(lab: Hosts) -> str:
    """Id of a container on h2 whose port is published."""
    made = lab.client(2).containers.run(
        IMAGE,
        COMMAND,
        environment={"COMET_DATABASE": "sqlite:////tmp/stats.db"},
        ports={"8080/tcp": PORT},
        init=True,
        detach=True,
    )
    return str(made.short_id)


def answered(lab: Hosts) -> socket.socket | None:
    """A connection from h1 to that container on which it has answered, and which both keep."""

    def ask() -> socket.socket | None:
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            connection = held.enter_context(socket.create_connection((f"{NETWORK}.2", PORT), 5))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: h2\r\n\r\n")
            if connection.recv(1000):
                held.pop_all()
                return connection
        return None

    return lab.within(1, ask)


def links(lab: Hosts, number: int) -> set[str]:
    return {line.partition("@")[0].split()[0] for line in lab.on(number, ["ip", "-brief", "link"]).splitlines()}


def test_a_powered_off_machine_has_no_network(lab: Hosts) -> None:
    """The kernel keeps a dead container's network as long as it owes somebody the end of a connection. Here it is the
    kernel of all machines and goes on when one is "off": with the cable out for 100 s, in which the next container of
    the same address is not reached.
    """
    serving(lab)
    connection = wait_until(lambda: answered(lab), what="the container answers")
    with connection:
        lab.power_off(2)
        assert links(lab, 2) == {"lo", "eth0"}
    assert "DNAT" not in lab.on(2, ["iptables-save"])
    lab.start(2)
    for former in lab.client(2).containers.list(all=True):
        former.remove(force=True)
    serving(lab)
    wait_until(lambda: answered(lab), what="its successor answers").close()


def test_machine_states_are_recorded_on_failure(lab: Hosts, tmp_path: Path) -> None:
    """For whoever must find out later why a test failed."""
    (container,) = lab.client(2).containers.list()
    told = gather_evidence(lab)
    assert (
        f"{container.short_id[:12]} published ('{NETWORK}.2', {PORT}): from h1 HTTP/1.0 200 OK; from h2 HTTP/1.0 200 OK"
        in told
    )
    assert f"--dport {PORT} -j DNAT" in told
    assert "docker-proxy" in told
    lab.power_off(2)
    assert "== h2: containers\n(it is off)" in gather_evidence(lab)
    file, log = tmp_path / "failed.txt", tmp_path / "events"
    log.write_text("the last events")
    with pytest.raises(RuntimeError, match="it failed") as caught, save_evidence_on_failure(lab, file, log):
        raise RuntimeError("it failed")
    assert caught.value.__notes__ == [f"what the machines were like is in {file}"]
    kept = file.read_text()
    assert all(words in kept for words in ("it failed", "== h1: iptables-save -c", "the last events"))
