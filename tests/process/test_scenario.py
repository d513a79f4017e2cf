"""Scenario files, the crowd, and a scenario on a real cluster: played, broken off, killed."""

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comet.common.errors import UserError
from comet.common.yaml_lines import ConfigError
from comet.load.closed_model import ClosedModel, ResultCounts, percentile_ms, total
from comet.scenario.file import parse, unknown_names
from comet.scenario.player import ScenarioPlayer, targets
from comet.state.directory import Cluster
from tests.support.cluster import ROOT, TestCluster
from tests.support.waiting import PATIENCE, wait_until

GOOD = """
description: two steps
clients: 4
pause: 5ms
timeout: 2s
steps:
  - for: 300ms
  - name: bad
    for: 1.5
    clients: 8
    pause: 0
    faults:
      all: {failure: 50}
      worker-1: {avg-delay: 20, failure: 100}
    kill: [worker-0, lb-1]
"""


def test_a_scenario_is_read() -> None:
    made = parse(GOOD, "good.yaml")
    assert (made.description, made.timeout, made.path, made.seconds) == ("two steps", 2.0, "", 1.8)
    first, second = made.steps
    assert (first.name, first.seconds, first.clients, first.pause, first.faults, first.kill) == (
        "step 1",
        0.3,
        4,
        0.005,
        {},
        (),
    )
    assert (second.name, second.seconds, second.clients, second.pause, second.kill) == (
        "bad",
        1.5,
        8,
        0.0,
        ("worker-0", "lb-1"),
    )
    assert second.settings("worker-0") == {"failure": 50.0}
    assert second.settings("worker-1") == {"failure": 100.0, "avg-delay": 20.0}
    assert targets(second, ["worker-0"], second.faults) == {"all": {"failure": 50.0}}
    assert targets(second, ["worker-0", "worker-1"], second.faults) == {
        "worker-0": {"failure": 50.0},
        "worker-1": {"failure": 100.0, "avg-delay": 20.0},
    }


def test_a_step_may_have_faults_of_the_front() -> None:
    made = parse("steps: [{for: 1s, faults: {front: {reset: 10%, path: /a}}}, {for: 1s}]", "s.yaml")
    with_front, without = made.steps
    assert list(unknown_names(made, ["worker-0"], ["lb-0"])) == []
    assert targets(with_front, ["worker-0"], {"front"}) == {"front": {"reset": 10.0, "path": "/a"}}
    assert targets(without, ["worker-0"], {"front"}) == {"front": {}}
    assert list(targets(with_front, ["worker-0"], {"front", "all"}).items())[-1][0] == "front"
    with pytest.raises(ConfigError, match=r"faults.front.cpu: unknown key"):
        parse("steps: [{for: 1s, faults: {front: {cpu: 1}}}]", "s.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_included_scenarios_fit_the_default_cluster(path: Path) -> None:
    made = parse(path.read_text(), path.name)
    assert made.description
    assert made.seconds <= 60
    assert list(unknown_names(made, ["worker-0", "worker-1", "worker-2"], ["lb-0", "lb-1"])) == []


def test_there_are_five_scenarios() -> None:
    names = {path.stem for path in (ROOT / "scenarios").glob("*.yaml")}
    assert names == {"slow-worker", "flapping-worker", "rolling-crash", "brown-out", "thundering-herd"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "s.yaml:1: the file is empty (`steps:` and a list of steps is a beginning)"),
        ("clients: 3", "s.yaml:1: steps: is missing"),
        (
            "steps: soon",
            "s.yaml:1: steps: 'soon' is not usable (allowed: a list of steps, each of the form `- for: 5s`)",
        ),
        ("steps: []", "s.yaml:1: steps: [] is not usable"),
        ("steps:\n  - 5s", "s.yaml:1: step 1: '5s' is not usable (allowed: lines of the form `for: 5s`)"),
        ("steps:\n  - name: x", "s.yaml:2: step 1: for: is missing (allowed: a time from 100ms to 1h)"),
        ("steps:\n  - for: 2h", "s.yaml:2: step 1: for: 2h is out of range"),
        ("steps:\n  - for: soon", "s.yaml:2: step 1: for: soon is not usable"),
        (
            "steps:\n  - for: 1s\n    fault: {}",
            "s.yaml:3: step 1: fault: unknown key (allowed: name, for, clients, pause, rate, every, faults, kill, do, "
            "expect)",
        ),
        ("steps:\n  - for: 1s\n    faults: [a]", "s.yaml:3: step 1: faults: ['a'] is not usable"),
        (
            "steps:\n  - for: 1s\n    faults: {all: {hang: 101}}",
            "s.yaml:3: faults.all.hang: 101 is out of range (allowed: percent, ",
        ),
        (
            "steps:\n  - for: 1s\n    faults:\n      all:\n        hnag: 1",
            "s.yaml:5: faults.all.hnag: unknown key (did you mean hang?)",
        ),
        ("steps:\n  - for: 1s\n    kill: {a: b}", "s.yaml:3: step 1: kill: {'a': 'b'} is not usable"),
        ("steps:\n  - for: 1s\n    kill:", "s.yaml:3: step 1: kill: nothing is not usable"),
        (
            "clients: 501\nsteps:\n  - for: 1s",
            "s.yaml:1: clients: 501 is out of range (allowed: a whole number from 0 to 500, or a ramp such as 5..50)",
        ),
        ("clients: 5\nclients: 6\nsteps:\n  - for: 1s", "s.yaml:2: clients: appears twice (keep one)"),
        (
            "speed: 5\nsteps:\n  - for: 1s",
            "s.yaml:1: speed: unknown key (allowed: description, clients, pause, timeout, path, method, headers, body, "
            "rate, seed, expect, steps)",
        ),
        ("steps:\n - for: 1s\n  x", "s.yaml:3: not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "s.yaml")
    (problem,) = caught.value.problems
    assert problem.startswith(said)
    assert caught.value.exit_code == 2


def test_names_that_the_cluster_does_not_have_are_refused() -> None:
    made = parse(GOOD, "good.yaml")
    assert list(unknown_names(made, ["worker-0"], ["lb-0"])) == [
        "good.yaml:8: bad: faults: worker-1: no such worker (there are worker-0)",
        "good.yaml:8: bad: kill: lb-1: no such replica (there are lb-0, worker-0)",
    ]


def test_faults_a_step_could_not_clear_are_cleared_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def call(self: ScenarioPlayer, command: str, **fields: Any) -> None:
        asked.append(fields)
        if len(asked) == 2:
            raise UserError("the supervisor does not answer")

    monkeypatch.setattr(ScenarioPlayer, "_call", call)
    scenario = parse("clients: 0\nsteps:\n- for: 100ms\n  faults: {all: {hang: 100}}\n- for: 100ms\n", "s.yaml")
    with pytest.raises(UserError):
        ScenarioPlayer(scenario, Cluster(Path("/nowhere")), [], ["worker-0"], lambda line: None).run()
    assert [each.get("clear", False) for each in asked] == [False, True, True]


def test_percentiles_and_sums() -> None:
    assert percentile_ms([], 50) is None
    assert percentile_ms([0.001 * each for each in range(1, 101)], 50) == 50.0
    assert percentile_ms([0.001 * each for each in range(1, 101)], 99) == 99.0
    assert percentile_ms([0.2], 99) == 200.0
    books = [ResultCounts(ok=2, injected=1, times=[0.1, 0.3]), ResultCounts(ok=1, times=[0.2])]
    books[1].errors["504"] += 2
    assert total(books).as_dict() == {
        "requests": 6, "ok": 3, "injected": 1, "errors": {"504": 2}, "repeated": 0, "p50_ms": 200.0, "p99_ms": 300.0,
        "workers": {},
    }  # fmt: skip


def seen_of(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], timeout: float
) -> ResultCounts:
    """What two clients saw of a server that treats each connection like that."""

    async def go() -> ResultCounts:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        crowd = ClosedModel([server.sockets[0].getsockname()[:2]], "/", timeout)
        book = crowd.start(2, 0.02)
        while book.requests < 6:
            await asyncio.sleep(0.01)
        await crowd.stop()
        server.close()
        return book

    return asyncio.run(asyncio.wait_for(go(), 20 * PATIENCE))


def scripted(
    answer: bytes, last: bool = True
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
                if last:
                    break
            writer.close()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return serve


@pytest.mark.parametrize(
    ("answer", "last", "kinds"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", False, {"ok"}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True, {"ok"}),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", True, {"ok"}),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", False, {"ok"}),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", True, {"cut short"}),
        (b'HTTP/1.1 500 X\r\nContent-Length: 28\r\n\r\n{"error":"injected failure"}', False, {"injected"}),
        (b"HTTP/1.1 504 X\r\nContent-Length: 0\r\n\r\n", False, {"504"}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", True, {"cut short"}),
        (b"HTTP/1.1 200", True, {"cut short"}),
        (b"nonsense\r\n\r\n", True, {"cut short"}),
        (b"", True, {"closed without an answer"}),
        (b"", False, {"timeout"}),
    ],
)
def test_clients_report_their_results(answer: bytes, last: bool, kinds: set[str]) -> None:
    book = seen_of(scripted(answer, last), 0.3 if kinds == {"timeout"} else 20.0)
    told = {kind for kind, count in (("ok", book.ok), ("injected", book.injected), *book.errors.items()) if count}
    assert told == kinds
    # A connection that the server closes after its answer is no error of the next request: that one is repeated, and
    # counted as such.
    assert (book.repeated > 0) == (kinds == {"ok"} and last and b"Content-Length" in answer)


def test_clients_do_not_hammer_a_dead_port() -> None:
    async def go() -> ResultCounts:
        with socket.socket() as dead:  # The port is its own, and it listens to nobody.
            dead.bind(("127.0.0.1", 0))
            crowd = ClosedModel([dead.getsockname()], "/", 20.0)
            book = crowd.start(2, 0.0)
            while not book.errors:
                await asyncio.sleep(0)
            await asyncio.sleep(0.3)
            await crowd.stop()
        return book

    book = asyncio.run(go())
    assert set(book.errors) == {"refused"}
    assert book.requests <= 2 * 8


def test_the_number_of_clients_changes_between_steps() -> None:
    async def go() -> list[int]:
        inside: set[int] = set()
        seen = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inside.add(id(writer))
            await scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", last=False)(reader, writer)
            inside.discard(id(writer))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        crowd = ClosedModel([server.sockets[0].getsockname()[:2]], "/", 20.0)
        for size in (3, 30, 2):
            crowd.start(size, 0.01)
            deadline = time.monotonic() + 5 * PATIENCE
            while len(inside) != size and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            seen.append(len(inside))
        await crowd.stop()
        server.close()
        return seen

    assert asyncio.run(go()) == [3, 30, 2]


# On real clusters.


def write(cluster: TestCluster, text: str) -> str:
    (cluster.folder / "scenario.yaml").write_text(text)
    return "scenario.yaml"


def in_force(cluster: TestCluster) -> list[Any]:
    workers = json.loads(cluster.comet("faults", "--json").stdout)["workers"]
    return [worker["leases"] for worker in workers]


LONG = "clients: 4\nsteps:\n  - {name: calm, for: 500ms}\n  - {name: failing, for: 8s, faults: {all: {failure: 100}}}\n"


def test_a_scenario_reports_client_results_and_clears_its_faults(
    make_cluster: Callable[..., TestCluster], runtime: str
) -> None:
    cluster = make_cluster(worker=2, runtime=runtime)
    cluster.start()
    assert cluster.comet("faults", "worker-1", "--cpu", "0.5").returncode == 0
    half_failing = "{name: half, for: 2s, faults: {worker-0: {failure: 100}}}"
    steps = f"[{{name: calm, for: 1s}}, {half_failing}, {{name: death, for: 2s, kill: worker-1}}]"
    done = cluster.comet("scenario", write(cluster, f"clients: 4\npause: 5ms\nsteps: {steps}\n"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["scenario"], told["complete"]) == ("scenario.yaml", True)
    calm, half, death = told["steps"]
    assert [each["step"] for each in (calm, half, death)] == ["calm", "half", "death"]
    for each in (calm, half, death, told["total"]):
        assert each["requests"] == each["ok"] + each["injected"] + sum(each["errors"].values())
        assert each["errors"] == {}
        assert 0 < each["p50_ms"] <= each["p99_ms"]
    # A request that is under way when the step ends may meet the faults of the next one.
    assert calm["injected"] <= 4
    assert 0.3 < half["injected"] / half["requests"] < 0.7
    assert set(half["workers"]) == {"worker-0", "worker-1"}
    assert told["total"]["requests"] == sum(each["requests"] for each in told["steps"])
    wait_until(lambda: cluster.events("replica_exited", "worker-1"), what="the death noticed")
    assert in_force(cluster) == [[], []]
    assert json.loads(cluster.comet("faults", "worker-1", "--json").stdout)["workers"][0]["settings"]["cpu"] == 0.5
    assert {cluster.hello(number).status_code for number in (0, 1, 0, 1)} == {200}
    table = cluster.comet(
        "scenario", write(cluster, "clients: 2\nsteps: [{name: short, for: 300ms}]")
    ).stdout.splitlines()
    assert [line.split()[0] for line in table] == ["STEP", "short", "total"]
    cluster.stop()


def test_an_interrupted_scenario_clears_its_faults_and_reports(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, runtime="process")
    cluster.start()
    name = write(cluster, LONG)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before = len(cluster.events("faults_changed"))
        playing = subprocess.Popen(
            [*cluster.command, "scenario", name],
            cwd=cluster.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda before=before: len(cluster.events("faults_changed")) > before, what="the failing step")
        assert all(leases for leases in in_force(cluster))
        playing.send_signal(number)
        output, progress = playing.communicate(timeout=15 * PATIENCE)
        assert playing.returncode == 128 + number
        assert "Traceback" not in progress
        assert in_force(cluster) == [[], []]
        assert [line.split()[0] for line in output.splitlines()] == ["STEP", "calm", "failing", "total"]
        assert "broken off" in output
        wait_until(lambda: cluster.hello().status_code == 200, 2)
    cluster.stop()


def test_a_killed_scenario_leaves_leases_that_expire(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, runtime="process")
    cluster.start()
    name = write(cluster, LONG)
    playing = subprocess.Popen(
        [*cluster.command, "scenario", name], cwd=cluster.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    (changed,) = wait_until(lambda: cluster.events("faults_changed"), what="the failing step")
    assert changed["scenario"].startswith("scenario.yaml")
    playing.kill()
    playing.wait()
    cluster.kill_supervisor()
    wait_until(lambda: cluster.hello().status_code == 500, 3, "the worker reads the order")
    wait_until(lambda: cluster.hello().status_code == 200, 12, "the end of the lease")
    cluster.start()
    cluster.stop()


def test_a_scenario_adopts_a_cluster_and_leaves_it_running(
    make_cluster: Callable[..., TestCluster],
) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    before = cluster.replicas()
    cluster.kill_supervisor()
    done = cluster.comet(
        "scenario", write(cluster, "clients: 2\nsteps: [{for: 500ms, faults: {worker-0: {failure: 100}}}]"), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("no supervisor runs: starting one\n")
    assert json.loads(done.stdout)["total"]["injected"] > 0
    assert {name: row["pid"] for name, row in cluster.replicas().items()} == {
        name: row["pid"] for name, row in before.items()
    }
    cluster.stop()


def test_a_supervisor_death_ends_a_scenario_with_its_report(
    make_cluster: Callable[..., TestCluster],
) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    steps = (
        "[{name: first, for: 2s, faults: {all: {failure: 100}}}, {name: second, for: 2s, faults: {all: {failure: 50}}}]"
    )
    name = write(cluster, f"clients: 2\nsteps: {steps}")
    playing = subprocess.Popen(
        [*cluster.command, "scenario", name],
        cwd=cluster.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: cluster.events("faults_changed"), what="the first step")
    cluster.kill_supervisor()
    output, progress = playing.communicate(timeout=30 * PATIENCE)
    assert playing.returncode == 1
    assert "first" in output
    assert "broken off" in output
    assert progress.splitlines()[-1].startswith("the supervisor no longer answers")
    assert "Traceback" not in progress
    wait_until(lambda: cluster.hello().status_code == 200, 5, "the end of the leases")
    cluster.start()
    cluster.stop()


def test_a_scenario_starts_a_cluster_and_stops_it_again(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    for text, said in [
        ("steps: 5", "scenario.yaml:1: steps: 5 is not usable"),
        (
            "steps: [{for: 1s, kill: lb-5}]",
            "scenario.yaml:1: step 1: kill: lb-5: no such replica (there are lb-0, worker-0)",
        ),
    ]:
        done = cluster.comet("scenario", write(cluster, text))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(said)
    done = cluster.comet("scenario", "missing.yaml")
    assert (done.returncode, done.stderr) == (
        2,
        "missing.yaml: there is no such file (name a file; scenarios/ has examples)\n",
    )
    assert not (cluster.folder / ".comet").exists()
    done = cluster.comet("scenario", write(cluster, "clients: 2\nsteps: [{for: 500ms}]"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"]["ok"] > 0
    assert done.stderr.startswith("no supervisor runs: starting one, for this scenario only\n")
    cluster.assert_nothing_left()
