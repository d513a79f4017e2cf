"""Orders for the front: read from people and config.yaml, and what load balancers get of them. Pure."""

from pathlib import Path
from typing import Any

import pytest

from comet.common.errors import UserError
from comet.config.schema import ConfigError, parse
from comet.faults import files
from comet.faults.orders import BootTime, Ordered, apply, change, document, from_dict, to_dict
from comet.state.directory import Cluster
from lb.faults import front_rules, rules
from lb.faults.front_rules import FrontFaults, Request

NOW = BootTime(1000.0, "this-boot")
WHERE = Path("/somewhere/config.yaml")
REQUEST = Request("GET", "/a?x=1", {"x-user": "anna"})


def planned(**request: Any) -> front_rules.FrontPlan:
    """What a load balancer makes of an order."""
    wanted = {name.rstrip("_").replace("_", "-"): value for name, value in request.items()}
    return front_rules.parse(document({}, apply(Ordered(), change(wanted, "front"), NOW, "id"), NOW))


def test_values_have_the_units_that_people_write() -> None:
    base = planned(reset="12%", slow_head="2s", jitter="500ms", slow_body="10kB/s", avg_delay=3).base
    assert (base.reset, base.slow_head, base.jitter, base.slow_body, base.avg_delay) == (12, 2000, 500, 10000, 3)
    base = planned(reset="0.5 %", slow_head="1.5S", slow_body="2 KiB/s", slow_upload="1MiB/s", jitter="1m").base
    assert (base.reset, base.slow_head, base.slow_body, base.jitter) == (0.5, 1500, 2048, 60000)
    assert base.slow_upload == 2**20
    assert change({"memory": "10MiB/s", "bandwidth": "1.5kB", "for": "1.5 s"}).settings == {
        "memory": 10.0,
        "bandwidth": 1500.0,
    }
    text = "avg-delay: 2s\nfailure: 7.5%\nrequest-timeout: 500ms\nhealth-interval: 2m\nfaults: {worker-0: {hang: 5%}}"
    config = parse(text, WHERE)
    assert (config.avg_delay, config.failure, config.request_timeout, config.health_interval) == (2000, 7.5, 0.5, 120)
    assert config.faults == {"worker-0": {"hang": 5.0}}


@pytest.mark.parametrize(
    ("request_fields", "said"),
    [
        ({"failure": "200%"}, "failure: '200%' is out of range"),
        ({"slow-head": "2x"}, "slow-head: '2x' is not a number"),
        ({"refuse": True}, "refuse: needs a time limit, and no count (add --for 5s)"),
        ({"refuse": True, "for": "5s", "count": 2}, "refuse: needs a time limit"),
        ({"headers": "no field"}, "headers: no field is not a header field"),
        ({"headers": ["A: b\r\nC: d"]}, "is not a header field"),
        ({"status": 199}, "status: 199 is out of range"),
        ({"cpu": 1}, "cpu: not known for the front, but for a worker (allowed: "),
        ({"headers": "Content-Length: 3"}, "headers: Content-Length: 3 is not free"),
        ({"headers": ["A: b", "transfer-encoding: chunked"]}, "wrong-length and bad-framing"),
        ({"headers": "Connection: close"}, "headers: Connection: close is not free"),
        ({"path": "/a", "for": "5s"}, "path: says which requests a fault is for (name a fault, too)"),
        ({"method": "PUT", "header": "A", "count": 2}, "method, header: says which requests"),
    ],
)
def test_an_order_that_is_wrong_is_refused(request_fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        change(request_fields, "front")
    assert said in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("target", "path", "is_meant"),
    [
        ("/api/x?y=/z", "/api/*", True),
        ("http://h:80/api/x?y", "/api/*", True),
        ("HTTPS://h/api/x", "/api/x", True),
        ("http://h", "/", True),
        ("http://h?/api/x", "/api/*", False),
        ("/to/http://h/api/x", "/api/*", False),
        ("//h/api/x", "/api/*", False),
        ("*", "/*", False),
    ],
)
def test_a_path_is_that_of_the_target_in_any_form(target: str, path: str, is_meant: bool) -> None:
    assert front_rules.matches({"path": path}, Request("GET", target, {})) == is_meant


def test_orders_of_the_front_outlive_a_supervisor() -> None:
    made = {"front": apply(Ordered(), change({"failure": 5, "headers": "A: b", "body": "1"}, "front"), NOW, "id")}
    assert from_dict(to_dict(made)) == made


def test_a_plan_is_for_balancers_only_with_something_to_do(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    assert files.front_plan(cluster, parse("worker: 1", WHERE)) is None
    asked = files.front_plan(cluster, parse("request-faults: true", WHERE))
    assert asked is not None
    assert front_rules.parse(asked).on_request
    named = files.front_plan(cluster, parse("seed: 7\nfaults: {front: {reset: 5%, path: /a/*}}", WHERE))
    assert named == {"seed": 7, "reset": 5.0, "path": "/a/*"}
    common = files.front_plan(cluster, parse("fault-point: front\nfailure: 3\navg-delay: 0", WHERE))
    assert common == {"seed": None, "failure": 3.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("faults: {front: {refuse: true}}", "needs a time limit"),
        ("faults: {front: {cpu: 1}}", "faults.front.cpu: unknown key"),
        ("fault-point: front\nfaults: {worker-0: {hang: 1}}", "faults.worker-0: acts in a worker or before it"),
    ],
)
def test_a_config_that_is_wrong_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, WHERE)
    assert said in caught.value.problems[0]


def test_each_kind_has_exactly_its_own_share() -> None:
    settings = front_rules.FrontSettings(reset=10, truncate=20, failure=30)
    kinds = [front_rules.sample(settings, number / 1000, 0.5, 0.5).kind for number in range(1000)]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "reset": 100,
        "truncate": 200,
        "failure": 300,
        None: 400,
    }


def test_leases_lie_on_top_of_orders_for_their_requests_only() -> None:
    faults = FrontFaults(lambda: "/nonexistent", "this-boot", "lb-0")
    lease = {"id": "a", "until": 2000.0, "failure": 100.0, "status": 503, "path": "/a"}
    faults.plan = front_rules.parse({"reset": 100.0, "method": "POST", "overrides": [lease]})
    assert faults.next(REQUEST, 1000.0).kind == "failure"
    assert faults.next(Request("GET", "/b", {}), 1000.0).kind is None
    assert faults.next(Request("POST", "/b", {}), 1000.0).kind == "reset"
    assert faults.next(REQUEST, 3000.0).kind is None


def test_a_seed_of_the_config_repeats_the_balancers_draws() -> None:
    def draws(balancer: str) -> list[str | None]:
        faults = rules.Faults("worker-0", lambda: "/nonexistent", "this-boot", balancer)
        faults.plan = rules.parse('{"failure": 50, "seed": 7}')
        return [faults.next(0.0).kind for _ in range(50)]

    assert draws("lb-0") == draws("lb-0")
    assert draws("lb-0") != draws("lb-1")


def test_what_a_request_asks_for_is_read_leniently() -> None:
    assert front_rules.asked("reset") == {"reset": 100.0}
    assert front_rules.asked("failure=30%, status=429, avg-delay=2s, x=1, refuse, seed=1, hang=\x00") == {
        "failure": 30.0,
        "status": 429,
        "avg_delay": 2000.0,
    }
    assert front_rules.asked("slow-body=1 kB/s, garbage=50 %, jitter=1m, slow-head=5%, status=5000, reset=2s") == {
        "slow_body": 1000.0,
        "garbage": 50.0,
        "jitter": 60000.0,
    }
    assert front_rules.asked("delay-distribution=constant, delay-distribution, failure=1e1") == {}
