"""The API held to its own description, and every way in for those who have no business here. Without a cluster or a socket."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import pytest
import schemathesis
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from comet.admin.app import MAX_BODY, Services, create_app
from comet.admin.metrics import renderer
from comet.control import Silent
from comet.errors import Busy, Unknown, UserError
from tests.admin.samples import TOKEN, picture

BEARER = {"Authorization": f"Bearer {TOKEN}"}
CHECKS: list[Any] = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, negative_data_rejection,
    unsupported_method,
]  # fmt: skip


class Asked:
    """What commands came through; `answer` may raise."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.answer: Callable[[], Any] = dict

    def __call__(self, name: str, fields: dict[str, Any]) -> Any:
        self.commands.append((name, fields))
        return self.answer()


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def client(asked: Asked) -> FlaskClient:
    seen = picture()
    return create_app(Services(seen, TOKEN, asked, renderer(seen.snapshot))).test_client()


def api_schema() -> Any:
    seen = picture()
    return schemathesis.openapi.from_wsgi("/api/v1/openapi.json", create_app(Services(seen, TOKEN, Asked(), renderer(seen.snapshot))))


@api_schema().parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case: schemathesis.Case) -> None:
    case.call_and_validate(headers=BEARER, checks=CHECKS)


def test_the_cluster_tells_all_that_a_board_needs(client: FlaskClient) -> None:
    told = client.get("/api/v1/cluster").get_json()
    balancer, worker = told["replicas"]
    assert (balancer["name"], balancer["cpu_percent"], balancer["requests_per_s"]) == ("lb-0", 1.5, 100.0)
    assert worker["health"] == {"lb-0": None}
    assert worker["faults"] == {"failure": 10.0}
    assert told["edges"][0]["errors_per_s"] == 10.0
    assert told["history"]["requests_per_s"] == [100.0]
    assert [event["number"] for event in told["events"]] == [1, 2, 3]
    assert [event["number"] for event in client.get("/api/v1/events?after=2").get_json()["events"]] == [3]
    assert len(client.get("/api/v1/events?after=99").get_json()["events"]) == 3
    assert client.get("/api/v1/history?after=1001").get_json()["at"] == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:5040", "[::1]:1", "LOCALHOST"])
def test_this_machine_may_read_by_its_own_names(client: FlaskClient, host: str) -> None:
    assert client.get("/api/v1/cluster", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/v1/cluster", "/metrics", "/healthz", "/nowhere", "/api/v1/openapi.json"])
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:5040", "0.0.0.0", "127.1", "", "a@localhost"]
)
def test_a_rebound_name_is_refused(client: FlaskClient, path: str, host: str) -> None:
    refused = client.get(path, headers={"Host": host})
    assert refused.status_code == 403
    assert "Set-Cookie" not in refused.headers


def session(client: FlaskClient) -> str:
    """The cookie that the dashboard gives."""
    given = client.get("/", headers={"Host": "localhost:5040"}).headers["Set-Cookie"]
    assert "HttpOnly" in given
    assert "SameSite=Strict" in given
    return given.partition(";")[0]


SELF = {"Host": "localhost:5040", "Origin": "http://localhost:5040"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (BEARER, 200),
        (BEARER | SELF, 200),
        ({}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer ümläut"}, 401),
        ({"Cookie": "comet-session-5040=dashboard.forged.signature", **SELF}, 401),
        (BEARER | {"Origin": "http://evil.example"}, 403),
        (BEARER | {"Origin": "null"}, 403),
        (BEARER | {"Host": "localhost:5040", "Origin": "http://localhost:5050"}, 403),
        (BEARER | {"Host": "localhost:5040", "Origin": "https://localhost:5040"}, 403),
        (BEARER | {"Sec-Fetch-Site": "cross-site"}, 403),
        (BEARER | {"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_who_may_write(client: FlaskClient, asked: Asked, headers: dict[str, str], status: int) -> None:
    answer = client.post("/api/v1/kill", json={"name": "lb-0"}, headers=headers)
    assert answer.status_code == status
    assert asked.commands == ([("kill", {"name": "lb-0", "signal": "KILL"})] if status == 200 else [])


def test_the_dashboards_session_writes_from_the_dashboard_only(client: FlaskClient, asked: Asked) -> None:
    cookie = session(client)
    for headers, status in (
        (SELF, 200),
        ({"Host": "localhost:5040"}, 403),
        (SELF | {"Origin": "http://localhost:5050"}, 403),
        (SELF | {"Host": "127.0.0.1:5040"}, 403),
        ({"Host": "localhost:5041", "Origin": "http://localhost:5041"}, 401),
    ):
        assert client.post("/api/v1/reload", json={}, headers={**headers, "Cookie": cookie}).status_code == status, headers
    assert asked.commands == [("reload", {})]


def test_a_form_of_another_site_is_refused(client: FlaskClient, asked: Asked) -> None:
    """What a browser sends without asking first: a simple request, with the cookie of a lax browser."""
    cookie = session(client)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        headers = {"Host": "localhost:5040", "Origin": "http://evil.example", "Cookie": cookie, "Content-Type": kind}
        assert client.post("/api/v1/stop", data="{}", headers=headers).status_code == 403
        assert client.post("/api/v1/stop", data="{}", headers={**BEARER, "Content-Type": kind}).status_code == 415
    assert client.get("/api/v1/stop").status_code == 405
    assert asked.commands == []


def test_bodies_are_bounded_and_nonsense_is_told(client: FlaskClient, asked: Asked) -> None:
    assert (
        client.post("/api/v1/kill", data=b'{"name": "' + b"x" * MAX_BODY, headers=BEARER, content_type="application/json").status_code
        == 413
    )
    for body in (b"", b"{", b"[]", b'"x"', b"null", b'{"name": 5}', b'{"name": "lb-0", "sig": 1}', b"[" * 50000, b"\xff"):
        answer = client.post("/api/v1/kill", data=body, headers=BEARER, content_type="application/json")
        assert (answer.status_code, list(answer.get_json())) == (400, ["error"]), body[:20]
    assert asked.commands == []


@pytest.mark.parametrize("path", ["/", "/api/v1/cluster", "/nowhere", "/metrics"])
def test_nobody_frames_it_and_nothing_is_loaded_from_elsewhere(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert (headers["X-Frame-Options"], headers["X-Content-Type-Options"]) == ("DENY", "nosniff")
    assert "Access-Control-Allow-Origin" not in headers


def test_only_the_script_that_came_with_the_page_runs_in_it(client: FlaskClient) -> None:
    page = client.get("/")
    inline = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert len(inline) == 1
    hashed = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
    assert f"script-src 'self' 'sha256-{hashed}';" in page.headers["Content-Security-Policy"]
    assert "sha256" not in client.get("/app.js").headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/../app.py", "/..%2fapp.py", "/%2e%2e/app.py", "/....//app.py", "/.%00", "/%2fetc%2fpasswd"])
def test_only_the_pages_files_are_served(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unknown("lb-9: no such replica", 2), 404),
        (Busy("a scale is under way"), 409),
        (UserError("port 5 is taken"), 409),
        (UserError("worker: out of range", 2), 400),
        (Silent("the supervisor does not answer"), 503),
        (ConnectionError("gone"), 503),
        (RuntimeError("a defect"), 500),
    ],
)
def test_refusals_keep_their_words(client: FlaskClient, asked: Asked, error: Exception, status: int) -> None:
    def refuse() -> None:
        raise error

    asked.answer = refuse
    answer = client.post("/api/v1/restart", json={"target": "lb"}, headers=BEARER)
    assert (answer.status_code, list(json.loads(answer.data))) == (status, ["error"])


def test_who_prefers_to_wait_is_told_the_end_of_a_long_operation(
    client: FlaskClient, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comet.admin.app.PATIENCE", 0.02)
    over = threading.Event()
    asked.answer = lambda: over.wait(30)
    assert client.post("/api/v1/restart", json={"target": "lb"}, headers=BEARER).status_code == 202
    threading.Timer(0.3, over.set).start()
    waited = client.post("/api/v1/restart", json={"target": "lb"}, headers={**BEARER, "Prefer": "wait=20"})
    assert (waited.status_code, waited.get_json()) == (200, {"done": "restart", "result": True})


def test_those_who_wait_leave_threads_for_others(client: FlaskClient, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comet.admin.app.PATIENCE", 0.02)
    over = threading.Event()
    asked.answer = lambda: over.wait(30)

    def post() -> int:
        headers = {**BEARER, "Prefer": "wait=20"}
        return client.application.test_client().post("/api/v1/restart", json={"target": "lb"}, headers=headers).status_code

    with ThreadPoolExecutor(3) as pool:
        posted = [pool.submit(post) for _ in range(3)]
        done, waiting = wait(posted, return_when=FIRST_COMPLETED)
        over.set()
    assert [each.result() for each in done] == [202]
    assert [each.result() for each in waiting] == [200, 200]
