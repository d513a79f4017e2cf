"""The metrics as Prometheus's own tools see them, and the dashboard that is made of them."""

import json
import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from comet.admin.metrics import renderer
from tests.support.admin_samples import view_model
from tests.support.cluster import ROOT

DASHBOARD = ROOT / "docs/grafana-dashboard.json"
NAME = re.compile(r"\bcomet_[a-z0-9_]+")


def rendered() -> str:
    return renderer(view_model().snapshot)().decode()


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
    assert (
        told["comet_replica_state", (("kind", "process"), ("replica", "lb-0"), ("role", "lb"), ("state", "ready"))] == 1
    )
    assert told["comet_replica_restarts_total", (("reason", "killed"), ("replica", "lb-0"))] == 1
    assert told["comet_recovery_duration_seconds_sum", (("kind", "process"),)] == 0.015
    assert told["comet_replica_cpu_ratio", (("replica", "lb-0"), ("role", "lb"))] == 0.015
    assert told["comet_supervisor_cpu_ratio", ()] == 0.005
    assert told["comet_supervisor_memory_bytes", ()] == 2048
    assert told["comet_edge_healthy", (("lb", "lb-0"), ("worker", "worker-0"))] == 1


def test_replicas_that_never_died_have_restart_counters_of_zero() -> None:
    told = samples(rendered())
    assert told["comet_replica_restarts_total", (("reason", "crashed"), ("replica", "lb-0"))] == 0
    assert told["comet_replica_restarts_total", (("reason", "killed"), ("replica", "worker-0"))] == 0
    assert told["comet_recovery_duration_seconds_count", (("kind", "container"),)] == 0
    assert told["comet_recovery_duration_seconds_bucket", (("kind", "container"), ("le", "+Inf"))] == 0


def test_without_a_picture_it_says_so() -> None:
    assert samples(renderer(lambda: None)().decode()) == {("comet_up", ()): 0.0}


def test_the_grafana_dashboard_names_all_metrics_and_no_others() -> None:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    asked = {
        name for panel in dashboard["panels"] for target in panel["targets"] for name in NAME.findall(target["expr"])
    }
    told = {name for name, _ in samples(rendered())}
    assert asked - told == set()
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
