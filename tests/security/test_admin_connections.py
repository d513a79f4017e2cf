"""Idle and slow connections to the admin server shut nobody else out: each user has a share, the cluster's user a
reserve.
"""

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from comet.admin.connections import ALL_STRANGERS, OWNER_CONNECTIONS
from tests.security.test_admin_access import admin_process
from tests.support.cluster import TestCluster, free_ports, open_cluster
from tests.support.user_clients import ALICE, BOB, curl, status
from tests.support.users import argv_as, as_root
from tests.support.waiting import wait_until

PYTHON = "/usr/bin/python3"


ATTACK = """
import selectors, socket, sys, time
port, count, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
sent = {"idle": b"", "slow": b"GET /api/v1/cluster HTTP/1.1\\r\\nHost: localhost\\r\\nX-Slow: ", "body": b"POST /api/v1/stop HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 60000\\r\\n\\r\\n",
        "deaf": b"GET /api/v1/cluster HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n" * 20}[kind]
held = []
def connect():
    made = socket.create_connection(("127.0.0.1", port), 5)
    made.setblocking(False)
    try:
        made.send(sent)
    except OSError:
        pass
    held.append(made)
for _ in range(count):
    try:
        connect()
    except OSError:
        pass
print("attacking", flush=True)
while True:
    time.sleep(0.2)
    for each in held[:]:
        try:
            if kind in ("slow", "body"):
                each.send(b"a")
            if kind != "deaf" and each.recv(4096) == b"":
                raise ConnectionError
        except BlockingIOError:
            pass
        except OSError:
            held.remove(each)
            each.close()
            try:
                connect()
            except OSError:
                pass
"""  # noqa: E501


@contextlib.contextmanager
def attack(port: int, *parts: tuple[int, int, str]) -> Iterator[None]:
    """So many connections of each (uid, count, kind), made again as they are closed."""
    attackers = [
        subprocess.Popen(
            argv_as(uid, PYTHON, "-c", ATTACK, str(port), str(count), kind), stdout=subprocess.PIPE, cwd="/"
        )
        for uid, count, kind in parts
    ]
    try:
        for each in attackers:
            assert each.stdout is not None
            assert each.stdout.readline() == b"attacking\n"
        yield
    finally:
        for each in attackers:
            each.kill()
            each.communicate()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with open_cluster(
        tmp_path_factory.mktemp("crowd"), runtime="process", worker=1, pool=1, admin_port=free_ports(1)
    ) as cluster:
        cluster.start()
        home = f"http://127.0.0.1:{cluster.config['admin-port']}"
        wait_until(lambda: status(curl(0, f"{home}/api/v1/cluster")) == 200, what="the first state")
        yield cluster
        cluster.stop()
        cluster.assert_nothing_left()


def connections(cluster: TestCluster) -> int:
    return len(admin_process(cluster).net_connections())


def peers(cluster: TestCluster) -> set[tuple[str, int]]:
    return {each.raddr for each in admin_process(cluster).net_connections() if each.raddr}


STORMS = {
    "256 idle": [(ALICE, 256, "idle")],
    "1300 slow": [(ALICE, 1300, "slow")],
    "slow bodies": [(ALICE, 300, "body")],
    "answers unread": [(ALICE, 300, "deaf")],
    "many users": [(ALICE + number, 100, "slow") for number in range(10, 15)],
    "his own": [(0, 256, "idle"), (0, 300, "slow")],
}


@as_root
@pytest.mark.parametrize("storm", STORMS)
def test_a_connection_flood_does_not_block_other_users(cluster: TestCluster, storm: str) -> None:
    """On a machine of any speed: curl waits 25 s at most for each answer, and the server used to be closed for 30 s."""
    wait_until(lambda: connections(cluster) < 10, 60, "the end of the storm before")
    home = f"http://127.0.0.1:{cluster.config['admin-port']}"
    with attack(int(cluster.config["admin-port"]), *STORMS[storm]):
        for _ in range(4):
            for path in ("/healthz", "/", "/api/v1/cluster"):
                assert status(curl(0, home + path, timeout=25)) == 200
            assert connections(cluster) <= 2 * OWNER_CONNECTIONS + ALL_STRANGERS + 2
        if all(uid != BOB for uid, _, _ in STORMS[storm]):
            assert status(curl(BOB, f"{home}/healthz", timeout=25)) == 200, "nor another stranger"
        assert cluster.ps()["supervisor"]["running"]


@as_root
def test_slow_requests_are_disconnected(cluster: TestCluster) -> None:
    wait_until(lambda: connections(cluster) < 10, 60, "the end of the storm before")
    port = int(cluster.config["admin-port"])
    with attack(port, (ALICE, 30, "slow")):
        # The kernel connects them; the server accepts them when it comes to it.
        former = wait_until(lambda: len(found := peers(cluster)) >= 30 and found, what="all are accepted")
        assert wait_until(lambda: not former & peers(cluster), 60, "their end")
