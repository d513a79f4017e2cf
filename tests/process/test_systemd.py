"""The systemd unit: systemd itself finds nothing wrong with it, and its command lines do what the unit says of them.

systemd does not run where tests run. The lines are run literally, but for the places of the checkout and of the
cluster's folder, by an ordinary user, and end as systemd would end them.
"""

import configparser
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import ROOT, TestCluster, open_cluster, open_folder
from tests.support.users import USER, argv_as
from tests.support.waiting import PATIENCE, wait_until

UNIT = ROOT / "examples/systemd/comet.service"
SERVES_AS = USER if os.getuid() == 0 else os.getuid()


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(UNIT)
    return parser


@pytest.mark.program("systemd-analyze")
def test_systemd_analyze_accepts_the_unit(tmp_path: Path) -> None:
    """But for what this machine has not got: the checkout in that place, and the service that it is to follow."""
    text = UNIT.read_text()
    for line in ("ExecStart", "ExecReload"):
        text = text.replace(unit()["Service"][line], shutil.which("true") or "")
    (tmp_path / UNIT.name).write_text(text.replace(" docker.service", ""))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / UNIT.name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, []), done.stderr


def test_a_bad_config_is_not_tried_again_and_a_stop_has_time() -> None:
    service = unit()["Service"]
    assert (service["Restart"], service["RestartPreventExitStatus"], service["KillMode"]) == (
        "on-failure",
        "2",
        "mixed",
    )
    assert int(service["TimeoutStopSec"]) > 10 + 10  # shutdown-grace, and then the removal of containers.


class Service:
    """What systemd would do with the unit's lines."""

    def __init__(self, cluster: TestCluster) -> None:
        self.cluster = cluster

    def argv(self, line: str) -> list[str]:
        placed = (
            unit()["Service"][line]
            .replace("/opt/comet/.venv/bin/python", sys.executable)
            .replace("/opt/comet", str(ROOT))
        )
        return argv_as(SERVES_AS, *shlex.split(placed))

    @contextlib.contextmanager
    def started(self) -> Iterator[psutil.Popen]:
        with psutil.Popen(
            self.argv("ExecStart"), cwd=self.cluster.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as main:
            try:
                yield main
            finally:
                with contextlib.suppress(psutil.NoSuchProcess):
                    main.kill()

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(line), cwd=self.cluster.folder, capture_output=True, text=True, timeout=60, check=False
        )

    def await_ready(self) -> None:
        rows = self.cluster.config["worker"] + self.cluster.config["pool"]
        wait_until(
            lambda: [row["state"] for row in self.cluster.replicas().values()] == ["ready"] * rows, 60, "all ready"
        )


@pytest.fixture
def service() -> Iterator[Service]:
    with open_folder() as folder:
        os.chown(folder, SERVES_AS, SERVES_AS if os.getuid() == 0 else -1)
        with open_cluster(folder, runtime="process", worker=2, pool=2) as cluster:
            yield Service(cluster)


def test_start_reload_and_stop_do_what_systemd_expects(service: Service) -> None:
    with service.started() as main:
        service.await_ready()
        assert {process.uids().effective for process in service.cluster.processes()} == {SERVES_AS}
        assert service.cluster.hello().status_code == 200
        service.cluster.write(avg_delay=7)
        assert service.run("ExecReload").returncode == 0
        assert service.cluster.events("reloaded")
        service.cluster.write(avg_delay="soon")
        refused = service.run("ExecReload")
        assert refused.returncode != 0
        assert "avg-delay" in refused.stderr
        assert service.cluster.hello().status_code == 200
        main.send_signal(signal.SIGTERM)
        assert main.wait(60 * PATIENCE) == 0
        service.cluster.assert_nothing_left()
    with service.started() as main:
        assert main.wait(60 * PATIENCE) == int(unit()["Service"]["RestartPreventExitStatus"])


def test_a_crash_is_followed_by_a_start_with_the_statistics(service: Service) -> None:
    with service.started() as main:
        service.await_ready()
        for _ in range(5):
            assert service.cluster.hello().status_code == 200
        main.kill()
        main.wait(10 * PATIENCE)
        while every := service.cluster.processes():  # systemd goes on when the unit's group is empty.
            for left in every:
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()
    with service.started() as main:
        service.await_ready()
        assert service.cluster.hello().status_code == 200
        assert service.cluster.counts()["total"] == 6
        main.send_signal(signal.SIGTERM)
        assert main.wait(60 * PATIENCE) == 0
    service.cluster.assert_nothing_left()
