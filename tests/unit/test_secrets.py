"""What others may read holds no secret: neither what the admin server shows to who may not write, nor any message that
Comet makes.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from comet.admin.access import masking
from comet.admin.app import create_app
from comet.admin.view_model import ViewModel
from comet.common.errors import UserError
from comet.common.redaction import concealed
from comet.common.yaml_lines import ConfigError
from comet.config.keys import KEYS, LIMITS
from comet.config.schema import parse
from comet.events.event import Event
from comet.events.journal import Journal
from comet.supervisor.admin_feed import public_config
from comet.telemetry.snapshot import Edge, Usage
from tests.support.admin_samples import TOKEN, message, services
from tests.support.user_clients import ALICE
from tests.unit.config.test_schema import WHERE

SECRET = "hunter2"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PATHS = (
    "/",
    "/api/v1/cluster",
    "/api/v1/events",
    "/api/v1/history",
    "/api/v1/openapi.json",
    "/metrics",
    "/healthz",
    "/readyz",
)

CONFIG = f"""
worker: 1
pool: 1
worker-image: me/app:1
worker-command: [serve, --password, {SECRET}, --dsn=postgresql://u:{SECRET}@h/db]
worker-environment: {{DB_PASSWORD: {SECRET}, DATABASE_URL: "postgresql://u:{SECRET}@h/db", PLAIN: the {SECRET} itself}}
worker-volumes: ["/srv/{SECRET}:/data"]
health-path: /healthz?key={SECRET}
stats-dir: postgresql://u:{SECRET}@h/db?password={SECRET}
"""

EVENTS: list[dict[str, Any]] = [
    {"event": "reload_refused", "reason": f"config.yaml:3: worker-environment: {SECRET}: is no good"},
    {
        "event": "replica_start_failed",
        "replica": "worker-0",
        "kind": "container",
        "id": "1",
        "reason": f"no such image: {SECRET}",
    },
    {
        "event": "replica_unhealthy",
        "replica": "worker-0",
        "kind": "container",
        "id": "1",
        "reason": f"answered {SECRET}",
    },
    {"event": "engine_error", "reason": f"pulling https://u:{SECRET}@registry/x failed"},
    {"event": "of_a_later_version", "detail": SECRET, "nested": {"list": [SECRET, {"deep": SECRET}]}},
]


def served(text: str = CONFIG, events: list[dict[str, Any]] = EVENTS) -> FlaskClient:
    """The application of a cluster that is full of secrets, asked by a stranger."""
    told = message()
    cluster = told["cluster"]
    cluster["config"] = json.loads(json.dumps(public_config(parse(text, WHERE))))
    cluster["replicas"][1] |= {
        "reason": f"it printed {SECRET}",
        "health": {"lb-0": {"healthy": False, "reason": f"status 500 {SECRET}"}},
    }
    cluster["edges"] = [{**asdict(Edge("lb-0", "worker-0", 0, 0, None, None, 1, 0, 0, True)), "reason": SECRET}]
    cluster["added-later"] = SECRET
    view_model = ViewModel(lambda pids: {name: Usage(1.5, 2048) for name in pids}, clock=lambda: 0.0)
    past = [{"at": "2026-11-24T10:00:00.000Z", "number": number + 1, **record} for number, record in enumerate(events)]
    view_model.apply({"type": "past", "events": past, "samples": cluster.pop("samples")})
    view_model.apply(told)
    return create_app(services(view_model, lambda name, fields: {}, peer=lambda: ALICE)).test_client()


@pytest.fixture(scope="module")
def stranger() -> FlaskClient:
    return served()


@pytest.mark.parametrize("path", PATHS)
def test_no_answer_to_a_stranger_holds_a_secret(stranger: FlaskClient, path: str) -> None:
    assert SECRET not in stranger.get(path).text


def test_what_is_known_to_be_harmless_is_shown() -> None:
    told = served().get("/api/v1/cluster").get_json()
    assert told["config"]["worker"] == 1
    assert told["config"]["balance"] == "round-robin"
    assert told["config"]["worker-image"] == "me/app:1"
    assert told["config"]["health-path"] == "/healthz?(hidden)"
    assert [name for name, _ in told["config"]["worker-environment"]] == ["DB_PASSWORD", "DATABASE_URL", "PLAIN"]
    assert told["config"]["worker-command"] == "(hidden)"
    assert (told["replicas"][1]["reason"], told["replicas"][1]["state"]) == ("(hidden)", "ready")
    assert [event["event"] for event in told["events"]] == [event["event"] for event in EVENTS]
    assert told["events"][0]["text"] == "reload refused: (hidden)"


@pytest.mark.slow
def test_who_may_write_sees_all_but_the_databases_password() -> None:
    told = served().get("/api/v1/cluster", headers=BEARER).get_json()
    assert ["DB_PASSWORD", SECRET] in told["config"]["worker-environment"]
    assert told["config"]["worker-command"][2] == SECRET
    assert told["config"]["stats-dir"] == "postgresql://u@h/db"
    assert SECRET in served().get("/api/v1/events", headers=BEARER).text
    for headers in ({"Authorization": "Bearer nonsense"}, {"Cookie": "comet-session-80=nonsense"}):
        assert SECRET not in served().get("/api/v1/cluster", headers=headers).text


def test_the_two_views_do_not_take_each_others_place() -> None:
    client = served()
    for _ in range(2):
        assert SECRET in client.get("/api/v1/cluster", headers=BEARER).text
        assert SECRET not in client.get("/api/v1/cluster").text


@pytest.mark.parametrize(
    ("reason", "shown_as"),
    [
        (reason, reason)
        for reason in (
            "connection refused",
            "connection reset",
            "closed without an answer",
            "closed before an answer",
            "connecting timed out",
            "no answer in 2 s",
            "status 503",
            "no HTTP answer",
            "no route to host",
            "network is unreachable",
            "too many open files",
            "cannot assign requested address",
            "not ready within 60 s: no answer in 2 s",
            "not ready within 60 s: GET /healthz: status 503",
            "GET /healthz: connection refused",
            "hung: it keeps the database locked",
            "no progress",
            "not understood",
            "the disk is full (No space left on device): free some space",
        )
    ]
    + [
        (f"GET /healthz?token={SECRET}: status 500", "GET /healthz?(hidden): status 500"),
        (f"GET /healthz: {SECRET}", "GET /healthz: (hidden)"),
        (f"GET {SECRET}: status 500", "(hidden)"),
        (f"no HTTP answer: b'{SECRET}'", "(hidden)"),
    ],
)
def test_a_stranger_reads_why_a_replica_is_not_ready(reason: str, shown_as: str) -> None:
    assert masking.sentence(reason) == shown_as


def test_a_key_that_nobody_has_judged_is_hidden() -> None:
    assert masking.config({"added-later": SECRET, "list": [SECRET], "map": {"a": SECRET}}) == dict.fromkeys(
        ("added-later", "list", "map"), "(hidden)"
    )
    plain = {
        key: value for key, value in public_config(parse("worker: 1\n", WHERE)).items() if value not in ((), {}, [])
    }
    assert [key for key, value in masking.config(plain).items() if value == "(hidden)"] == []
    assert set(plain) <= set(KEYS | LIMITS)


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("connection refused", True),
        ("status 503", True),
        ("hung: no answer for 3 s", True),
        ("hung: it keeps the database locked", True),
        ("not ready within 60 s", True),
        ("worker-3: closed before an answer", True),
        (f"status 503: {SECRET}", False),
        ("no such file: /home/alice/key", False),
        ("the code is 12345678901234", False),
        ("connection refused\u00a0", False),
        ("a" * 100_000 + "!", False),
    ],
)
def test_a_reason_in_our_own_words_is_shown(reason: str, kept: bool) -> None:
    began = time.process_time()
    assert masking.sentence(reason) == (reason if kept else "(hidden)")
    assert time.process_time() - began < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:hunter2@h/db",
        "postgresql://u:hun/hunter2@x@h:5/db?x=1",
        "postgresql:///db?password=hunter2&host=x",
        "postgresql://h/db?user=u&sslpassword=hunter2",
        "postgresql:/u:hunter2@h",
        "host=h password=hunter2 dbname=x",
        "host=h password='the hunter2' dbname=x",
        "redis://:hunter2@h",
        "https://ghp_hunter2hunter2hunter2@github.com/x",
        "{'DB_PASSWORD': 'hunter2', 'A': 1}",
        '{"token": "hunter2"}',
        "['--password', 'hunter2']",
        "serve --db-password hunter2",
        "serve --db-password=hunter2",
        "API_KEY=hunter2",
        "MYSQL_PWD=hunter2",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        "x?client_secret=hunter2",
        "PASSWORD%3Dhunter2",
        "Server=x;Password=hunter2;",
    ],
)
def test_no_message_repeats_a_password(text: str, tmp_path: Path) -> None:
    for said in (text, repr(text), f"config.yaml:3: worker: {text!r} is not a whole number (allowed: 0 to 200)"):
        assert SECRET not in concealed(said), concealed(said)
        assert SECRET not in UserError(said).message
        assert SECRET not in str(UserError(said))
    with pytest.raises(ConfigError) as caught:
        parse(
            "".join(
                f"{key}: {json.dumps(text)}\n" for key in KEYS if key not in ("stats-dir", "faults", "worker-command")
            ),
            WHERE,
        )
    assert SECRET not in caught.value.message
    assert SECRET not in "".join(caught.value.problems)
    with pytest.raises(ConfigError) as caught:
        parse(f"{json.dumps(text)}: 1\n", WHERE)
    assert SECRET not in caught.value.message
    journal = Journal(tmp_path / "events.jsonl")
    journal.write(Event("engine_error", None, {"reason": text}))
    journal.close()
    assert SECRET not in (tmp_path / "events.jsonl").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "config.yaml:3: admin-port: port 5040 is taken by python (PID 3) (choose another, or stop its holder)",
        "http://127.0.0.1:5050/api/v1/hello",
        "the token is not that of .comet/admin.token",
        "worker-environment: DB_PASSWORD: a list is not text",
        "postgresql://u@h/db cannot be reached",
        "worker=4 pool=2",
    ],
)
def test_other_messages_stay_as_they_are(text: str) -> None:
    assert concealed(text) == text


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["a", "a:", "://a:", "password", "password=", "'token': ", "--token ", "x@", "a.password", "%3d", '"']
)
def test_no_text_takes_long(piece: str) -> None:
    began = time.process_time()
    concealed(piece * (100_000 // len(piece)))
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "line",
    [
        f"worker-environment: {SECRET}-{SECRET}",
        f"worker-environment: [{SECRET}, A={SECRET}]",
        f"worker-environment: {{DB_PASS: [{SECRET}]}}",
        f"worker-environment: {{DB_PASS: {{x: {SECRET}}}}}",
        f"worker-command: 'serve \"{SECRET}'",
        f"worker-command: {{serve: {SECRET}}}",
        f"worker-command: [[{SECRET}]]",
    ],
)
def test_an_error_in_a_secret_value_does_not_quote_it(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"worker-image: app\n{line}\n", WHERE)
    assert SECRET not in caught.value.message
