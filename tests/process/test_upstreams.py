"""What already runs, put behind Comet by `upstreams`: balanced, checked, faulty on demand, and never touched."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.cluster import TestCluster, free_ports, open_cluster
from tests.support.waiting import wait_until


class Service(ThreadingHTTPServer):
    """A service of the user that answers with its own port."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(str(port))))
                self.end_headers()
                self.wfile.write(str(port).encode())

            def log_message(self, *arguments: Any) -> None:
                pass

        super().__init__(("127.0.0.1", port), Handler)


@contextmanager
def running(port: int) -> Iterator[None]:
    service = Service(port)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        service.shutdown()
        service.server_close()


PORTS: list[int] = []
"""Chosen when the tests begin: other tests take ports until then."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """Two upstreams, the second by a name; nothing listens at a third port yet."""
    first = free_ports(3)
    PORTS[:] = [first, first + 1, first + 2]
    left_out = dict.fromkeys(("worker", "stats_dir", "worker_port", "avg_delay", "failure", "runtime"))
    urls = f"['http://127.0.0.1:{PORTS[0]}', 'http://localhost:{PORTS[1]}']"
    with (
        running(PORTS[0]),
        running(PORTS[1]),
        open_cluster(
            tmp_path_factory.mktemp("upstreams"),
            upstreams=urls,
            pool=1,
            health_interval=0.2,
            health_timeout=10,
            **left_out,
        ) as made,
    ):
        made.start()
        yield made


def answers(cluster: TestCluster, count: int) -> Counter[str]:
    found = [requests.get(cluster.lb(), timeout=30) for _ in range(count)]
    return Counter(answer.text if answer.ok else str(answer.status_code) for answer in found)


def test_requests_are_balanced_over_what_already_runs(cluster: TestCluster) -> None:
    assert answers(cluster, 10) == {str(PORTS[0]): 5, str(PORTS[1]): 5}


def test_ps_shows_them_as_what_they_are(cluster: TestCluster) -> None:
    rows = cluster.replicas()
    shown = {name: (row["kind"], row["id"], row["port"], row["pid"], row["state"]) for name, row in rows.items()}
    assert shown["worker-0"] == ("upstream", f"127.0.0.1:{PORTS[0]}", PORTS[0], None, "ready")
    assert shown["worker-1"] == ("upstream", f"localhost:{PORTS[1]}", PORTS[1], None, "ready")


@pytest.mark.parametrize(
    "command",
    [("scale", "worker=3"), ("kill", "worker-0"), ("restart", "worker-0"), ("restart", "worker"), ("logs", "worker-0")],
)
def test_their_lifecycle_is_refused_in_one_line(cluster: TestCluster, command: tuple[str, ...]) -> None:
    done = cluster.comet(*command)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "upstream" in done.stderr
    assert answers(cluster, 2).total() == 2


def test_faults_are_injected_before_them(cluster: TestCluster) -> None:
    assert cluster.comet("faults", "worker-0", "--failure", "100", "--status", "503").returncode == 0
    try:
        assert answers(cluster, 4) == {"503": 2, str(PORTS[1]): 2}
    finally:
        cluster.comet("faults", "--clear")


def test_a_reload_takes_a_shorter_and_a_longer_list_over(cluster: TestCluster) -> None:
    config = cluster.folder / "config.yaml"
    before = config.read_text()
    config.write_text(before.replace(f"'http://127.0.0.1:{PORTS[0]}', ", ""))
    try:
        done = cluster.comet("reload")
        assert done.returncode == 0, done.stderr
        assert [name for name in cluster.replicas() if name.startswith("worker")] == ["worker-0"]
        wait_until(lambda: answers(cluster, 4) == {str(PORTS[1]): 4}, what="the remaining one alone")
        assert cluster.comet("restart", "lb").returncode == 0
    finally:
        config.write_text(before)
    done = cluster.comet("reload")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: answers(cluster, 4) == {str(PORTS[0]): 2, str(PORTS[1]): 2}, what="both again")


def test_one_that_ends_leaves_the_rotation_and_comes_back(cluster: TestCluster) -> None:
    config = cluster.folder / "config.yaml"
    before = config.read_text()
    config.write_text(before.replace(f"localhost:{PORTS[1]}", f"localhost:{PORTS[2]}"))
    try:
        assert cluster.comet("reload").returncode == 0
        wait_until(lambda: cluster.replicas()["worker-1"]["state"] == "unhealthy", 60)
        assert answers(cluster, 4) == {str(PORTS[0]): 4}
        with running(PORTS[2]):
            wait_until(lambda: cluster.replicas()["worker-1"]["state"] == "ready", 60)
            assert answers(cluster, 4) == {str(PORTS[0]): 2, str(PORTS[2]): 2}
    finally:
        config.write_text(before)
        assert cluster.comet("reload").returncode == 0


def test_a_new_supervisor_adopts_the_lb_and_finds_them_ready(tmp_path: Path) -> None:
    port = PORTS[2]
    left_out = dict.fromkeys(("worker", "stats_dir", "worker_port", "avg_delay", "failure", "runtime"))
    with running(port), open_cluster(tmp_path, upstreams=f"['http://127.0.0.1:{port}']", pool=1, **left_out) as made:
        made.start()
        before = made.replicas()
        made.kill_supervisor()
        assert answers(made, 4) == {str(port): 4}
        made.start()
        after = made.replicas()
        assert after["lb-0"]["pid"] == before["lb-0"]["pid"]
        assert {name: row["state"] for name, row in after.items()} == {"worker-0": "ready", "lb-0": "ready"}
        assert [event["replica"] for event in made.events("adopted")] == ["lb-0"]
        assert answers(made, 4) == {str(port): 4}
        made.stop()


def test_a_stop_leaves_them_running(tmp_path: Path) -> None:
    port = PORTS[2]
    left_out = dict.fromkeys(("worker", "stats_dir", "worker_port", "avg_delay", "failure", "runtime"))
    with running(port), open_cluster(tmp_path, upstreams=f"['http://127.0.0.1:{port}']", pool=1, **left_out) as made:
        made.start()
        made.stop()
        assert requests.get(f"http://127.0.0.1:{port}", timeout=30).text == str(port)
        events = [json.loads(line) for line in (made.folder / ".comet" / "events.jsonl").read_text().splitlines()]
        assert [each["replica"] for each in events if each["event"] == "replica_exited"] == ["lb-0"]
