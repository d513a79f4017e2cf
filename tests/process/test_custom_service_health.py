"""Health checks of a custom service: path, host, and what `ps` says of those that fail."""

import os
import re
import signal
import sys
from pathlib import Path

from tests.support.cluster import open_cluster
from tests.support.waiting import wait_until


def test_a_new_health_path_makes_workers_healthy_again(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (served / "old").touch()
    command = f"{sys.executable} -m http.server {{port}} --bind {{host}} --directory {served}"
    own_base = {"runtime": "process", "worker_command": command, "avg_delay": None, "failure": None}
    with open_cluster(
        tmp_path,
        worker=1,
        pool=1,
        health_path="/old",
        health_interval=0.5,
        health_fall=1,
        health_restart=1000,
        **own_base,
    ) as cluster:
        cluster.start()
        (served / "old").rename(served / "new")
        wait_until(lambda: cluster.replicas()["worker-0"]["state"] == "unhealthy", what="it is unhealthy")
        before = cluster.replicas()["worker-0"]
        cluster.write(health_path="/new")
        done = cluster.comet("reload")
        assert (done.returncode, done.stdout.startswith("changed health-path ")) == (0, True), done.stderr
        after = wait_until(
            lambda: (row := cluster.replicas()["worker-0"])["state"] == "ready" and row, 10, "it is well"
        )
        assert (after["pid"], after["restarts"]) == (before["pid"], 0)


def test_a_reload_changes_which_statuses_are_expected(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    command = f"{sys.executable} -m http.server {{port}} --bind {{host}} --directory {served}"
    own_base = {"runtime": "process", "worker_command": command, "avg_delay": None, "failure": None}
    with open_cluster(
        tmp_path,
        worker=1,
        pool=1,
        health_path="/missing",
        health_status=404,
        health_interval=0.3,
        health_restart=1000,
        **own_base,
    ) as cluster:
        cluster.start()
        before = cluster.replicas()["worker-0"]["pid"]
        cluster.write(health_status='"200-299, 400-499"')
        done = cluster.comet("reload")
        assert (done.returncode, done.stdout.startswith("changed health-status ")) == (0, True), done.stderr
        cluster.write(health_status="200-299")
        refused = cluster.comet("reload")
        assert refused.returncode == 1
        assert re.search(
            r"config\.yaml:\d+: health-status: worker-0 \(GET /missing: status 404\): .*nothing was changed",
            refused.stderr,
        )
        (served / "missing").touch()
        assert cluster.comet("reload").returncode == 0
        (served / "missing").unlink()
        wait_until(lambda: cluster.replicas()["worker-0"]["state"] == "unhealthy", 20)
        # Of one that is unhealthy already nothing is asked.
        cluster.write(health_status=404)
        assert cluster.comet("reload").returncode == 0
        wait_until(lambda: cluster.replicas()["worker-0"]["state"] == "ready", 20)
        assert cluster.replicas()["worker-0"]["pid"] == before


PARTICULAR = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.headers["Host"] == "shop.example" else 400)
        self.end_headers()
    def log_message(self, *arguments):
        pass

ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


def test_health_host_is_sent_to_a_virtual_host(tmp_path: Path) -> None:
    """As Django with ALLOWED_HOSTS. What the checks saw is told at the start, in `ps`, and at a reload."""
    tmp_path.chmod(0o755)
    (tmp_path / "service.py").write_text(PARTICULAR)
    command = f"{sys.executable} service.py {{host}} {{port}}"
    own_base = {
        "runtime": "process",
        "worker_command": command,
        "avg_delay": None,
        "failure": None,
        "health_interval": 0.3,
    }
    with open_cluster(tmp_path, worker=1, pool=1, health_path="/up", start_timeout=10, **own_base) as cluster:
        done = cluster.comet("run", "--detach")
        assert done.returncode == 1
        assert "worker-0 does not become ready: not ready within 10 s: GET /up: status 400" in done.stderr
        cluster.write(health_host="shop.example", start_timeout=None)
        cluster.start()
        wait_until(lambda: cluster.replicas()["worker-0"]["health"]["lb-0"]["healthy"])
        cluster.write(health_host="other.example")
        refused = cluster.comet("reload")
        assert refused.returncode == 1
        assert re.search(
            r"config\.yaml:\d+: health-host: worker-0 \(GET /up: status 400\): .*nothing was changed", refused.stderr
        )
        cluster.write(health_host="shop.example", health_fall=1, health_restart=1000)
        assert cluster.comet("reload").returncode == 0
        os.kill(cluster.replicas()["worker-0"]["pid"], signal.SIGSTOP)
        wait_until(lambda: cluster.replicas()["worker-0"]["state"] == "unhealthy", 20)
        listed = cluster.comet("ps").stdout
        assert re.search(r"REASON\n", listed)
        assert re.search(r"worker-0 .* unhealthy .*lb-0 finds: no answer in 2 s\n", listed), listed
        os.kill(cluster.replicas()["worker-0"]["pid"], signal.SIGCONT)
        wait_until(lambda: cluster.replicas()["worker-0"]["state"] == "ready", 20)
        wait_until(lambda: "REASON" not in cluster.comet("ps").stdout)


def test_ps_shows_the_health_check_reason_while_starting(tmp_path: Path) -> None:
    """Here nobody listens for some seconds."""
    tmp_path.chmod(0o755)
    (tmp_path / "service.py").write_text(
        "import time\ntime.sleep(20)\n" + PARTICULAR.replace('== "shop.example"', '!= ""')
    )
    command = f"{sys.executable} service.py {{host}} {{port}}"
    own_base = {"runtime": "process", "worker_command": command, "avg_delay": None, "failure": None}
    with open_cluster(tmp_path, worker=1, pool=1, health_path="/up", **own_base) as cluster, cluster.foreground():
        seen = wait_until(
            lambda: (row := cluster.replicas().get("worker-0", {})).get("state") == "starting" and row["reason"], 20
        )
        assert seen == "GET /up: connection refused"
        assert "GET /up: connection refused" in cluster.comet("ps").stdout
        cluster.stop()
