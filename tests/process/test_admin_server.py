"""The admin server beside a real cluster: what it shows, what it does, how it dies, and what hostile readers cost."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from comet.common.clock import parse
from tests.support.cluster import TestCluster, free_ports, open_cluster
from tests.support.waiting import PATIENCE, wait_until


class Admin:
    """The admin API of one cluster."""

    def __init__(self, cluster: TestCluster) -> None:
        self.cluster = cluster
        self.port = int(cluster.config["admin-port"])
        self.url = f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=30 * PATIENCE)

    def post(self, command: str, body: dict[str, Any]) -> requests.Response:
        token = (self.cluster.folder / ".comet/admin.token").read_text().strip()
        return requests.post(
            f"{self.url}/api/v1/{command}", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=60
        )

    def state(self) -> dict[str, Any]:
        """The cluster as the API shows it; a server that has just started has no state for a moment."""
        answer = wait_until(lambda: (got := self.get("/api/v1/cluster")).status_code == 200 and got)
        shown: dict[str, Any] = answer.json()
        return shown

    def replicas(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.state()["replicas"]}

    def process(self) -> psutil.Process | None:
        """The server's own process, by its title."""
        for each in self.cluster.processes():
            with contextlib.suppress(psutil.Error):
                if " ".join(each.cmdline()).startswith("comet: admin"):
                    return each
        return None


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with open_cluster(
        tmp_path_factory.mktemp("admin"), runtime="process", failure=0, admin_port=free_ports(1), restart_stable=0.1
    ) as cluster:
        cluster.start()
        yield Admin(cluster)
        cluster.stop()
        cluster.assert_nothing_left()


def asked_each_second(admin: Admin) -> list[dict[str, Any]]:
    """Ask as an open page does, until nothing answers; return the answers."""
    answers = []
    with contextlib.suppress(requests.RequestException):
        while True:
            answers.append(admin.get("/api/v1/cluster").json())
            time.sleep(1)
    return answers


@pytest.mark.parametrize("stop", ["stop", "SIGTERM", "SIGKILL"])
def test_an_open_page_learns_of_a_stop_before_the_end(tmp_path: Path, stop: str) -> None:
    with open_cluster(tmp_path, runtime="process", failure=0, admin_port=free_ports(1)) as cluster:
        cluster.start()
        admin = Admin(cluster)
        admin.state()
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(asked_each_second, admin)
            time.sleep(0.5)
            if stop == "stop":
                assert cluster.comet("stop").returncode == 0
            else:
                os.kill(cluster.supervisor_pid(), signal.Signals[stop])
            answers = asking.result(60)
        assert answers[0]["stopping"] is False
        assert answers[-1]["stopping"] is (stop != "SIGKILL")


def test_the_api_shows_what_ps_shows(admin: Admin) -> None:
    for _ in range(20):
        assert admin.cluster.hello().status_code == 200
    steady = ("name", "role", "kind", "id", "pid", "port", "state", "restarts", "last_exit", "requests")
    # A load balancer counts an answer of a worker after it has sent it.
    wait_until(lambda: sum(row["requests"] for row in admin.replicas().values()) >= 40)
    listed, shown = admin.cluster.ps(), admin.state()
    assert [[row[key] for key in steady] for row in shown["replicas"]] == [
        [row[key] for key in steady] for row in listed["replicas"]
    ]
    assert shown["supervisor"]["pid"] == listed["supervisor"]["pid"]
    assert {(edge["lb"], edge["worker"]): edge["requests"] for edge in shown["edges"]}["lb-0", "worker-0"] == 10
    assert shown["total"]["requests"] == 20
    assert shown["config"]["admin-port"] == admin.port
    wait_until(lambda: all(row["cpu_percent"] is not None for row in admin.replicas().values()))
    wait_until(lambda: admin.get("/readyz").status_code == admin.get("/healthz").status_code == 200)


def test_a_kill_by_the_api_shows_as_event_and_recovery(admin: Admin) -> None:
    before = admin.replicas()["lb-0"]
    last = admin.get("/api/v1/events").json()["last"]
    assert admin.post("kill", {"name": "lb-0"}).json()["result"] == {"name": "lb-0", "signal": "SIGKILL"}
    wait_until(
        lambda: (
            admin.replicas()["lb-0"]["restarts"] > before["restarts"] and admin.replicas()["lb-0"]["state"] == "ready"
        )
    )
    names = [event["event"] for event in admin.get(f"/api/v1/events?after={last}").json()["events"]]
    assert names[:3] == ["replica_exited", "replica_restarting", "replica_ready"]
    shown = admin.state()
    assert shown["recoveries"]["recent"][-1]["replica"] == "lb-0"
    assert shown["recoveries"]["restarts"]["lb-0"] == {"killed": 1}
    assert admin.replicas()["lb-0"]["requests"] >= before["requests"]


def test_the_api_accepts_and_refuses_commands(admin: Admin) -> None:
    assert admin.post("scale", {"worker": 3}).status_code in (200, 202)
    wait_until(lambda: "worker-2" in admin.replicas() and admin.replicas()["worker-2"]["state"] == "ready")
    wait_until(
        lambda: admin.post("scale", {"worker": 2}).status_code in (200, 202), what="an end of the first operation"
    )
    wait_until(lambda: "worker-2" not in admin.replicas())
    assert admin.post("faults", {"target": "worker-1", "failure": 100}).status_code == 200
    wait_until(lambda: admin.replicas()["worker-1"]["faults"].get("failure") == 100)
    assert admin.post("faults", {"clear": True}).status_code == 200
    refused = admin.post("kill", {"name": "lb-9"})
    assert (refused.status_code, refused.json()["error"].partition(":")[0]) == (404, "lb-9")
    assert admin.post("kill", {"name": "lb-0", "signal": "NONE"}).status_code == 400


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        (b"nonsense\r\n\r\n", 400, "start line is invalid"),
        (b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n", 400, "invalid header"),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431, "request header fields too large"),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 200000\r\n\r\n", 413, "request entity too large"),
        (b"POST /healthz HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "not implemented"),
    ],
)
def test_what_is_no_request_gets_an_error_in_json_too(admin: Admin, request_: bytes, status: int, error: str) -> None:
    with socket.create_connection(("127.0.0.1", admin.port), timeout=30 * PATIENCE) as connection:
        connection.sendall(request_)
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert json.loads(answer.read()) == {"error": error}


def test_the_page_shows_logs_and_plays_its_demonstration(admin: Admin) -> None:
    assert admin.get("/api/v1/logs?name=lb-0").status_code == 401
    wait_until(lambda: all(row["state"] == "ready" for row in admin.replicas().values()))
    before = admin.replicas()["lb-0"]["restarts"]
    assert admin.post("demo", {}).json()["result"]["for"] <= 60
    shown = wait_until(lambda: admin.state()["load"])
    assert (shown["kind"], shown["rate"]) == ("demo", None)
    assert admin.post("demo", {}).status_code == 409
    wait_until(lambda: admin.replicas()["lb-0"]["restarts"] > before, 60)
    assert admin.state()["total"]["requests"] > 0
    assert admin.post("load", {"rate": 0}).json()["result"] == {"rate": 0.0, "for": 0}
    wait_until(lambda: admin.state()["load"] is None)
    token = (admin.cluster.folder / ".comet/admin.token").read_text().strip()
    logs = requests.get(
        f"{admin.url}/api/v1/logs?name=lb-0&name=worker-0", headers={"Authorization": f"Bearer {token}"}, timeout=60
    ).json()["logs"]
    assert [each["name"] for each in logs] == ["lb-0", "worker-0"]
    assert "exited by SIGKILL" in logs[0]["text"]


def test_the_token_file_is_private(admin: Admin) -> None:
    token = admin.cluster.folder / ".comet/admin.token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text().strip()) >= 43


def test_a_signal_without_a_name_ends_the_server_like_others(admin: Admin) -> None:
    wait_until(lambda: admin.process() is not None)
    process = admin.process()
    assert process is not None
    process.send_signal(40)  # A real-time signal: signal(7) gives it no name.
    assert admin.get("/healthz").status_code == 200
    exited = admin.cluster.events("admin_exited")[-1]
    assert (exited["code"], exited["signal"]) == (-40, "SIG40")


def test_a_killed_admin_server_is_restarted_alone(admin: Admin) -> None:
    wait_until(lambda: admin.process() is not None)
    wait_until(lambda: all(row["state"] == "ready" for row in admin.replicas().values()))
    history = wait_until(lambda: (at := admin.state()["history"]["at"])[2:] and at, what="three samples")
    former, rows = admin.process(), admin.cluster.replicas()
    assert former is not None
    former.kill()
    # No connection is refused: they wait for the next server.
    assert admin.get("/healthz").status_code == 200
    assert admin.cluster.events("admin_exited")[-1]["signal"] == "SIGKILL"
    wait_until(lambda: admin.get("/readyz").status_code == 200)
    assert {name: row["id"] for name, row in admin.cluster.replicas().items()} == {
        name: row["id"] for name, row in rows.items()
    }
    assert admin.get("/api/v1/events").json()["events"][0]["number"] == 1
    assert admin.state()["history"]["at"][: len(history)] == history


def test_a_hung_admin_server_is_replaced(admin: Admin) -> None:
    former = admin.process()
    assert former is not None
    former.suspend()
    wait_until(lambda: not former.is_running(), 60, "its end")
    wait_until(lambda: admin.get("/readyz").status_code == 200)


@contextlib.contextmanager
def hostile_readers(port: int, count: int, pause: float = 0.0) -> Iterator[list[int]]:
    """So many pollers of page and API, each with so many seconds between two questions, as many that never read their
    answers, and some that never end their requests.
    """
    served, stop = [0] * count, threading.Event()

    def poll(number: int) -> None:
        while not stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10 * PATIENCE)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                while not stop.wait(pause):
                    connection.request("GET", ("/", "/api/v1/cluster")[number % 2])
                    connection.getresponse().read()
                    served[number] += 1

    threads = [threading.Thread(target=poll, args=(number,), daemon=True) for number in range(count)]
    with contextlib.ExitStack() as held:
        for number in range(count):
            deaf = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            deaf.sendall(b"GET /api/v1/cluster HTTP/1.1\r\nHost: localhost\r\n" + b"\r\n" * (number % 2))
        for thread in threads:
            thread.start()
        yield served
        stop.set()
        for thread in threads:
            thread.join(15 * PATIENCE)


def recoveries_ms(admin: Admin, kills: int) -> list[float]:
    """Milliseconds from a kill of lb-1 from outside to its successor's readiness, noticing included; none of them waits
    for a backoff.
    """
    taken = []
    for _ in range(kills):
        seen = len(admin.cluster.events("replica_ready", "lb-1"))
        pid, killed_at = int(admin.cluster.replicas()["lb-1"]["pid"]), time.time()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda seen=seen: len(admin.cluster.events("replica_ready", "lb-1")) > seen)
        taken.append((parse(admin.cluster.events("replica_ready", "lb-1")[-1]["at"]) - killed_at) * 1000)
        time.sleep(2 * float(admin.cluster.config["restart-stable"]))
    return taken


def test_hostile_readers_cost_the_supervisor_nothing(admin: Admin) -> None:
    """Not by a clock, which a busy machine shares out: by the CPU time that the supervisor itself spends while they
    read.
    """
    supervisor = psutil.Process(admin.cluster.supervisor_pid())

    def spent(seconds: float) -> float:
        before, began = sum(supervisor.cpu_times()[:2]), time.monotonic()
        time.sleep(seconds)
        return (sum(supervisor.cpu_times()[:2]) - before) / (time.monotonic() - began)

    alone = spent(2)
    with hostile_readers(admin.port, 50) as served:
        wait_until(lambda: sum(served) > 200, 60)
        beset = spent(2)
    assert beset < alone + 0.05, f"{alone:.3f} alone, {beset:.3f} with readers"
    wait_until(lambda: admin.get("/readyz").status_code == 200)


@pytest.mark.parametrize(("pause", "bound"), [(1.0, 2), (0.0, 4)], ids=["as-the-page-does", "without-a-pause"])
def test_restarts_stay_as_fast_with_50_readers(admin: Admin, pause: float, bound: float) -> None:
    """With and without them in turn, so that a busy machine slows both. Readers that never pause take the CPU
    themselves, from all that run here: hence the width of their bound.
    """
    alone, beset = [], []
    for _ in range(3):
        alone += recoveries_ms(admin, 3)
        with hostile_readers(admin.port, 50, pause) as served:
            wait_until(lambda served=served: sum(served) > 100, 60)
            beset += recoveries_ms(admin, 3)
    told = f"{statistics.median(alone):.1f} ms alone, {statistics.median(beset):.1f} ms with readers"
    print(told)
    assert statistics.median(beset) < bound * statistics.median(alone), told


def test_a_taken_port_is_named_and_zero_turns_it_off(admin: Admin, tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="process", worker=1, pool=1, admin_port=admin.port) as second:
        done = second.comet("run", "--detach")
        assert done.returncode == 2
        assert re.search(rf"config.yaml:\d+: admin-port: port {admin.port} is taken by .+\(PID \d+\)", done.stderr), (
            done.stderr
        )
        second.write(admin_port=0)
        second.start()
        assert Admin(second).process() is None
        assert second.ps()["total"]["requests"] == 0
        second.stop()


def test_a_new_supervisor_takes_the_port_of_one_that_was_killed(admin: Admin) -> None:
    last = admin.get("/api/v1/events").json()["last"]
    os.kill(admin.cluster.supervisor_pid(), signal.SIGKILL)
    admin.cluster.start()
    wait_until(lambda: admin.get("/readyz").status_code == 200)
    events = admin.get(f"/api/v1/events?after={last}").json()["events"]
    names = [event["event"] for event in events]
    began = names.index("supervisor_started")  # What the former one did last may come before.
    assert names[began : began + 2] == ["supervisor_started", "stale_lock"]
    assert admin.cluster.events()[-1]["number"] >= events[-1]["number"]


@pytest.mark.parametrize("made", ["adopted", "anew"])
def test_counts_before_an_adoption_are_not_current_traffic(admin: Admin, made: str) -> None:
    for number in range(60):
        assert admin.cluster.hello(number % 2).status_code == 200
    os.kill(admin.cluster.supervisor_pid(), signal.SIGKILL)
    if made == "anew":
        (admin.cluster.folder / ".comet/state.json").write_text("{")
    admin.cluster.start()
    told = wait_until(
        lambda: len((shown := admin.get("/api/v1/history").json())["at"]) >= 3 and shown, what="three samples"
    )
    assert set(told["requests_per_s"]) == {0.0}
    assert admin.replicas()["lb-0"]["requests"] >= 30
