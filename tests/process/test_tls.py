"""TLS of a whole cluster: self-signed, then from files, renewed by a reload; what is not usable is refused."""

import json
import os
import shutil
import socket
import ssl
import stat
import sys
from pathlib import Path

import requests

from tests.process.lb.test_tls import certificate, client_context
from tests.support.cluster import TestCluster, open_cluster
from tests.support.lb import Client
from tests.support.waiting import wait_until

GET = b"GET /api/v1/hello HTTP/1.1\r\nHost: h\r\n\r\n"


def shown(port: int) -> bytes:
    """Ask over TLS, and return the certificate."""
    sock = client_context().wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=60))
    with Client.of(sock) as client:
        assert client.ask(GET).status == 200
        return sock.getpeercert(binary_form=True) or b""


def plant_fifo(path: Path) -> None:
    """Put a FIFO in a file's place: who opens it without care waits for ever."""
    path.unlink()
    os.mkfifo(path)


def speaks_http(cluster: TestCluster, number: int) -> bool:
    try:
        return cluster.hello(number).status_code == 200
    except requests.ConnectionError:
        return False


def test_self_signed_then_files_that_are_renewed(tmp_path: Path) -> None:
    # A kept connection waits until two certificates are made.
    with open_cluster(
        tmp_path, runtime="process", worker=1, pool=2, avg_delay=0, tls="self-signed", idle_timeout=3600
    ) as cluster:
        ports = [cluster.config["load-balancer-port"] + number for number in range(2)]
        cluster.start()
        first = {shown(port) for port in ports}
        assert len(first) == 1
        with socket.create_connection(("127.0.0.1", ports[0]), timeout=60) as sock:
            kept = Client.of(client_context().wrap_socket(sock))
            for name in ("one", "two"):
                made = certificate(tmp_path, name)
                shutil.copy(made["tls_certificate"], tmp_path / "used.pem")
                shutil.copy(made["tls_key"], tmp_path / "used.key")
                cluster.write(tls=None, tls_certificate="used.pem", tls_key="used.key")
                assert cluster.comet("reload").returncode == 0
                der = ssl.PEM_cert_to_DER_cert(Path(made["tls_certificate"]).read_text())
                wait_until(lambda der=der: {shown(port) for port in ports} == {der})  # type: ignore[misc]
            assert kept.ask(GET).status == 200
            kept.sock.close()
        in_use = tmp_path / ".comet" / "tls" / "used.pem"
        plant_fifo(in_use)
        assert cluster.comet("reload").returncode == 0
        wait_until(in_use.is_file)
        shutil.copy(tmp_path / "one.key", tmp_path / "used.key")
        for command in ("check", "reload"):
            refused = cluster.comet(command)
            assert (refused.returncode, "the key belongs to another certificate" in refused.stderr) == (2, True)
        assert {shown(port) for port in ports} == {der}
        # A load balancer that starts now has the certificate in use, too, not what lies in the files.
        (tmp_path / "used.pem").unlink()
        before = cluster.replicas()["lb-0"]["pid"]
        assert cluster.comet("kill", "lb-0").returncode == 0
        wait_until(lambda: (row := cluster.replicas()["lb-0"])["state"] == "ready" and row["pid"] != before)
        assert cluster.comet("scale", "pool=3").returncode == 0
        assert {shown(port) for port in (*ports, ports[1] + 1)} == {der}
        assert stat.S_IMODE(in_use.stat().st_mode) == 0o600
        cluster.write(tls_certificate=None, tls_key=None)
        assert cluster.comet("reload").returncode == 0
        wait_until(lambda: all(speaks_http(cluster, number) for number in range(3)))
        assert not in_use.exists(), "nobody needs the copy of the key any more"


def test_only_a_reload_that_is_applied_changes_the_certificate(tmp_path: Path) -> None:
    made = {name: certificate(tmp_path, name) for name in ("one", "two")}
    der = {name: ssl.PEM_cert_to_DER_cert(Path(each["tls_certificate"]).read_text()) for name, each in made.items()}

    def put(name: str) -> None:
        shutil.copy(made[name]["tls_certificate"], tmp_path / "cert.pem")
        shutil.copy(made[name]["tls_key"], tmp_path / "key.pem")

    put("one")
    files = {"tls_certificate": "cert.pem", "tls_key": "key.pem"}
    with open_cluster(tmp_path, runtime="process", worker=1, pool=2, avg_delay=0, **files) as cluster:
        ports = [cluster.config["load-balancer-port"] + number for number in range(2)]

        def all_show(name: str) -> None:
            """Also one that has just been started."""
            for lb in ("lb-0", "lb-1"):
                before = cluster.replicas()[lb]["pid"]
                assert cluster.comet("kill", lb).returncode == 0
                wait_until(
                    lambda lb=lb, before=before: (
                        (row := cluster.replicas()[lb])["state"] == "ready"  # type: ignore[misc]
                        and row["pid"] != before
                    )
                )
            assert {shown(port) for port in ports} == {der[name]}

        cluster.start()
        put("two")
        cluster.write(health_path="/nothing-here")
        assert cluster.comet("reload").returncode == 1
        all_show("one")
        assert cluster.comet("scale", "worker=2").returncode == 0
        all_show("one")
        cluster.write(health_path=None)
        assert cluster.comet("reload").stdout == "changed tls-certificate\n"
        all_show("two")
        assert cluster.comet("reload").stdout == "nothing has changed\n"
        cluster.write(tls_certificate=None, tls_key=None, health_path="/nothing-here")
        assert cluster.comet("reload").returncode == 1
        all_show("two")
        cluster.write(health_path=None)
        assert cluster.comet("reload").returncode == 0
        in_use = tmp_path / ".comet" / "tls" / "used.pem"
        assert not in_use.exists()
        assert cluster.comet("restart", "all").returncode == 0
        removed = tmp_path / ".comet" / "id"  # Once this is back, missing files have been looked for.
        removed.unlink()
        wait_until(removed.exists)
        assert not in_use.exists()
        assert not [each for each in cluster.events("files_restored") if "tls/used.pem" in each["files"]]


def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="process") as cluster:
        for changes, wrong in (
            ({"tls-certificate": "a.pem"}, "tls-certificate: needs tls-key"),
            ({"tls-key": "a.key", "tls-certificate": None}, "tls-key: needs tls-certificate"),
            ({"tls-certificate": "a.pem"}, "cannot be read"),
            ({"tls": "self-signed"}, "has its own certificate"),
        ):
            cluster.write(**changes)
            refused = cluster.comet("check")
            assert refused.returncode == 2
            assert wrong in refused.stderr
            assert "Traceback" not in refused.stderr


def test_scenarios_and_chaos_speak_tls_where_balancers_do(tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="process", worker=2, pool=2, avg_delay=0, tls="self-signed") as cluster:
        cluster.start()
        (tmp_path / "s.yaml").write_text("steps: [{for: 1s, clients: 2, expect: {ok: 100%}}, {for: 1s, rate: 20}]\n")
        client = [sys.executable, "-c", "import os; assert os.environ['COMET_URL'].startswith('https://127.0.0.1:')"]
        done = cluster.comet("scenario", "s.yaml", "--", *client)
        assert done.returncode == 0, done.stdout + done.stderr
        chaos = json.loads(cluster.comet("chaos", "--for", "2s", "--json").stdout)
        assert chaos["passed"], chaos
