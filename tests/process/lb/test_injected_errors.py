"""What a load balancer counts as injected: its own faults, and those that a trusted worker says it injected."""

import contextlib
import json
from pathlib import Path

import h11
import pytest

from lb.interface.counters import EDGE_ERRORS, EDGE_INJECTED_ERRORS, EDGE_INJECTED_RESPONSES
from tests.support.lb import Balancer, WorkerConnection, lb_and_workers, response
from tests.support.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\nX-Comet-Injected: failure\r\n\r\n"
FAILED = response(b"no", "500 Internal Server Error", b"X-Comet-Injected: failure")
CUT = response(b"long", "200 OK", b"x-comet-injected: truncate")[:-2]


def counted(lb: Balancer) -> tuple[int, int, int, int]:
    """Responses with 5xx and failed attempts, each with how many of them were injected."""
    blocks = [lb.counters.edge(name) for name in ("", "worker-0")]
    slots = (5, EDGE_INJECTED_RESPONSES, EDGE_ERRORS, EDGE_INJECTED_ERRORS)
    total = [sum(block[slot] for block in blocks) for slot in slots]
    return total[0], total[1], total[2], total[3]


@pytest.mark.parametrize("trusted", [True, False])
def test_a_mark_is_removed_and_counts_where_it_is_trusted(trusted: bool) -> None:
    replies = [FAILED, FAILED, response(b"no", "500 Internal Server Error"), response(b"ok")]

    def answer(connection: WorkerConnection, request: bytes) -> None:
        connection.send(replies.pop(0))

    with lb_and_workers(answer, injected_marks=trusted) as (lb, _), lb.connect() as client:
        found = [client.ask(GET) for _ in range(4)]
        assert [each.status for each in found] == [500, 500, 500, 200]
        assert [each["X-Comet-Injected"] for each in found] == [None] * 4
        assert counted(lb) == (3, 2 * trusted, 0, 0)


def test_a_truncated_answer_with_a_mark_is_an_injected_error() -> None:
    def answer(connection: WorkerConnection, request: bytes) -> None:
        connection.send(CUT)
        connection.sock.close()

    with lb_and_workers(answer, injected_marks=True) as (lb, _), lb.connect() as client:
        client.send(GET)
        with contextlib.suppress(OSError, h11.RemoteProtocolError):
            client.answer()
        assert wait_until(lambda: counted(lb) == (0, 0, 1, 1))


ANNOUNCED = b"HTTP/1.1 103 Early Hints\r\nX-Comet-Injected: reset\r\n\r\n"


@pytest.mark.parametrize("kept", [0, 1], ids=["new", "reused"])
@pytest.mark.parametrize("trusted", [True, False])
def test_an_announced_reset_is_injected_and_hidden_from_clients(trusted: bool, kept: int) -> None:
    replies = [response(b"ok")] * kept

    def answer(connection: WorkerConnection, request: bytes) -> None:
        if replies:
            connection.send(replies.pop())
            return
        connection.send(ANNOUNCED)
        connection.reset()

    with lb_and_workers(answer, injected_marks=trusted, retries=0) as (lb, _), lb.connect() as client:
        for _ in range(kept):
            assert client.ask(GET).status == 200
        answer_to_client = client.ask(GET)
        assert (answer_to_client.status, answer_to_client.interim) == (502, [] if trusted else [103])
        if trusted:
            wait_until(lambda: counted(lb) == (1, 1, 1, 1))


def test_an_announced_hang_is_an_injected_error() -> None:
    def answer(connection: WorkerConnection, request: bytes) -> None:
        connection.send(ANNOUNCED)

    with lb_and_workers(answer, injected_marks=True, request_timeout=0.3) as (lb, _), lb.connect() as client:
        assert client.ask(GET).status == 504
        wait_until(lambda: counted(lb) == (1, 1, 1, 1))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("failure", (1, 1, 0, 0)), ("reset", (1, 1, 1, 1)), ("hang", (1, 1, 1, 1)), ("truncate", (0, 0, 1, 1))],
)
def test_what_the_load_balancer_injects_is_told_apart(
    tmp_path: Path, fault: str, expected: tuple[int, int, int, int]
) -> None:
    (tmp_path / "worker-0.json").write_text(json.dumps({fault: 100}))
    request_timeout = 2.0 if fault == "hang" else 60.0
    with (
        lb_and_workers(count=1, faults=str(tmp_path), request_timeout=request_timeout) as (lb, _),
        lb.connect() as client,
    ):
        wait_until(lambda: lb.upstream("worker-0").dial_address is not None)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with contextlib.suppress(OSError, h11.RemoteProtocolError):
            client.answer()
        wait_until(lambda: counted(lb) == expected, what=f"{expected}, not {counted(lb)}")
