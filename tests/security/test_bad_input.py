"""Input that nobody would write ends in one clear line and loses nothing: no traceback, no hang, no endless start."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import requests

from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until
from tests.unit.config.test_bad_input import ALIASES

ODD_EVENTS = [
    '{"event":"replica_exited","replica":{"a":1},"number":"7","at":5,"detect_ms":"x","code":[1]}',
    '{"event":"replica_ready","replica":"worker-0","kind":"process","timeline_ms":[1],"start_ms":"x"}',
    '{"event":"replica_ready","replica":"worker-0","kind":"process","timeline_ms":{"died":"x"}}',
    '{"event":"replica_ready","replica":"worker-0","timeline_ms":{},"number":99999999999999999999}',
    '{"event":"backoff_entered","delay_ms":null}',
    '{"event":"faults_changed","settings":[1],"for_s":"x"}',
    '{"event":"reloaded","changed":5}',
    '{"event":"odd\\u001b[2J","x":"\\ud800","y":1e999}',
    '{"event":["x"]}',
    '{"event":null}',
    '{"event":""}',
    '{"event":" \\n\\t "}',
    "5",
    "[" * 100_000,
    '{"event":"' + "x" * 3_000_000,
    '{"event":"reload_refused","reason":"a\\u001b[31mred"}',
]
ODD_STATES = [
    "[]",
    "5",
    '"x"',
    "null",
    '{"version":1}',
    '{"version":1,"replicas":[5]}',
    "[" * 100_000,
    "\xff",
    '{"version":1,"replicas":{}}',
]
ODD_FIELDS = [
    ("pid", 10**30),
    ("pid", "x"),
    ("pid", 2**31),
    ("create_time", 1e300),
    ("last_exit", [1]),
    ("control", "/x"),
    ("name", "../x"),
]
BROKEN = ["# a comment \x01\n", ALIASES, "worker: !!bool x\n"]


def test_commands_that_need_no_config_work_although_it_is_broken(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    config = cluster.folder / "config.yaml"
    good = config.read_text()
    for content in BROKEN:
        config.write_text(content)
        for command in (["ps", "--json"], ["events", "--tail", "3"], ["logs", "worker-0"], ["scale", "worker=1"]):
            done = cluster.comet(*command, timeout=20)
            assert (done.returncode, done.stderr) == (0, ""), (content[:20], command)
        refused = cluster.comet("reload", timeout=30)
        assert refused.returncode == 2
        assert refused.stderr.startswith("config.yaml:")
        assert refused.stderr.count("\n") == 1
    started = cluster.comet("run")
    assert started.returncode in (1, 2)
    assert "Traceback" not in started.stderr
    os.kill(cluster.ps()["supervisor"]["pid"], signal.SIGKILL)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])
    for content in BROKEN:
        config.write_text(content)
        for command in (["ps"], ["events"], ["logs", "worker-0"]):
            assert cluster.comet(*command, timeout=20).returncode == 0
    config.unlink()
    os.mkfifo(config)  # Whoever opens it waits for ever.
    stopped = cluster.comet("stop", timeout=30)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    config.unlink()
    config.write_text(good)
    cluster.assert_nothing_left()


def test_state_files_of_any_content_prevent_no_start(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process", **{"admin-port": 0})
    cluster.write(admin_port=cluster.config["worker-port"] + 5)
    cluster.start()
    state = cluster.folder / ".comet"
    os.kill(cluster.ps()["supervisor"]["pid"], signal.SIGKILL)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])
    true = (state / "state.json").read_text()

    def say(text: str) -> None:
        for name in ("state.json", "state.json.spare"):
            (state / name).write_text(text)

    for text in ODD_STATES:
        say(text)
        assert [row["name"] for row in cluster.ps()["replicas"]] == ["lb-0", "worker-0"], text[:20]
    for field, value in ODD_FIELDS:
        told = json.loads(true)
        for record in told["replicas"]:
            record[field] = value
        say(json.dumps(told))
        assert [row["name"] for row in cluster.ps()["replicas"]] == ["lb-0", "worker-0"], field
    with open(state / "events.jsonl", "a") as journal:
        journal.write("\n".join(ODD_EVENTS) + "\n")
        journal.write('{"torn":')
    for name in ("scale.json", "faults.json", "run/recoveries.json"):
        (state / name).write_text('{"version":1,"workers":[5],"config":"33","scale":"44","number":"x"}')
    done = cluster.comet("run", "--detach", timeout=60)
    assert done.returncode == 0, done.stderr
    shown = cluster.comet("events", "--tail", "1000")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    assert "reload refused: a\\x1b[31mred" in shown.stdout
    assert all(line.strip() for line in shown.stdout.splitlines())
    # The admin server was started once, and answers.
    url = f"http://127.0.0.1:{cluster.config['admin-port']}"
    wait_until(lambda: requests.get(f"{url}/api/v1/cluster", timeout=120).status_code == 200, what="the first state")
    assert requests.get(f"{url}/metrics", timeout=120).status_code == 200
    assert requests.get(f"{url}/api/v1/events", timeout=120).json()["events"]
    lines = (line for line in (state / "events.jsonl").read_text().splitlines()[-40:])
    assert not [line for line in lines if '"admin_exited"' in line]
    assert cluster.replicas()["worker-0"]["state"] == "ready"
    cluster.stop()


ODD_COMMANDS = [
    b"{}", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b"x", b'{"command":[]}', b'{"command":{}}',
    b'{"command":"kill"}',
    b'{"command":"kill","name":5,"signal":{}}', b'{"command":"kill","name":"lb-0","signal":"\\u0669"}',
    b'{"command":"kill","name":"lb-0","signal":"\\u00b2"}', b'{"command":"kill","name":"\\ud800","signal":"KILL"}',
    b'{"command":"scale","worker":"3"}', b'{"command":"scale","worker":true}', b'{"command":"scale","worker":1e999}',
    b'{"command":"scale","pool":' + b"9" * 5000 + b"}", b'{"command":"restart","target":["a"]}',
    b'{"command":"restart"}',
    b'{"command":"faults","target":{},"hang":5}', b'{"command":"faults","hang":[1],"for":{},"count":NaN,"x":1}',
    b" " * 2_000_000,
]  # fmt: skip


ODD_MESSAGES = [
    b'{"type":"reopen"}',
    b'{"type":"reopen","run":5,"control":[],"counters":{}}',
    b'{"type":"reopen","run":"/nope","control":"../x","counters":"../../y"}',
    b'{"type":"upstreams"}',
    b'{"type":"upstreams","upstreams":[5]}',
    b'{"type":"upstreams","upstreams":[{"name":"a","host":"h","port":1,"state":{}}]}',
    b'{"type":"settings","settings":5}',
    b'{"type":"doubt","upstream":[],"reason":{}}',
    b'{"type":"drain"}',
    b'{"type":"drain","grace":"x"}',
    b'{"type":"ping","id":"\\ud800"}',
    b'{"type":1}',
    b"[" * 100_000,
    b"x" * 2_000_000,
]


def spoken(cluster: TestCluster, data: bytes, name: str = "supervisor.sock") -> list[dict[str, Any]]:
    """What the supervisor, or who listens on that socket, answers to these bytes, up to where it hangs up."""
    folder = os.open(cluster.folder / ".comet/run", os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(120)
            peer.connect(f"/proc/self/fd/{folder}/{name}")
            answer = b""
            with contextlib.suppress(
                BrokenPipeError, ConnectionResetError
            ):  # It hung up before it had read everything.
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while piece := peer.recv(65536):
                    answer += piece
            return [json.loads(line) for line in answer.splitlines()]
    finally:
        os.close(folder)


def test_malformed_control_commands_are_refused_in_words(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    pids = {name: row["pid"] for name, row in cluster.replicas().items()}
    for command in ODD_COMMANDS:
        (answer,) = spoken(cluster, command + b"\n")
        assert answer["exit_code"] == 2, command[:60]
        assert "internal" not in answer["error"]
        assert "codec" not in answer["error"]
    for command in ("restart", "kill", "logs", "faults"):
        refused = cluster.comet(command, "lb-0\n\x1b[2J", *(["--failure", "1"] if command == "faults" else []))
        assert refused.returncode == 2, command
        assert refused.stderr.count("\n") == 1, refused.stderr
        assert "\x1b" not in refused.stderr
    assert spoken(cluster, b'{"command":"ps"')[0]["exit_code"] == 2
    assert spoken(cluster, b'{"command":"ps"}\n{"command":"ps"}\n')[1]["ok"]
    # A file that takes long to parse: the loop answers all the while.
    (cluster.folder / "config.yaml").write_text(
        "runtime: process\n" + "".join(f"k{number}: {number}\n" for number in range(2_000))
    )
    refused = threading.Thread(target=cluster.comet, args=("reload",))
    refused.start()
    waits = []
    while refused.is_alive():
        began = time.monotonic()
        assert spoken(cluster, b'{"command":"ps"}\n')[0]["ok"]
        waits.append(time.monotonic() - began)
        time.sleep(0.01)  # The file is to be parsed meanwhile.
    assert len(waits) > 3, "the loop stood still"
    for message in ODD_MESSAGES:
        spoken(cluster, message + b"\n", "lb-0.1.sock")
    assert {name: row["pid"] for name, row in cluster.replicas().items()} == pids
    assert "Traceback" not in (cluster.folder / ".comet/logs/lb-0.log").read_text()
    log = (cluster.folder / ".comet/logs/supervisor.log").read_text()
    assert "Traceback" not in log
    cluster.write()
    cluster.stop()


ODD_VALUES = (
    ("successful", "many"),
    ("duration_us", 1.5),
    ("failed", b"\xff"),
    ("first_started", "never"),
    ("failed", -1),
)


def test_database_rows_of_wrong_types_prevent_no_start(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    assert cluster.hello().status_code == 200
    path = cluster.folder / ".comet/stats/worker-stats.db"

    def sql(statement: str, *values: object) -> None:
        with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
            connection.execute(statement, values)

    def plant(number: int) -> None:
        sql(f"INSERT INTO workers VALUES ({99 + number}, 'odd {number}', 5.0, 5.0, 3, 1, 0, 0, 900, 7)")
        column, value = ODD_VALUES[number]
        sql(f"UPDATE workers SET {column} = ? WHERE name = 'odd {number}'", value)

    for number, (column, _) in enumerate(ODD_VALUES):
        plant(number)
        # `/worker/stats` shows no times.
        for command in (["stats"],) if column == "first_started" else (["stats"], ["stats", "--json"]):
            done = cluster.comet(*command)
            assert done.returncode == 1
            assert done.stderr.count("\n") == 1, done.stderr
            assert "worker-stats.db" in done.stderr or f"'odd {number}'" in done.stderr
        sql("DELETE FROM workers WHERE name LIKE 'odd %'")
    for number in range(len(ODD_VALUES)):
        plant(number)
    # A worker registers next to such rows, and a reset removes them, whatever is wrong with them.
    assert cluster.comet("restart", "worker-0").returncode == 0
    assert cluster.hello().status_code == 200
    assert cluster.comet("stats", "--reset").returncode == 0
    done = wait_until(lambda: (found := cluster.comet("stats", "--json")).returncode == 0 and found)
    assert "odd" not in done.stdout
    cluster.stop()


def test_garbage_in_any_state_file_prevents_no_start(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    state = cluster.folder / ".comet"
    for number, garbage in enumerate((b"\xff\xfe\x00", b"[" * 100_000, b'{"version": 1}')):
        if number % 2:  # What runs is adopted, or ended and made again.
            os.kill(cluster.ps()["supervisor"]["pid"], signal.SIGKILL)
            wait_until(lambda: not cluster.ps()["supervisor"]["running"])
        else:
            cluster.stop()
        for path in state.rglob("*"):
            # The database is the user's: it is refused. Without its id nothing of a cluster is known.
            if (
                path.is_file()
                and not path.is_symlink()
                and path.parent.name != "stats"
                and not path.name.startswith("id")
            ):
                path.write_bytes(garbage)
        for command in ("ps", "events", "logs worker-0"):
            assert "Traceback" not in cluster.comet(*command.split()).stderr, (command, garbage[:10])
        done = cluster.comet("run", "--detach", timeout=90)
        assert done.returncode == 0, (garbage[:10], done.stderr)
        assert cluster.hello().status_code == 200
    cluster.stop()
    cluster.assert_nothing_left()
