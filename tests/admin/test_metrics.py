"""The metrics as Prometheus's own tools see them, and the dashboard that is made of them."""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from comet.admin.metrics import renderer
from tests.admin.samples import picture
from tests.integration.clusters import ROOT, House, eventually, free_ports, house

DASHBOARD = ROOT / "docs/grafana-dashboard.json"
NAME = re.compile(r"\bcomet_[a-z0-9_]+")


def rendered() -> str:
    return renderer(picture().snapshot)().decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and its labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_it_tells_what_the_picture_shows() -> None:
    told = samples(rendered())
    assert told["comet_lb_requests_total", (("lb", "lb-0"),)] == 100
    assert told["comet_lb_responses_total", (("code", "5xx"), ("lb", "lb-0"))] == 10
    assert told["comet_worker_responses_total", (("code", "2xx"), ("worker", "worker-0"))] == 90
    assert told["comet_lb_request_duration_seconds_count", (("lb", "lb-0"),)] == 100
    assert told["comet_lb_request_duration_seconds_bucket", (("lb", "lb-0"), ("le", "0.004096"))] == 0
    assert told["comet_lb_request_duration_seconds_bucket", (("lb", "lb-0"), ("le", "0.008192"))] == 100
    assert told["comet_replica_state", (("kind", "process"), ("replica", "lb-0"), ("role", "lb"), ("state", "ready"))] == 1
    assert told["comet_replica_restarts_total", (("reason", "killed"), ("replica", "lb-0"))] == 1
    assert told["comet_recovery_duration_seconds_sum", (("kind", "process"),)] == 0.015
    assert told["comet_replica_cpu_ratio", (("replica", "lb-0"), ("role", "lb"))] == 0.015
    assert told["comet_supervisor_cpu_ratio", ()] == 0.005
    assert told["comet_supervisor_memory_bytes", ()] == 2048
    assert told["comet_edge_healthy", (("lb", "lb-0"), ("worker", "worker-0"))] == 1


def test_what_never_died_is_told_as_nought_so_that_its_first_death_is_an_increase() -> None:
    told = samples(rendered())
    assert told["comet_replica_restarts_total", (("reason", "crashed"), ("replica", "lb-0"))] == 0
    assert told["comet_replica_restarts_total", (("reason", "killed"), ("replica", "worker-0"))] == 0
    assert told["comet_recovery_duration_seconds_count", (("kind", "container"),)] == 0
    assert told["comet_recovery_duration_seconds_bucket", (("kind", "container"), ("le", "+Inf"))] == 0


def test_without_a_picture_it_says_so() -> None:
    assert samples(renderer(lambda: None)().decode()) == {("comet_up", ()): 0.0}


def test_the_dashboard_names_only_metrics_that_exist_and_misses_none() -> None:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    asked = {name for panel in dashboard["panels"] for target in panel["targets"] for name in NAME.findall(target["expr"])}
    told = {name for name, _ in samples(rendered())}
    assert asked - told == set()
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))


@pytest.mark.slow
def test_promtool_finds_nothing_to_say() -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=rendered(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[str, House]]:
    """A private Prometheus that scrapes a small cluster once a second."""
    (tmp_path / "cluster").mkdir()
    with house(tmp_path / "cluster", runtime="process", worker=1, pool=1, failure=0, admin_port=free_ports(1)) as cluster:
        cluster.start()
        port = free_ports(1)
        scrape = f"{{job_name: comet, static_configs: [{{targets: ['127.0.0.1:{cluster.config['admin-port']}']}}]}}"
        (tmp_path / "prometheus.yml").write_text(f"global: {{scrape_interval: 1s}}\nscrape_configs: [{scrape}]\n")
        argv = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]
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


@pytest.mark.slow
def test_a_real_prometheus_scrapes_it_and_no_count_goes_back_with_a_load_balancer(prometheus: tuple[str, House]) -> None:
    url, cluster = prometheus
    for _ in range(25):
        assert cluster.hello().status_code == 200
    eventually(lambda: asked_of(url, "comet_lb_requests_total") == [25.0], 60, "the count of all requests")
    assert asked_of(url, 'up{job="comet"}') == [1.0]
    assert cluster.comet("kill", "lb-0").returncode == 0
    eventually(lambda: asked_of(url, "sum(comet_replica_restarts_total)") == [1.0], 60, "the restart")
    assert cluster.comet("restart", "lb-0").returncode == 0
    assert cluster.hello().status_code == 200
    eventually(lambda: asked_of(url, "comet_lb_requests_total") == [26.0], 60, "the next request")
    for name in ("comet_lb_requests_total", "comet_lb_request_duration_seconds_count", "comet_worker_request_duration_seconds_count"):
        assert asked_of(url, f"sum(resets({name}[5m]))") == [0.0], name


def scraped(cluster: House) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return samples(requests.get(f"http://127.0.0.1:{cluster.config['admin-port']}/metrics", timeout=10).text)


def counts(told: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of counters and histograms: those that Prometheus takes for a restart where they get smaller."""
    return {key: value for key, value in told.items() if key[0].endswith(("_total", "_bucket", "_count", "_sum"))}


def back(cluster: House, name: str, restarts: int) -> bool:
    row = cluster.replicas()[name]
    return row["restarts"] == restarts and row["state"] == "ready"


def recovered(cluster: House, count: int) -> bool:
    return scraped(cluster)["comet_recovery_duration_seconds_count", (("kind", "process"),)] == count


def test_no_count_goes_back_when_the_supervisor_is_killed_and_another_adopts_what_it_left(tmp_path: Path) -> None:
    with house(tmp_path, runtime="process", worker=2, pool=3, admin_port=free_ports(1)) as cluster:
        cluster.start()
        for index in range(30):
            assert cluster.hello(index % 3).status_code == 200
        # What a load balancer that is no more counted of the workers stays counted.
        assert cluster.comet("scale", "pool=2").returncode == 0
        for life in (1, 2):
            for name in ("lb-0", "worker-1"):
                assert cluster.comet("kill", name).returncode == 0
                eventually(partial(back, cluster, name, life), 30, f"restart {life} of {name}")
            eventually(partial(recovered, cluster, 2 * life), 30, f"recoveries {2 * life}")
            before = counts(scraped(cluster))
            assert before["comet_replica_restarts_total", (("reason", "killed"), ("replica", "worker-1"))] == life
            supervisor = psutil.Process(cluster.supervisor_pid())
            supervisor.kill()
            supervisor.wait()
            cluster.start()
            after = counts(scraped(cluster))
            assert {key: (value, after.get(key)) for key, value in before.items() if after.get(key, -1.0) < value} == {}
            assert after["comet_replica_restarts_total", (("reason", "killed"), ("replica", "lb-0"))] == life
        cluster.stop()
        cluster.start()
        assert counts(scraped(cluster))["comet_replica_restarts_total", (("reason", "killed"), ("replica", "lb-0"))] == 0
        cluster.stop()
