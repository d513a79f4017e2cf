"""The metrics as Prometheus's own tools see them, and the dashboard that is made of them."""

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.cluster import TestCluster, free_ports, open_cluster
from tests.support.waiting import wait_until
from tests.unit.admin.test_metrics import rendered, samples


def test_promtool_accepts_the_metrics() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=rendered(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[str, TestCluster]]:
    """A private Prometheus that scrapes a small cluster once a second."""
    (tmp_path / "cluster").mkdir()
    with open_cluster(
        tmp_path / "cluster", runtime="process", worker=1, pool=1, failure=0, admin_port=free_ports(1)
    ) as cluster:
        cluster.start()
        port = free_ports(1)
        scrape = f"{{job_name: comet, static_configs: [{{targets: ['127.0.0.1:{cluster.config['admin-port']}']}}]}}"
        (tmp_path / "prometheus.yml").write_text(f"global: {{scrape_interval: 1s}}\nscrape_configs: [{scrape}]\n")
        argv = [
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        process = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield f"http://127.0.0.1:{port}", cluster
        finally:
            process.kill()
            process.wait()
        cluster.stop()


def asked_of(url: str, query: str) -> list[float]:
    """The values that a query gives; none while Prometheus comes up."""
    try:
        answer = requests.get(f"{url}/api/v1/query", params={"query": query}, timeout=10).json()
    except requests.RequestException:
        return []
    return [float(each["value"][1]) for each in answer["data"]["result"]]


def test_prometheus_scrapes_it_and_a_killed_lb_resets_no_counter(
    prometheus: tuple[str, TestCluster],
) -> None:
    url, cluster = prometheus
    for _ in range(25):
        assert cluster.hello().status_code == 200
    wait_until(lambda: asked_of(url, "comet_lb_requests_total") == [25.0], 60, "the count of all requests")
    wait_until(lambda: asked_of(url, 'up{job="comet"}') == [1.0], 60, "a scrape that was in time")
    assert cluster.comet("kill", "lb-0").returncode == 0
    wait_until(lambda: asked_of(url, "sum(comet_replica_restarts_total)") == [1.0], 60, "the restart")
    assert cluster.comet("restart", "lb-0").returncode == 0
    assert cluster.hello().status_code == 200
    wait_until(lambda: asked_of(url, "comet_lb_requests_total") == [26.0], 60, "the next request")
    for name in (
        "comet_lb_requests_total",
        "comet_lb_request_duration_seconds_count",
        "comet_worker_request_duration_seconds_count",
    ):
        assert wait_until(partial(asked_of, url, f"sum(resets({name}[5m]))"), 60, "an answer") == [0.0], name


KILLED_LB = "comet_replica_restarts_total", (("reason", "killed"), ("replica", "lb-0"))


def scraped(cluster: TestCluster) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return samples(requests.get(f"http://127.0.0.1:{cluster.config['admin-port']}/metrics", timeout=10).text)


def counts(
    told: dict[tuple[str, tuple[tuple[str, str], ...]], float],
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of counters and histograms: those that Prometheus takes for a restart where they get smaller."""
    return {key: value for key, value in told.items() if key[0].endswith(("_total", "_bucket", "_count", "_sum"))}


def back(cluster: TestCluster, name: str, restarts: int) -> bool:
    row = cluster.replicas()[name]
    return row["restarts"] == restarts and row["state"] == "ready"


def recovered(cluster: TestCluster, count: int) -> bool:
    return scraped(cluster).get(("comet_recovery_duration_seconds_count", (("kind", "process"),))) == count


def adopted(cluster: TestCluster, before: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> bool:
    """Whether the admin server of the next supervisor has heard of all that was counted; what it has not, it leaves
    out.
    """
    after = counts(scraped(cluster))
    assert {key: (value, after[key]) for key, value in before.items() if key in after and after[key] < value} == {}
    return before.keys() <= after.keys()


def test_adoption_after_a_killed_supervisor_resets_no_counter(tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="process", worker=2, pool=3, admin_port=free_ports(1)) as cluster:
        cluster.start()
        for index in range(30):
            assert cluster.hello(index % 3).status_code == 200
        # What a load balancer that is no more counted of the workers stays counted.
        assert cluster.comet("scale", "pool=2").returncode == 0
        for life in (1, 2):
            for name in ("lb-0", "worker-1"):
                assert cluster.comet("kill", name).returncode == 0
                wait_until(partial(back, cluster, name, life), 30, f"restart {life} of {name}")
            wait_until(partial(recovered, cluster, 2 * life), 30, f"recoveries {2 * life}")
            before = counts(scraped(cluster))
            assert before["comet_replica_restarts_total", (("reason", "killed"), ("replica", "worker-1"))] == life
            supervisor = psutil.Process(cluster.supervisor_pid())
            supervisor.kill()
            supervisor.wait()
            cluster.start()
            wait_until(partial(adopted, cluster, before), 30, "all counts")
            assert counts(scraped(cluster))[KILLED_LB] == life
        cluster.stop()
        cluster.start()
        wait_until(lambda: counts(scraped(cluster)).get(KILLED_LB) == 0, 30, "the counts of a new life")
        cluster.stop()
