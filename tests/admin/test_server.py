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
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from comet.wallclock import parse
from tests.integration.clusters import House, eventually, free_ports, house

pytestmark = pytest.mark.slow


class Admin:
    """The admin API of one cluster."""

    def __init__(self, cluster: House) -> None:
        self.house = cluster
        self.port = int(cluster.config["admin-port"])
        self.url = f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=30)

    def post(self, command: str, body: dict[str, Any]) -> requests.Response:
        token = (self.house.folder / ".comet/admin.token").read_text().strip()
        return requests.post(f"{self.url}/api/v1/{command}", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def replicas(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.get("/api/v1/cluster").json()["replicas"]}

    def process(self) -> psutil.Process | None:
        """The server's own process, by its title."""
        found = [each for each in self.house.processes() if each.cmdline()[:1] and each.cmdline()[0].startswith("comet: admin")]
        return found[0] if found else None


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with house(tmp_path_factory.mktemp("admin"), runtime="process", failure=0, admin_port=free_ports(1), restart_stable=0.1) as made:
        made.start()
        yield Admin(made)
        made.stop()
        made.assert_nothing_left()


def test_it_shows_what_ps_shows(admin: Admin) -> None:
    for _ in range(20):
        assert admin.house.hello().status_code == 200
    listed = admin.house.ps()
    steady = ("name", "role", "kind", "id", "pid", "port", "state", "restarts", "last_exit", "requests")
    eventually(lambda: sum(row["requests"] for row in admin.replicas().values()) >= 40)
    shown = admin.get("/api/v1/cluster").json()
    assert [[row[key] for key in steady] for row in shown["replicas"]] == [[row[key] for key in steady] for row in listed["replicas"]]
    assert shown["supervisor"]["pid"] == listed["supervisor"]["pid"]
    assert {(edge["lb"], edge["worker"]): edge["requests"] for edge in shown["edges"]}["lb-0", "worker-0"] == 10
    assert shown["total"]["requests"] == 20
    assert shown["config"]["admin-port"] == admin.port
    eventually(lambda: all(row["cpu_percent"] is not None for row in admin.replicas().values()))
    assert admin.get("/readyz").status_code == admin.get("/healthz").status_code == 200


def test_a_death_by_the_api_is_seen_as_event_and_recovery_and_no_count_goes_back(admin: Admin) -> None:
    before = admin.replicas()["lb-0"]
    last = admin.get("/api/v1/events").json()["last"]
    assert admin.post("kill", {"name": "lb-0"}).json()["result"] == {"name": "lb-0", "signal": "SIGKILL"}
    eventually(lambda: admin.replicas()["lb-0"]["restarts"] > before["restarts"] and admin.replicas()["lb-0"]["state"] == "ready")
    names = [event["event"] for event in admin.get(f"/api/v1/events?after={last}").json()["events"]]
    assert names[:3] == ["replica_exited", "replica_restarting", "replica_ready"]
    shown = admin.get("/api/v1/cluster").json()
    assert shown["recoveries"]["recent"][-1]["replica"] == "lb-0"
    assert shown["recoveries"]["restarts"]["lb-0"] == {"killed": 1}
    assert admin.replicas()["lb-0"]["requests"] >= before["requests"]


def test_commands_and_their_refusals_come_through(admin: Admin) -> None:
    assert admin.post("scale", {"worker": 3}).status_code in (200, 202)
    eventually(lambda: "worker-2" in admin.replicas() and admin.replicas()["worker-2"]["state"] == "ready")
    eventually(lambda: admin.post("scale", {"worker": 2}).status_code in (200, 202), what="an end of the first operation")
    eventually(lambda: "worker-2" not in admin.replicas())
    assert admin.post("faults", {"target": "worker-1", "failure": 100}).status_code == 200
    eventually(lambda: admin.replicas()["worker-1"]["faults"].get("failure") == 100)
    assert admin.post("faults", {"clear": True}).status_code == 200
    refused = admin.post("kill", {"name": "lb-9"})
    assert (refused.status_code, refused.json()["error"].partition(":")[0]) == (404, "lb-9")
    assert admin.post("kill", {"name": "lb-0", "signal": "NONE"}).status_code == 400


def test_the_token_is_its_owners_alone(admin: Admin) -> None:
    token = admin.house.folder / ".comet/admin.token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text().strip()) >= 43


def test_the_server_dies_and_is_started_again_alone(admin: Admin) -> None:
    eventually(lambda: admin.process() is not None)
    former, rows = admin.process(), admin.house.replicas()
    assert former is not None
    former.kill()
    # No connection is refused: they wait for the next server.
    assert admin.get("/healthz").status_code == 200
    assert admin.house.events("admin_exited")[-1]["signal"] == "SIGKILL"
    eventually(lambda: admin.get("/readyz").status_code == 200)
    assert {name: row["id"] for name, row in admin.house.replicas().items()} == {name: row["id"] for name, row in rows.items()}
    assert admin.get("/api/v1/events").json()["events"][0]["number"] == 1
    assert len(admin.get("/api/v1/cluster").json()["history"]["at"]) > 2


def test_a_hung_server_is_replaced(admin: Admin) -> None:
    former = admin.process()
    assert former is not None
    former.suspend()
    eventually(lambda: not former.is_running(), 60, "its end")
    eventually(lambda: admin.get("/readyz").status_code == 200)


@contextlib.contextmanager
def hostile_readers(port: int, count: int, pause: float = 0.0) -> Iterator[list[int]]:
    """So many pollers of page and API, each with so many seconds between two questions, as many that never read their answers, and some
    that never end their requests."""
    served, stop = [0] * count, threading.Event()

    def poll(number: int) -> None:
        while not stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
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
            thread.join(15)


def recoveries_ms(admin: Admin, kills: int) -> list[float]:
    """Milliseconds from a kill of lb-1 from outside to its successor's readiness, noticing included; none of them waits for a backoff."""
    taken = []
    for _ in range(kills):
        seen = len(admin.house.events("replica_ready", "lb-1"))
        pid, killed_at = int(admin.house.replicas()["lb-1"]["pid"]), time.time()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda seen=seen: len(admin.house.events("replica_ready", "lb-1")) > seen)
        taken.append((parse(admin.house.events("replica_ready", "lb-1")[-1]["at"]) - killed_at) * 1000)
        time.sleep(2 * float(admin.house.config["restart-stable"]))
    return taken


def test_hostile_readers_cost_the_supervisor_nothing(admin: Admin) -> None:
    """Not by a clock, which a busy machine shares out: by the CPU time that the supervisor itself spends while they read."""
    supervisor = psutil.Process(admin.house.supervisor_pid())

    def spent(seconds: float) -> float:
        before, began = sum(supervisor.cpu_times()[:2]), time.monotonic()
        time.sleep(seconds)
        return (sum(supervisor.cpu_times()[:2]) - before) / (time.monotonic() - began)

    alone = spent(2)
    with hostile_readers(admin.port, 50) as served:
        eventually(lambda: sum(served) > 200, 60)
        beset = spent(2)
    assert beset < alone + 0.05, f"{alone:.3f} alone, {beset:.3f} with readers"
    eventually(lambda: admin.get("/readyz").status_code == 200)


@pytest.mark.parametrize(("pause", "bound"), [(1.0, 2), (0.0, 4)], ids=["as-the-page-does", "without-a-pause"])
def test_restarts_stay_as_fast_with_50_readers(admin: Admin, pause: float, bound: float) -> None:
    """With and without them in turn, so that a busy machine slows both. Readers that never pause take the CPU themselves, from all
    that run here: hence the width of their bound."""
    alone, beset = [], []
    for _ in range(3):
        alone += recoveries_ms(admin, 3)
        with hostile_readers(admin.port, 50, pause) as served:
            eventually(lambda served=served: sum(served) > 100, 60)
            beset += recoveries_ms(admin, 3)
    told = f"{statistics.median(alone):.1f} ms alone, {statistics.median(beset):.1f} ms with readers"
    print(told)
    assert statistics.median(beset) < bound * statistics.median(alone), told


def test_a_taken_port_is_named_and_zero_turns_it_off(admin: Admin, tmp_path: Path) -> None:
    with house(tmp_path, runtime="process", worker=1, pool=1, admin_port=admin.port) as second:
        done = second.comet("run", "--detach")
        assert done.returncode == 2
        assert re.search(rf"config.yaml:\d+: admin-port: port {admin.port} is taken by .+\(PID \d+\)", done.stderr), done.stderr
        second.write(admin_port=0)
        second.start()
        assert Admin(second).process() is None
        assert second.ps()["total"]["requests"] == 0
        second.stop()


def test_a_new_supervisor_takes_the_port_of_one_that_was_killed(admin: Admin) -> None:
    last = admin.get("/api/v1/events").json()["last"]
    os.kill(admin.house.supervisor_pid(), signal.SIGKILL)
    admin.house.start()
    eventually(lambda: admin.get("/readyz").status_code == 200)
    events = admin.get(f"/api/v1/events?after={last}").json()["events"]
    assert [event["event"] for event in events[:2]] == ["supervisor_started", "stale_lock"]
    assert json.loads((admin.house.folder / ".comet/events.jsonl").read_text().splitlines()[-1])["number"] >= events[-1]["number"]


@pytest.mark.parametrize("made", ["adopted", "anew"])
def test_what_was_counted_before_a_new_supervisor_is_no_traffic_of_now(admin: Admin, made: str) -> None:
    for number in range(60):
        assert admin.house.hello(number % 2).status_code == 200
    os.kill(admin.house.supervisor_pid(), signal.SIGKILL)
    if made == "anew":
        (admin.house.folder / ".comet/state.json").write_text("{")
    admin.house.start()
    told = eventually(lambda: len((shown := admin.get("/api/v1/history").json())["at"]) >= 3 and shown, what="three samples")
    assert set(told["requests_per_s"]) == {0.0}
    assert admin.replicas()["lb-0"]["requests"] >= 30
