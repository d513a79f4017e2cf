import os
import socket

import pytest

from comet.errors import UserError
from comet.listeners import PORTS_VARIABLE, Listeners, bound, find_free, port_problems, require_free


def test_a_taken_port_names_its_holder_f13() -> None:
    with bound("127.0.0.1", 0, listen=True) as other:
        port = other.getsockname()[1]
        (problem,) = port_problems([("worker-port", "127.0.0.1", port)])
    assert problem.startswith(f"worker-port: port {port} is taken by ")
    assert f"(PID {os.getpid()})" in problem


def test_every_taken_port_is_told_with_its_line() -> None:
    with bound("127.0.0.1", 0, listen=True) as one, bound("127.0.0.1", 0, listen=True) as two:
        wanted = [("worker-port", "127.0.0.1", one.getsockname()[1]), ("load-balancer-port", "127.0.0.1", two.getsockname()[1])]
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
    (problem,) = port_problems([("worker-port", "192.0.2.1", 6000)])
    assert problem == "worker-port: cannot listen on 192.0.2.1 port 6000: Cannot assign requested address"
    (problem,) = port_problems([("worker-port", "no.such.host.invalid", 6000)])
    assert "is no known host" in problem


def test_a_held_socket_queues_connections_that_nobody_accepts_yet() -> None:
    held = Listeners()
    held.bind("lb-0", "127.0.0.1", 0)
    address = held["lb-0"].getsockname()
    # Nobody accepts; none of these is refused.
    queued = [socket.create_connection(address, timeout=5) for _ in range(200)]
    for connection in queued:
        connection.close()
    held.release("lb-0")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
