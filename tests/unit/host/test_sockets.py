import os
import socket
from pathlib import Path

import pytest

from comet.common.errors import UserError
from comet.host.sockets import PORTS_VARIABLE, Listeners, bound, find_free, is_listening, port_problems, require_free
from tests.support.cluster import free_ports


def test_a_taken_port_names_its_holder() -> None:
    with bound("127.0.0.1", 0, listen=True) as other:
        port = other.getsockname()[1]
        (problem,) = port_problems([("worker-port", "127.0.0.1", port)])
    assert problem.startswith(f"worker-port: port {port} is taken by ")
    assert f"(PID {os.getpid()})" in problem


def test_every_taken_port_is_told_with_its_line() -> None:
    with bound("127.0.0.1", 0, listen=True) as one, bound("127.0.0.1", 0, listen=True) as two:
        wanted = [
            ("worker-port", "127.0.0.1", one.getsockname()[1]),
            ("load-balancer-port", "127.0.0.1", two.getsockname()[1]),
        ]
        with pytest.raises(UserError) as caught:
            require_free("config.yaml", wanted, {"worker-port": 7})
    first, second = caught.value.message.splitlines()
    assert first.startswith("config.yaml:7: worker-port: port ")
    assert second.startswith("config.yaml:1: load-balancer-port: port ")
    assert caught.value.exit_code == 2


def test_free_ports_come_from_the_part_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_free("127.0.0.1", 2)
    monkeypatch.setenv(PORTS_VARIABLE, f"{first}-{first + 1}")
    with bound("127.0.0.1", first + 1, listen=True):
        assert find_free("127.0.0.1", 1) == first
        with pytest.raises(UserError, match="no 2 free ports in a row"):
            find_free("127.0.0.1", 2)


def test_ports_that_are_kept_for_later_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_free("127.0.0.1", 3)
    monkeypatch.setenv(PORTS_VARIABLE, f"{first}-{first + 2}")
    assert find_free("127.0.0.1", 1, {first, first + 2}) == first + 1
    with pytest.raises(UserError, match="no 2 free ports in a row"):
        find_free("127.0.0.1", 2, {first + 1})


@pytest.mark.parametrize("given", ["", "25000", "9-8", "0-99", "a-b", "65000-70000", "30000-30001"])
def test_a_part_that_is_none_is_refused_in_one_line(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORTS_VARIABLE, given)
    with pytest.raises(UserError, match="FIRST-LAST, 3 ports or more") as caught:
        find_free("127.0.0.1", 3)
    assert caught.value.exit_code == 2


def test_an_address_that_is_not_ours_is_told() -> None:
    (problem,) = port_problems([("worker-port", "192.0.2.1", port) for port in (6000, 6001)])
    assert problem == "worker-host: 192.0.2.1 is no address of this machine (Cannot assign requested address)"
    (problem,) = port_problems([("load-balancer-port", "no.such.host.invalid", port) for port in (5050, 5051)])
    assert problem == "load-balancer-host: no.such.host.invalid is no known host (name an address of this machine)"
    wanted = [
        ("load-balancer-port", "192.0.2.1", 5050),
        ("worker-port", "192.0.2.1", 6000),
        ("worker-port", "192.0.2.1", 6001),
    ]
    with pytest.raises(UserError) as caught:
        require_free("config.yaml", wanted, {"worker-host": 3, "load-balancer-host": 4, "worker-port": 5})
    assert [line.split(" ")[0] for line in caught.value.message.splitlines()] == ["config.yaml:4:", "config.yaml:3:"]


def test_a_held_socket_queues_connections_before_an_accept() -> None:
    held = Listeners()
    held.bind("lb-0", "127.0.0.1", free_ports(1))  # Nobody is given this one as soon as it is free.
    address = held["lb-0"].getsockname()
    # Nobody accepts; none of these is refused.
    queued = [socket.create_connection(address, timeout=5) for _ in range(200)]
    for connection in queued:
        connection.close()
    held.release("lb-0")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)


def test_a_unix_socket_listens_only_while_its_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_listening("socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert not is_listening("socket")
        listener.listen(0)
        assert all(is_listening("socket") for _ in range(9))  # Nobody accepts: there is room for one connection.
    assert not is_listening("socket")
    for other in (os.mkfifo, os.mkdir, Path.touch):
        other(tmp_path / other.__name__)
        assert not is_listening(other.__name__)
