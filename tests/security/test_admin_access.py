"""Who may change a cluster through its admin server: its user and root, whoever holds the token or opens a one-time
link, nobody else.
"""

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from comet.admin.access import peers
from comet.host import sock_diag
from tests.support.cluster import TestCluster, free_ports, open_cluster, open_folder
from tests.support.user_clients import ALICE, BOB, cookies, curl, status
from tests.support.users import argv_as, as_root
from tests.support.waiting import wait_until

PYTHON = "/usr/bin/python3"
"""An interpreter that every user may run."""


CONNECT = """
import socket, sys, os
made = socket.socket({family})
made.connect(({host!r}, {port}))
os.write(1, b".")
if {half}: made.shutdown(socket.SHUT_WR)
sys.stdin.read()
"""


@contextlib.contextmanager
def connected(
    listener: socket.socket, uid: int, host: str = "127.0.0.1", half: bool = False, within: tuple[str, ...] = ()
) -> Iterator[socket.socket]:
    """A connection that a program of this user has made; `within` is the command that runs it."""
    family = "socket.AF_INET6" if ":" in host else "socket.AF_INET"
    code = CONNECT.format(family=family, host=host, port=listener.getsockname()[1], half=half)
    client = subprocess.Popen(
        argv_as(uid, *within, PYTHON, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    )
    try:
        assert client.stdout is not None
        assert client.stdout.read(1) == b"."
        accepted = listener.accept()[0]
        with accepted:
            yield accepted
    finally:
        client.communicate()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


@pytest.fixture(params=["sock_diag", "proc"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to ask it; the second is for kernels without the first."""

    def refuse(*_: object) -> None:
        raise OSError(93, "Protocol not supported")

    if request.param == "proc":
        monkeypatch.setattr(sock_diag, "connection", refuse)


@as_root
@pytest.mark.usefixtures("kernel")
def test_the_owner_of_a_connection_is_identified(listener: socket.socket) -> None:
    for uid in (0, ALICE, 10001):
        with connected(listener, uid) as accepted:
            assert peers.peer_uid(accepted) == uid
    with connected(listener, ALICE, "::ffff:127.0.0.1") as accepted:
        assert peers.peer_uid(accepted) == ALICE
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as six:
        six.settimeout(10)
        with connected(six, ALICE, "::1") as accepted:
            assert peers.peer_uid(accepted) == ALICE


@as_root
@pytest.mark.usefixtures("kernel")
def test_root_in_a_user_namespace_counts_as_its_outer_user(listener: socket.socket) -> None:
    with connected(listener, ALICE, within=("unshare", "-U", "-r")) as accepted:
        assert peers.peer_uid(accepted) == ALICE


# A real cluster.


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with open_cluster(
        tmp_path_factory.mktemp("access"), runtime="process", worker=1, pool=1, admin_port=free_ports(1)
    ) as cluster:
        cluster.start()
        yield cluster
        cluster.stop()
        cluster.assert_nothing_left()


def home(cluster: TestCluster) -> str:
    return f"http://127.0.0.1:{cluster.config['admin-port']}/"


def link(cluster: TestCluster) -> str:
    done = cluster.comet("dashboard")
    assert done.returncode == 0, done.stderr
    made = done.stdout.strip()
    assert made.startswith(f"{home(cluster)}?token=")
    return made


def command(cluster: TestCluster, uid: int, name: str = "reload", *options: str) -> int:
    origin = home(cluster).rstrip("/")
    answer = curl(uid, f"{origin}/api/v1/{name}", "--json", "{}", "--header", f"Origin: {origin}", *options)
    return status(answer)


def admin_process(cluster: TestCluster) -> psutil.Process:
    """It has its title some moments after its start."""

    def found() -> psutil.Process | None:
        for each in cluster.processes():
            with contextlib.suppress(psutil.Error):
                if each.cmdline()[:1] and each.cmdline()[0].startswith("comet: admin"):
                    return each
        return None

    return wait_until(found, what="the admin server")  # type: ignore[return-value]


@as_root
def test_another_user_of_the_machine_can_read_and_not_stop(cluster: TestCluster) -> None:
    for uid in (ALICE, 10001, 65534):
        seen = curl(uid, home(cluster))
        assert (status(seen), cookies(seen)) == (200, [])
        assert command(cluster, uid, "stop") == 401
    mine = curl(0, home(cluster))
    assert command(cluster, 0, "reload", "--cookie", cookies(mine)[0]) == 200
    assert command(cluster, 0) == 401, "without token and session not even the cluster's user"
    stolen = cookies(mine)[0]
    assert command(cluster, ALICE, "stop", "--cookie", stolen) == 401
    assert cluster.ps()["supervisor"]["running"]


@as_root
def test_the_dashboard_link_grants_a_session_once(cluster: TestCluster) -> None:
    made = link(cluster)
    opened = curl(ALICE, made)
    assert status(opened) == 303
    assert command(cluster, ALICE, "reload", "--cookie", cookies(opened)[0]) == 200
    assert command(cluster, BOB, "reload", "--cookie", cookies(opened)[0]) == 401
    assert status(curl(BOB, made)) == 403
    # A server that died has forgotten which links were opened: none of them is good any more. Sessions go on.
    made, former = link(cluster), admin_process(cluster)
    former.kill()
    wait_until(lambda: not former.is_running() and status(curl(BOB, made)) == 403, what="the next server's refusal")
    assert command(cluster, ALICE, "reload", "--cookie", cookies(opened)[0]) == 200
    assert status(curl(BOB, link(cluster))) == 303


RELAY = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def pump(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)
while True:
    client = listener.accept()[0]
    server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    threading.Thread(target=pump, args=(client, server), daemon=True).start()
    threading.Thread(target=pump, args=(server, client), daemon=True).start()
"""


@as_root
def test_a_forwarded_client_counts_as_the_forwarders_user(cluster: TestCluster) -> None:
    """Such as ssh -L, which runs as the user who has logged in: Alice's gives nobody a session, and root's only what
    shows no proxy.
    """
    port = str(cluster.config["admin-port"])
    for uid, options, given in (
        (ALICE, (), 0),
        (0, ("--header", "X-Forwarded-For: 10.0.0.1"), 0),
        (0, ("--http1.0",), 0),
        (0, (), 1),
    ):
        relay = subprocess.Popen(argv_as(uid, PYTHON, "-c", RELAY, port), stdout=subprocess.PIPE, text=True, cwd="/")
        try:
            assert relay.stdout is not None
            answer = curl(BOB, f"http://127.0.0.1:{relay.stdout.readline().strip()}/", *options)
            assert (status(answer), len(cookies(answer))) == (200, given), (uid, options)
        finally:
            relay.kill()
            relay.communicate()


@as_root
def test_a_session_does_not_outlive_its_supervisor(cluster: TestCluster) -> None:
    mine = cookies(curl(0, home(cluster)))[0]
    cluster.stop()
    cluster.start()
    assert command(cluster, 0, "reload", "--cookie", mine) == 401
    assert command(cluster, 0, "reload", "--cookie", cookies(curl(0, home(cluster)))[0]) == 200


@as_root
def test_write_access_is_the_users_and_roots() -> None:
    with (
        open_folder() as folder,
        open_cluster(folder, runtime="process", worker=1, pool=1, admin_port=free_ports(1)) as cluster,
    ):
        os.chown(folder, ALICE, ALICE)
        cluster.command = (*argv_as(ALICE, *cluster.command),)
        cluster.environment = {"HOME": str(folder)}
        cluster.start()
        for uid, given in ((ALICE, 1), (0, 1), (BOB, 0), (10001, 0)):
            assert len(cookies(curl(uid, home(cluster)))) == given, uid
        assert command(cluster, ALICE, "stop", "--cookie", cookies(curl(ALICE, home(cluster)))[0]) == 200
        wait_until(lambda: cluster.processes() == [], what="its end")


def test_dashboard_command_without_admin_server(tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="process", worker=1, pool=1) as cluster:
        refused = cluster.comet("dashboard")
        assert refused.returncode == 3
        cluster.start()
        refused = cluster.comet("dashboard")
        assert (refused.returncode, refused.stderr) == (1, "there is no dashboard: admin-port is 0\n")
        cluster.stop()
