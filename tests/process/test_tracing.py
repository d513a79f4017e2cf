"""Spans of a whole cluster, as a collector gets them by OTLP over HTTP; without one, nothing but spans is lost."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.cluster import TestCluster, free_ports
from tests.support.waiting import wait_until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER, CLIENT = 2, 3
"""Kinds of spans (opentelemetry/proto/trace/v1/trace.proto)."""


class Collector:
    """Takes spans on a port of 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = ExportTraceServiceRequest()
                message.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                for each in message.resource_spans:
                    taken.resources.append({item.key: item.value.string_value for item in each.resource.attributes})
                    taken.spans += [span for scope in each.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def of(self, trace: str) -> list[Any]:
        return [span for span in self.spans if span.trace_id.hex() == trace]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def port() -> int:
    return free_ports(1)


@pytest.fixture
def collector(port: int) -> Iterator[Collector]:
    made = Collector(port)
    yield made
    made.close()


def traced(cluster: TestCluster, trace: str) -> int:
    fields = {"traceparent": f"00-{trace}-{SPAN}-01"}
    return requests.get(f"{cluster.lb()}/api/v1/hello", headers=fields, timeout=30).status_code


def exporter(cluster: TestCluster) -> int | None:
    found = [each.pid for each in cluster.processes() if "comet: span exporter" in " ".join(each.cmdline())]
    return found[0] if found else None


def test_a_collector_gets_each_request_and_its_attempts(
    make_cluster: Callable[..., TestCluster], collector: Collector, port: int
) -> None:
    cluster = make_cluster(
        worker=1, pool=1, runtime="process", avg_delay=0, failure=0, trace_endpoint=f"http://127.0.0.1:{port}"
    )
    cluster.start()
    assert traced(cluster, TRACE) == 200
    server, client = sorted(
        wait_until(lambda: len(found := collector.of(TRACE)) == 2 and found), key=lambda it: it.kind
    )
    assert (server.kind, server.parent_span_id.hex(), server.name) == (SERVER, SPAN, "GET")
    assert (client.kind, client.parent_span_id) == (CLIENT, server.span_id)
    assert 0 < server.start_time_unix_nano <= server.end_time_unix_nano
    worker = {item.key: item.value.string_value for item in client.attributes}["comet.worker"]
    assert worker == "worker-0"
    assert collector.resources[0]["service.name"] == "comet"

    # Another exporter goes on where one died.
    first = exporter(cluster)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: exporter(cluster) not in (None, first), what="another exporter")
    assert cluster.events("span_exporter_exited")[-1]["signal"] == "SIGKILL"
    again = TRACE[::-1]
    assert traced(cluster, again) == 200
    wait_until(lambda: len(collector.of(again)) == 2)

    # Its socket is one of the files that are restored.
    (cluster.folder / ".comet/run/spans.sock").unlink()
    wait_until(lambda: any("run/spans.sock" in each["files"] for each in cluster.events("files_restored")))
    third = TRACE.replace("4", "5")
    wait_until(lambda: traced(cluster, third) == 200 and collector.of(third))

    # What was measured last is sent before the cluster ends.
    last = TRACE.replace("4", "6")
    assert traced(cluster, last) == 200
    cluster.stop()
    wait_until(lambda: len(collector.of(last)) == 2)
    cluster.assert_nothing_left()


def test_without_a_collector_requests_go_on(make_cluster: Callable[..., TestCluster], port: int) -> None:
    cluster = make_cluster(
        worker=1, pool=1, runtime="process", avg_delay=0, failure=0, trace_endpoint=f"http://127.0.0.1:{port}"
    )
    cluster.start()
    assert [traced(cluster, TRACE) for _ in range(50)] == [200] * 50
    cluster.stop()
    cluster.assert_nothing_left()
