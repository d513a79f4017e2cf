"""The load that the page's server sends: bounded, one at a time, and over when it is asked to end."""

import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from comet.admin.replica_logs import shown
from comet.admin.sample_load import SampleLoad
from comet.common.errors import UserError
from comet.scenario import demo
from comet.state.directory import Cluster
from tests.process.lb.test_tls import certificate
from tests.support.waiting import wait_until


class Balancer:
    """Something that answers as a load balancer would, and counts."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.paths.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def state(self) -> dict[str, Any]:
        port = self.server.server_address[1]
        rows = [
            {"name": "lb-0", "role": "lb", "port": port, "state": "ready"},
            {"name": "worker-0", "role": "worker", "port": 1},
        ]
        return {
            "replicas": rows,
            "front": {"scheme": "http", "host": "127.0.0.1", "path": "/api/v1/hello"},
            "config": {},
        }


@pytest.fixture
def balancer() -> Iterator[Balancer]:
    made = Balancer()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_requests_come_until_they_are_stopped(balancer: Balancer, tmp_path: Path) -> None:
    load = SampleLoad(Cluster(tmp_path), lambda: balancer.state)
    assert load.state is None
    assert load.send(rate=50, seconds=300) == {"rate": 50, "for": 300}
    wait_until(lambda: len(balancer.paths) >= 5)
    assert set(balancer.paths) == {"/api/v1/hello"}
    state = load.state
    assert state is not None
    assert (state["kind"], state["rate"]) == ("load", 50)
    assert 0 < state["left_s"] <= 300
    load.send(rate=10, seconds=200)  # In place of the other.
    assert (load.state or {})["rate"] == 10
    load.send(rate=0, seconds=1)
    assert load.state is None


@pytest.mark.slow
def test_it_speaks_tls_where_the_load_balancers_do(balancer: Balancer, tmp_path: Path) -> None:
    made = certificate(tmp_path, "one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made["tls_certificate"], made["tls_key"])
    balancer.server.socket = context.wrap_socket(balancer.server.socket, server_side=True)
    state = {**balancer.state, "front": {**balancer.state["front"], "scheme": "https"}}
    load = SampleLoad(Cluster(tmp_path), lambda: state)
    load.send(rate=50, seconds=300)
    wait_until(lambda: len(balancer.paths) >= 5, what="requests over TLS")
    load.send(rate=0, seconds=1)
    assert set(balancer.paths) == {"/api/v1/hello"}


@pytest.mark.slow
def test_it_ends_by_itself(balancer: Balancer, tmp_path: Path) -> None:
    load = SampleLoad(Cluster(tmp_path), lambda: balancer.state)
    load.send(rate=50, seconds=1)
    wait_until(lambda: load.state is None)
    assert balancer.paths


def test_without_a_load_balancer_nothing_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no load balancer"):
        SampleLoad(Cluster(tmp_path), lambda: None).send(rate=5, seconds=5)


def test_a_dead_load_balancer_ends_no_load(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    state = {
        "replicas": [{"name": "lb-0", "role": "lb", "port": port, "state": "ready"}],
        "front": {"scheme": "http", "host": "127.0.0.1", "path": "/"},
    }
    load = SampleLoad(Cluster(tmp_path), lambda: state)
    load.send(rate=50, seconds=300)
    assert load.state is not None
    load.send(rate=0, seconds=1)
    assert load.state is None


def test_the_demonstration_takes_a_minute_and_names_what_it_does() -> None:
    rows = [
        {"name": name, "role": role} for name, role in (("lb-0", "lb"), ("worker-0", "worker"), ("worker-1", "worker"))
    ]
    plan = demo.scenario(rows, faults=True)
    assert 50 <= plan.seconds <= 60
    assert [step.kill for step in plan.steps if step.kill] == [("lb-0",), ("worker-0",)]
    assert [dict(step.faults) for step in plan.steps if step.faults] == [{"worker-1": demo.FAULT}]
    assert not any(step.faults for step in demo.scenario(rows, faults=False).steps)


def test_logs_are_shown_without_styles_and_control_characters() -> None:
    assert shown(b"one\n\x1b[31mred\x1b[0m\r\n\x07bell \xff\n", 2) == "red\n\\x07bell \N{REPLACEMENT CHARACTER}"


def test_requests_follow_the_load_balancers(balancer: Balancer, tmp_path: Path) -> None:
    state = balancer.state
    added = {"name": "lb-1", "role": "lb", "port": state["replicas"][0]["port"], "state": "ready"}
    gone = {"name": "lb-0", "role": "lb", "port": 1, "state": "ready"}
    state["replicas"] = [gone]
    load = SampleLoad(Cluster(tmp_path), lambda: state)
    load.send(rate=50, seconds=300)
    state["replicas"] = [{**gone, "state": "stopping"}, added]
    assert wait_until(lambda: len(balancer.paths) >= 5, what="requests to the added load balancer")
    load.send(rate=0, seconds=1)
