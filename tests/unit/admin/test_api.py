"""What the API answers, and every way in for those who have no business here. Without a cluster or a socket."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from comet.admin.app import MAX_BODY, create_app
from comet.common.errors import Busy, Unknown, UserError
from comet.state.control_socket import NotAnswering
from tests.support.admin_samples import TOKEN, services, view_model

BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Asked:
    """What commands came through; `answer` may raise."""

    commands: list[tuple[str, dict[str, Any]]]
    answer: Callable[[], Any]

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.commands = []
        self.answer = dict

    def __call__(self, name: str, fields: dict[str, Any]) -> Any:
        self.commands.append((name, fields))
        return self.answer()


@pytest.fixture(scope="module")
def shared() -> tuple[Asked, Flask]:
    """An application for all tests here, as its routes take longer to compile than most requests do."""
    asked, seen = Asked(), view_model()
    return asked, create_app(services(seen, asked))


@pytest.fixture
def asked(shared: tuple[Asked, Flask]) -> Asked:
    shared[0].forget()
    return shared[0]


@pytest.fixture
def client(asked: Asked, shared: tuple[Asked, Flask]) -> FlaskClient:
    return shared[1].test_client()


def test_the_cluster_tells_all_that_a_board_needs(client: FlaskClient) -> None:
    told = client.get("/api/v1/cluster").get_json()
    balancer, worker = told["replicas"]
    assert (balancer["name"], balancer["cpu_percent"], balancer["requests_per_s"]) == ("lb-0", 1.5, 100.0)
    assert worker["health"] == {"lb-0": {"healthy": True, "reason": None}}
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
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:5040", "0.0.0.0", "127.1", "", "a@localhost"],
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
        assert client.post("/api/v1/reload", json={}, headers={**headers, "Cookie": cookie}).status_code == status, (
            headers
        )
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
        client.post(
            "/api/v1/kill", data=b'{"name": "' + b"x" * MAX_BODY, headers=BEARER, content_type="application/json"
        ).status_code
        == 413
    )
    for body in (
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b'{"name": 5}',
        b'{"name": "lb-0", "sig": 1}',
        b"[" * 50000,
        b"\xff",
    ):
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


@pytest.mark.parametrize(
    "path", ["/../app.py", "/..%2fapp.py", "/%2e%2e/app.py", "/....//app.py", "/.%00", "/%2fetc%2fpasswd"]
)
def test_only_the_pages_files_are_served(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unknown("lb-9: no such replica", 2), 404),
        (Busy("a scale is under way"), 409),
        (UserError("port 5 is taken"), 409),
        (UserError("worker: out of range", 2), 400),
        (NotAnswering("the supervisor does not answer"), 503),
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


@pytest.mark.slow
def test_who_prefers_to_wait_is_told_the_end_of_a_long_operation(
    client: FlaskClient, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comet.admin.app.RESULT_TIMEOUT", 0.02)
    over = threading.Event()
    asked.answer = lambda: over.wait(30)
    assert client.post("/api/v1/restart", json={"target": "lb"}, headers=BEARER).status_code == 202
    threading.Timer(0.3, over.set).start()
    waited = client.post("/api/v1/restart", json={"target": "lb"}, headers={**BEARER, "Prefer": "wait=20"})
    assert (waited.status_code, waited.get_json()) == (200, {"done": "restart", "result": True})


def test_those_who_wait_leave_threads_for_others(
    client: FlaskClient, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comet.admin.app.RESULT_TIMEOUT", 0.02)
    over = threading.Event()
    asked.answer = lambda: over.wait(30)

    def post() -> int:
        headers = {**BEARER, "Prefer": "wait=20"}
        return (
            client.application.test_client().post("/api/v1/restart", json={"target": "lb"}, headers=headers).status_code
        )

    with ThreadPoolExecutor(3) as pool:
        posted = [pool.submit(post) for _ in range(3)]
        done, waiting = wait(posted, return_when=FIRST_COMPLETED)
        over.set()
    assert [each.result() for each in done] == [202]
    assert [each.result() for each in waiting] == [200, 200]


@pytest.mark.parametrize(
    ("command", "body", "said"),
    [
        ("kill", '{"name": "lb-0", "signal": "\u0669"}', "signal: no such signal"),
        ("kill", '{"name": "lb-0", "signal": "\u00b2"}', "signal: no such signal"),
        ("kill", '{"name": "lb-0", "signal": "\u017fIGKILL"}', "signal: no such signal"),
        ("kill", '{"name": "lb-0", "signal": "-9"}', "signal: no such signal"),
        ("kill", '{"name": "lb-0", "signal": 9.0}', "signal: must be a name or a number"),
        ("kill", '{"name": "lb-0", "signal": true}', "signal: must be a name or a number"),
        ("kill", '{"name": "lb-0", "signal": null}', "signal: must be a name or a number"),
        ("kill", "{}", "name: must be a replica's name"),
        ("kill", '{"name": ""}', "name: must be a replica's name"),
        ("kill", '{"name": "lb-0", "name": "lb-1"}', "name: appears twice in the body"),
        ("restart", "{}", "target: must be a replica's name, worker, lb or all"),
        ("scale", "{}", "scale: worker, pool or both must be given"),
        ("scale", '{"worker": NaN}', "the body is not JSON: NaN is not a number"),
        ("scale", '{"worker": 1e999}', "worker: inf is not a whole number"),
        ("scale", '{"worker": "\u0663"}', "worker: '\u0663' is not a whole number"),
        ("scale", '{"worker": 1' + "0" * 5000 + "}", "the body has a number that is too long"),
        ("scale", '{"worker": 1,}', "the body is not JSON: "),
        ("stop", "", "the body is empty; it must be a JSON object"),
        ("stop", " \n", "the body is empty; it must be a JSON object"),
        ("stop", "worker=4", "the body is not JSON: expecting value at character 1"),
        ("stop", "[]", "the body must be a JSON object"),
        ("stop", "null", "the body must be a JSON object"),
        ("stop", "[" * 30_000, "the body is nested too deeply"),
        ("stop", "\ufeff{}", "the body is not JSON: "),
    ],
)
def test_a_bad_body_is_refused_in_plain_words(
    client: FlaskClient, asked: Asked, command: str, body: str, said: str
) -> None:
    answer = client.post(f"/api/v1/{command}", data=body.encode(), headers=BEARER, content_type="application/json")
    assert (answer.status_code, asked.commands) == (400, [])
    assert answer.get_json()["error"].startswith(said)


@pytest.mark.parametrize("after", ["\u0669", "-1", "nan", "x", "", "1e400", "9" * 5000])
def test_a_number_that_is_none_is_refused(client: FlaskClient, after: str) -> None:
    for path in ("events", "history"):
        assert client.get(f"/api/v1/{path}", query_string={"after": after}).status_code == 400


# Inspection.


REPORT: dict[str, Any] = {"machine": {"kernel": "6.1.0", "host": "PID 1"}, "replicas": [], "rows": []}


class Inspected:
    """What was asked for; `answer` may raise."""

    def __init__(self) -> None:
        self.names: list[list[str]] = []
        self.answer: Callable[[], dict[str, Any]] = lambda: REPORT

    def __call__(self, names: list[str]) -> dict[str, Any]:
        self.names.append(names)
        return self.answer()


@pytest.fixture
def inspected() -> Inspected:
    return Inspected()


@pytest.fixture
def inspecting(asked: Asked, inspected: Inspected) -> FlaskClient:
    seen = view_model()
    return create_app(services(seen, asked, inspect=inspected)).test_client()


def test_an_inspection_is_for_those_who_may_write(inspecting: FlaskClient, inspected: Inspected) -> None:
    path = "/api/v1/inspect?name=lb-0&name=worker-0"
    refused = inspecting.get(path)
    assert refused.status_code == 401
    assert "supervisor.py dashboard" in refused.get_json()["error"]
    for headers in ({"Authorization": "Bearer wrong"}, {"Sec-Fetch-Site": "cross-site"}):
        assert inspecting.get(path, headers=headers).status_code == 401
    assert inspected.names == []
    assert inspecting.get(path, headers=BEARER).get_json() == REPORT
    cookie = session(inspecting)
    assert inspecting.get(path, headers={"Host": "localhost:5040", "Cookie": cookie}).status_code == 200
    assert inspected.names == [["lb-0", "worker-0"]] * 2
    foreign = {"Host": "localhost:5040", "Cookie": cookie, "Sec-Fetch-Site": "cross-site"}
    assert inspecting.get(path, headers=foreign).status_code == 401


@pytest.mark.parametrize("query", ["", "?name=", "?name=a&name=", "?names=lb-0", "?" + "&".join(["name=lb-0"] * 9)])
def test_an_inspection_of_none_or_too_many_is_refused(
    inspecting: FlaskClient, inspected: Inspected, query: str
) -> None:
    refused = inspecting.get(f"/api/v1/inspect{query}", headers=BEARER)
    assert refused.status_code == 400
    assert "1 to 8 times" in refused.get_json()["error"]
    assert inspected.names == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unknown("worker-9: no such replica runs", 2), 404),
        (UserError("it runs on h2"), 409),
        (UserError("bad", 2), 400),
    ],
)
def test_what_cannot_be_inspected_is_told(
    inspecting: FlaskClient, inspected: Inspected, error: UserError, status: int
) -> None:
    def fail() -> dict[str, Any]:
        raise error

    inspected.answer = fail
    refused = inspecting.get("/api/v1/inspect?name=worker-9", headers=BEARER)
    assert (refused.status_code, refused.get_json()) == (status, {"error": error.message})
    inspected.answer = lambda: REPORT
    assert inspecting.get("/api/v1/inspect?name=lb-0", headers=BEARER).status_code == 200, "the turn was given back"


def test_inspections_take_turns(inspecting: FlaskClient, inspected: Inspected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comet.admin.app.INSPECTION_WAIT", 0.01)
    begun, release = threading.Event(), threading.Event()

    def slow() -> dict[str, Any]:
        begun.set()
        release.wait(120)
        return REPORT

    inspected.answer = slow
    path = "/api/v1/inspect?name=lb-0"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: inspecting.get(path, headers=BEARER).status_code)
        assert begun.wait(120)
        assert inspecting.get(path, headers=BEARER).status_code == 503
        release.set()
        assert first.result(120) == 200


def test_logs_are_for_those_who_may_write(asked: Asked) -> None:
    seen, read = view_model(), []

    def logs(names: list[str], lines: int) -> list[dict[str, str]]:
        read.append((names, lines))
        if "worker-9" in names:
            raise Unknown("worker-9: no such replica")
        return [{"name": name, "text": "a <b>line</b>"} for name in names]

    client = create_app(services(seen, asked, peer=lambda: 1, logs=logs)).test_client()
    refused = client.get("/api/v1/logs?name=worker-0")
    assert refused.status_code == 401
    assert "reading logs needs" in refused.get_json()["error"]
    assert read == []
    given = client.get("/api/v1/logs?name=worker-0&name=lb-0&lines=7", headers=BEARER)
    assert [each["name"] for each in given.get_json()["logs"]] == ["worker-0", "lb-0"]
    assert given.content_type == "application/json"
    assert read == [(["worker-0", "lb-0"], 7)]
    assert client.get("/api/v1/logs?name=worker-9", headers=BEARER).status_code == 404
    for query in ("", "name=", "name=worker-0&lines=0", "name=worker-0&lines=101", "name=worker-0&lines=x"):
        assert client.get(f"/api/v1/logs?{query}", headers=BEARER).status_code == 400, query


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"rate": 20}, {"rate": 20.0, "for": 300.0}),
        ({"rate": 0, "for": 5}, {"rate": 0.0, "for": 5.0}),
        ({"rate": 101}, None),
        ({"rate": -1}, None),
        ({"rate": True}, None),
        ({"rate": "20"}, None),
        ({"rate": 20, "for": 301}, None),
        ({}, None),
    ],
)
def test_the_load_of_the_page_is_bounded(
    client: FlaskClient, asked: Asked, body: dict[str, Any], sent: dict[str, Any] | None
) -> None:
    assert client.post("/api/v1/load", json=body).status_code == 401
    assert client.post("/api/v1/load", json=body, headers=BEARER).status_code == (400 if sent is None else 200)
    assert asked.commands == ([] if sent is None else [("load", sent)])


def test_a_silent_supervisor_is_named_with_its_trouble() -> None:
    now = [0.0]
    seen = view_model(clock=lambda: now[0])
    assert json.loads(seen.cluster() or b"")["supervisor"]["problem"] is None
    now[0] = 6.0
    told = json.loads(seen.cluster() or b"")
    assert (told["silent_s"], told["supervisor"]["problem"]) == (6.0, "not answering")
