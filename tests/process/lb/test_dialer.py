"""Names: their addresses are tried in turn and looked up again, and what a failure says is the most telling of
theirs.
"""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lb.proxy import dialer as dial
from lb.proxy.dialer import Dialer
from tests.support.cluster import free_ports
from tests.support.lb import Client, Worker, listening_socket
from tests.support.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def dialed(
    lookup: Callable[[str, int], Awaitable[list[str]]], port: int, times: int = 1, timeout: float = 60.0
) -> list[str]:
    """The addresses that so many connections to a name were made to."""

    async def main() -> list[str]:
        dialer, peers = Dialer(asyncio.get_running_loop(), lookup), []
        for _ in range(times):
            transport = await dialer.connect(asyncio.Protocol, "a.example", port, timeout)
            peers.append(transport.get_extra_info("peername")[0])
            transport.close()
        return peers

    return asyncio.run(main())


class ResultCounts:
    """What a name means, in turn; the last answer for good."""

    def __init__(self, *answers: list[str] | OSError) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.fixture
def port() -> Iterator[int]:
    """A port that only 127.0.0.1 listens on."""
    with listening_socket() as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["::1", "127.0.0.1"], ["127.0.0.2", "127.0.0.3", "127.0.0.1"], ["127.0.0.1", "::1"]]
)
def test_addresses_are_tried_in_turn(port: int, addresses: list[str]) -> None:
    book = ResultCounts(addresses)
    assert dialed(book, port, times=3) == ["127.0.0.1"] * 3
    assert book.asked == 1


def test_an_address_that_drops_packets_is_waited_for_once(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of which nothing is heard: a full backlog, which the kernel drops connections to."""
    tried: list[str] = []
    attempt = Dialer._attempt

    async def noted(self: Dialer, factory: Any, address: str, port: int, timeout: float) -> Any:
        tried.append(address)
        return await attempt(self, factory, address, port, timeout)

    monkeypatch.setattr(Dialer, "_attempt", noted)
    with socket.socket() as deaf, socket.socket() as filler:
        deaf.bind(("127.0.0.2", port))
        deaf.listen(0)
        filler.setblocking(False)
        fillers = [filler]
        for _ in range(8):
            fillers[-1].connect_ex(("127.0.0.2", port))
            fillers.append(socket.socket())
            fillers[-1].setblocking(False)
        begun = time.monotonic()
        assert dialed(ResultCounts(["127.0.0.2", "127.0.0.1"]), port, times=5, timeout=4.0) == ["127.0.0.1"] * 5
        assert time.monotonic() - begun > 1.9
        assert tried == ["127.0.0.2"] + ["127.0.0.1"] * 5
        for each in fillers:
            each.close()


def test_a_name_is_looked_up_again(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(dial, "CACHE_SECONDS", 0.0)
    with socket.create_server(("127.0.0.2", port)):
        assert dialed(ResultCounts(["127.0.0.2"], ["127.0.0.1"]), port, times=3) == [
            "127.0.0.2",
            "127.0.0.1",
            "127.0.0.1",
        ]
        # The one that served goes on being the first.
        assert dialed(ResultCounts(["127.0.0.1"], ["127.0.0.2", "127.0.0.1"]), port, times=3) == ["127.0.0.1"] * 3
        # A resolver that is down stops nothing.
        assert dialed(ResultCounts(["127.0.0.2"], socket.gaierror(-3, "down")), port, times=3) == ["127.0.0.2"] * 3


def test_a_failed_connect_repeats_the_lookup_at_once(port: int) -> None:
    async def main() -> list[str]:
        dialer = Dialer(asyncio.get_running_loop(), ResultCounts(["127.0.0.3"], ["127.0.0.1"]))
        with pytest.raises(ConnectionRefusedError):
            await dialer.connect(asyncio.Protocol, "a.example", port, 60.0)
        transport = await dialer.connect(asyncio.Protocol, "a.example", port, 60.0)
        transport.close()
        return [transport.get_extra_info("peername")[0]]

    assert asyncio.run(main()) == ["127.0.0.1"]


def test_the_most_informative_connect_error_is_reported(port: int) -> None:
    refused = ["127.0.0.2", "::1"]
    for addresses in (refused, refused[::-1]):
        with pytest.raises(ConnectionRefusedError):
            dialed(ResultCounts(addresses), port)
    with pytest.raises(socket.gaierror):
        dialed(ResultCounts(socket.gaierror(-2, "Name or service not known")), port)


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """A file that stands for /etc/hosts in a mount namespace of the load balancer's own."""
    return tmp_path / "hosts"


@pytest.mark.root
def test_a_service_on_the_second_address_of_localhost_is_served(hosts: Path) -> None:
    """And when the name moves, the load balancer follows."""
    worker = Worker("worker-0")
    moved = Worker("worker-1", at=("127.0.0.2", worker.port))
    hosts.write_text("::1 svc.example\n127.0.0.1 svc.example\n")
    port = free_ports(1)
    command = (
        f"mount --bind {hosts} /etc/hosts && exec {sys.executable} -m lb --listen 127.0.0.1:{port} "
        f"--upstream svc.example:{worker.port}"
    )
    more = " --health-interval 0.2 --health-rise 1 --upstream-idle-timeout 0.5"
    process = subprocess.Popen(["unshare", "-m", "sh", "-c", command + more], stderr=subprocess.DEVNULL)
    try:

        def ask() -> int:
            try:
                with Client(port) as client:
                    return client.ask(GET).status
            except OSError:
                return 0

        wait_until(lambda: ask() == 200)
        probes = worker.probes
        wait_until(lambda: worker.probes > probes + 2, what="some checks")
        assert {ask() for _ in range(10)} == {200}
        assert not moved.requests
        worker.close()
        hosts.write_text("::1 svc.example\n127.0.0.2 svc.example\n")
        wait_until(lambda: ask() == 200, what="the name's new address", seconds=15)
    finally:
        process.kill()
        process.wait()
        worker.close()
        moved.close()


def test_an_unresolvable_upstream_is_refused_at_the_start() -> None:
    for name in ("no-such-name.invalid", "a..b", "x" * 300):
        done = subprocess.run(
            [sys.executable, "-m", "lb", "--listen", "127.0.0.1:0", "--upstream", f"{name}:80"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, "cannot resolve" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
