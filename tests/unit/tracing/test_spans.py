"""What load balancers measured becomes spans; what is no measured exchange is left out."""

import json
from typing import Any

import pytest

from comet.tracing.spans import MeasuredSpan, read

TRACE, SPAN, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "53995c3f42cd8ad8"


def exchange(**changes: Any) -> dict[str, Any]:
    attempts = [
        {"span": "a" * 16, "worker": "worker-0", "start": 11, "end": 12, "status": None, "error": "reset"},
        {"span": "b" * 16, "worker": "worker-1", "start": 13, "end": 19, "status": 200, "error": None},
    ]
    told = {
        "lb": "lb-0", "trace": TRACE, "span": SPAN, "parent": PARENT, "start": 10, "end": 20, "client": "127.0.0.1",
        "method": "GET", "target": "/a/b?c=d", "status": 200, "error": None, "body_bytes": 5, "attempts": attempts,
    }  # fmt: skip
    return told | changes


def spans(*told: Any) -> list[MeasuredSpan]:
    return list(read(b"\n".join(json.dumps(each).encode() for each in told)))


def test_an_exchange_is_a_server_span_with_one_per_attempt() -> None:
    server, first, second = spans(exchange())
    assert (server.trace, server.id, server.parent) == (int(TRACE, 16), int(SPAN, 16), int(PARENT, 16))
    assert (server.name, server.is_server, server.start, server.end, server.failed) == ("GET", True, 10, 20, False)
    assert server.attributes == {
        "http.request.method": "GET", "url.path": "/a/b", "url.query": "c=d", "client.address": "127.0.0.1",
        "http.response.status_code": 200, "http.response.body.size": 5, "comet.load_balancer": "lb-0",
    }  # fmt: skip
    assert [(each.parent, each.is_server, each.failed) for each in (first, second)] == [
        (server.id, False, True),
        (server.id, False, False),
    ]
    assert first.attributes["error.type"] == "reset"
    assert "http.request.resend_count" not in first.attributes
    assert (second.attributes["comet.worker"], second.attributes["http.request.resend_count"]) == ("worker-1", 1)


@pytest.mark.parametrize(
    ("changes", "failed", "kind"),
    [
        ({"status": 404}, False, None),
        ({"status": 503}, True, "503"),
        ({"error": "the client went away", "status": 499}, True, "the client went away"),
    ],
)
def test_a_server_span_fails_by_its_own_side_alone(changes: dict[str, Any], failed: bool, kind: str | None) -> None:
    server = spans(exchange(**changes, attempts=[]))[0]
    assert (server.failed, server.attributes.get("error.type")) == (failed, kind)


def test_a_new_trace_has_no_parent_and_odd_methods_one_name() -> None:
    (server,) = spans(exchange(parent=None, method="BREW", attempts=[]))
    assert (server.parent, server.name, server.attributes["http.request.method"]) == (0, "HTTP", "_OTHER")


@pytest.mark.parametrize(
    "changes",
    [
        {"trace": "0" * 32}, {"trace": TRACE[1:]}, {"trace": "+" + TRACE[1:]}, {"span": "0" * 16}, {"parent": "x" * 16},
        {"start": -1}, {"end": 2**64}, {"status": "200"}, {"attempts": [{"span": SPAN}]}, {"attempts": "none"},
        {"target": None},
    ],
)  # fmt: skip
def test_what_is_no_exchange_is_left_out(changes: dict[str, Any]) -> None:
    good = exchange(attempts=[])
    found = [each for each in spans(good, exchange(**changes), good) if each.is_server]
    assert len([each for each in found if each.name == "GET"]) >= 2
    assert [each.id for each in found if each.id != int(SPAN, 16)] == []


@pytest.mark.parametrize("data", [b"", b"\n\n", b"[]", b"{", b"null\n1\n", b"\xff\xfe", b"[" * 5000, b'{"lb": NaN}'])
def test_nothing_that_arrives_is_an_error(data: bytes) -> None:
    assert list(read(data)) == []
