"""What others may read holds no secret: neither what the admin server shows to who may not write, nor any message that
Comet makes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.cluster import ROOT, TestCluster, free_ports, open_cluster
from tests.support.user_clients import ALICE, curl, status
from tests.support.users import as_root
from tests.support.waiting import wait_until
from tests.unit.test_secrets import PATHS, SECRET

SERVICE = (
    "import http.server as h; print('started with hunter2', flush=True); h.ThreadingHTTPServer(('{host}', "
    "{port}), h.SimpleHTTPRequestHandler).serve_forever()"
)


def test_bad_usage_does_not_repeat_a_password() -> None:
    argv = [sys.executable, str(ROOT / "supervisor.py"), "logs", "worker-0", f"--tail=postgresql://u:{SECRET}@h"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert SECRET not in done.stdout + done.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TestCluster]:
    environment = {"DB_PASSWORD": SECRET, "DATABASE_URL": f"postgresql://u:{SECRET}@h/db"}
    command = json.dumps(["/usr/bin/python3", "-c", SERVICE, f"--password={SECRET}"])
    extra: dict[str, Any] = {
        "worker-command": command,
        "worker-environment": json.dumps(environment),
        "health-path": "/",
        "avg-delay": None,
        "failure": None,
    }
    with open_cluster(tmp_path, runtime="process", worker=1, pool=1, admin_port=free_ports(1), **extra) as cluster:
        yield cluster


@as_root
def test_another_user_finds_no_secret_of_a_living_cluster(cluster: TestCluster) -> None:
    cluster.start()
    cluster.write(worker_environment=json.dumps({"DB_PASSWORD": [SECRET]}))
    refused = cluster.comet("reload")
    assert refused.returncode == 2
    assert SECRET not in refused.stdout + refused.stderr
    home = f"http://127.0.0.1:{cluster.config['admin-port']}"
    wait_until(lambda: "reload refused" in curl(ALICE, f"{home}/api/v1/events").stdout)
    for path in PATHS:
        answer = curl(ALICE, home + path)
        assert status(answer) == 200
        assert SECRET not in answer.stdout
    token = (cluster.folder / ".comet/admin.token").read_text().strip()
    assert SECRET in curl(ALICE, f"{home}/api/v1/cluster", "--header", f"Authorization: Bearer {token}").stdout
    listed = cluster.comet("ps", "--json")
    assert SECRET not in listed.stdout + cluster.comet("check").stdout + cluster.comet("events", "--json").stdout
    for log in (cluster.folder / ".comet/logs").iterdir():
        assert log.stat().st_mode & 0o077 == 0 or log.parent.stat().st_mode & 0o077 == 0
        assert log.name.startswith("worker-") or SECRET not in log.read_text()
    # Of our own processes none has it in what others may list; that of the service itself is the user's own doing.
    for process in cluster.processes():
        try:
            words = process.cmdline()
        except psutil.Error:  # It has ended meanwhile.
            continue
        assert SECRET not in " ".join(words) or words[1:2] == ["-c"], words
    assert os.getuid() == 0
    cluster.write(worker_environment=json.dumps({"DB_PASSWORD": SECRET}))
    cluster.stop()
