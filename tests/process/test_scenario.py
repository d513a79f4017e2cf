"""A scenario on a real cluster: played, interrupted, killed."""

import json
import shlex
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.cluster import TestCluster
from tests.support.shared import SharedCluster
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture(scope="module")
def shared(share_cluster: Callable[..., SharedCluster]) -> SharedCluster:
    return share_cluster(worker=2, pool=2, runtime="process")


@pytest.fixture
def running(shared: SharedCluster) -> TestCluster:
    """Two processes behind two load balancers."""
    return shared.lend()


def write(cluster: TestCluster, text: str) -> str:
    (cluster.folder / "scenario.yaml").write_text(text)
    return "scenario.yaml"


def in_force(cluster: TestCluster) -> list[Any]:
    workers = json.loads(cluster.comet("faults", "--json").stdout)["workers"]
    return [worker["leases"] for worker in workers]


LONG = "clients: 4\nsteps:\n  - {name: calm, for: 500ms}\n  - {name: failing, for: 8s, faults: {all: {failure: 100}}}\n"


def test_a_scenario_reports_client_results_and_clears_its_faults(
    make_cluster: Callable[..., TestCluster], shared: SharedCluster, runtime: str
) -> None:
    if runtime == "process":
        cluster = shared.lend()
    else:
        cluster = make_cluster(worker=2, runtime=runtime)
        cluster.start()
    deaths = len(cluster.events("replica_exited", "worker-1"))
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
    wait_until(lambda: len(cluster.events("replica_exited", "worker-1")) > deaths, what="the death noticed")
    assert in_force(cluster) == [[], []]
    assert json.loads(cluster.comet("faults", "worker-1", "--json").stdout)["workers"][0]["settings"]["cpu"] == 0.5
    assert {cluster.hello(number).status_code for number in (0, 1, 0, 1)} == {200}
    table = cluster.comet(
        "scenario", write(cluster, "clients: 2\nsteps: [{name: short, for: 300ms}]")
    ).stdout.splitlines()
    assert [line.split()[0] for line in table] == ["STEP", "short", "total"]
    if runtime == "docker":
        cluster.stop()


def test_an_interrupted_scenario_clears_its_faults_and_reports(running: TestCluster) -> None:
    cluster = running
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


def test_a_killed_scenario_leaves_leases_that_expire(running: TestCluster) -> None:
    cluster, before = running, len(running.events("faults_changed"))
    name = write(cluster, LONG)
    playing = subprocess.Popen(
        [*cluster.command, "scenario", name], cwd=cluster.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    (changed,) = wait_until(lambda: cluster.events("faults_changed")[before:], what="the failing step")
    assert changed["scenario"].startswith("scenario.yaml")
    playing.kill()
    playing.wait()
    cluster.kill_supervisor()

    def statuses() -> set[int]:
        return {cluster.hello().status_code for _ in range(2)}

    wait_until(lambda: statuses() == {500}, 3, "both workers read the order")
    wait_until(lambda: statuses() == {200}, 12, "the end of the lease")


def test_a_scenario_adopts_a_cluster_and_leaves_it_running(running: TestCluster) -> None:
    cluster = running
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


def test_a_supervisor_death_ends_a_scenario_with_its_report(running: TestCluster) -> None:
    cluster, before = running, len(running.events("faults_changed"))
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
    wait_until(lambda: len(cluster.events("faults_changed")) > before, what="the first step")
    cluster.kill_supervisor()
    output, progress = playing.communicate(timeout=30 * PATIENCE)
    assert playing.returncode == 1
    assert "first" in output
    assert "broken off" in output
    assert progress.splitlines()[-1].startswith("the supervisor no longer answers")
    assert "Traceback" not in progress
    wait_until(lambda: cluster.hello().status_code == 200, 5, "the end of the leases")


def test_a_stop_breaks_off_what_plays_on_the_cluster(make_cluster: Callable[..., TestCluster]) -> None:
    """Its clients do not go on against closed ports for the rest of the step."""
    cluster = make_cluster(worker=1, pool=1, runtime="process", avg_delay=0)
    plan = "steps: [{name: long, for: 600s, clients: 2, faults: {all: {failure: 100}}, expect: {ok: 0%}}]"
    plays = (["scenario", write(cluster, plan)], ["chaos", "--for", "600s"])
    for words in plays:
        cluster.start()
        playing = subprocess.Popen(
            [*cluster.command, *words], cwd=cluster.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with playing:
            wait_until(lambda: cluster.ps()["total"]["requests"] > 3, what="its clients")
            cluster.stop()
            output, progress = playing.communicate(timeout=60 * PATIENCE)
        assert playing.returncode == 1, progress
        assert progress.splitlines()[-1] == "the cluster is being stopped: broken off"
        assert progress.count("is being stopped") == 1
        assert "Traceback" not in progress
        assert "broken off" in output


def test_a_worker_that_was_drained_before_stays_so(running: TestCluster) -> None:
    assert running.comet("drain", "worker-0").returncode == 0
    steps = "[{for: 300ms, do: [{drain: [worker-0, worker-1]}]}]"
    done = running.comet("scenario", write(running, f"clients: 0\nsteps: {steps}\n"))
    assert done.returncode == 0, done.stderr
    assert {name: row["drained"] for name, row in running.replicas().items() if row["role"] == "worker"} == {
        "worker-0": True,
        "worker-1": False,
    }
    assert running.comet("undrain", "worker-0").returncode == 0


def test_a_drain_of_the_user_that_a_step_ended_is_given_back(running: TestCluster) -> None:
    assert running.comet("drain", "worker-0").returncode == 0
    steps = "[{for: 300ms, do: [{undrain: worker-0}, {drain: worker-1}, {undrain: worker-1}]}]"
    done = running.comet("scenario", write(running, f"clients: 0\nsteps: {steps}\n"))
    assert done.returncode == 0, done.stderr
    assert {name for name, row in running.replicas().items() if row["drained"]} == {"worker-0"}
    assert running.comet("undrain", "worker-0").returncode == 0


@pytest.mark.parametrize(
    ("before", "after", "stays"),
    [((), (), False), (("pause",), (), True), (("pause", "--for", "1h"), (), True), ((), ("pause",), True)],
)
def test_a_pause_of_the_user_stays(
    running: TestCluster, before: tuple[str, ...], after: tuple[str, ...], stays: bool
) -> None:
    """One from before the scenario is given back, and one that is ordered after the scenario's own is left alone."""
    steps = "[{for: 100ms, do: [{pause: 200ms}]}, {for: 600ms}]" if after else "[{for: 300ms, do: [{pause: 30s}]}]"
    if before:
        assert running.comet(*before).returncode == 0
    client = ["sh", "-c", shlex.join([*running.command, *after])] if after else ["true"]
    done = running.comet("scenario", write(running, f"clients: 0\nsteps: {steps}\n"), "--", *client)
    assert done.returncode == 0, done.stderr
    total = json.loads(running.comet("ps", "--json").stdout)["total"]
    assert total["paused"] == stays
    assert (total["paused_s"] or 0) > 3500 if "1h" in before else total["paused_s"] is None
    running.comet("resume")


def test_what_could_not_be_undone_is_said_and_fails(running: TestCluster) -> None:
    name = write(running, "clients: 1\nsteps: [{name: away, for: 3s, do: [{drain: worker-0}]}]")
    playing = subprocess.Popen(
        [*running.command, "scenario", name], cwd=running.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with playing:
        wait_until(lambda: "(drained)" in running.comet("ps").stdout, what="the drain")
        running.kill_supervisor()
        _, progress = playing.communicate(timeout=60 * PATIENCE)
    assert playing.returncode == 1
    assert progress.splitlines()[-1].endswith("stays until: python supervisor.py undrain worker-0"), progress
    running.start()
    assert running.comet("undrain", "worker-0").returncode == 0


def test_ctrl_c_during_the_start_of_its_own_cluster(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(
        worker=1, pool=1, runtime="process", worker_command="sleep 600", avg_delay=None, failure=None
    )
    playing = subprocess.Popen(
        [*cluster.command, "scenario", write(cluster, "steps: [{for: 1s}]")],
        cwd=cluster.folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    with playing:
        wait_until(lambda: cluster.events("replica_starting"), what="the start")
        playing.send_signal(signal.SIGINT)
        _, progress = playing.communicate(timeout=60 * PATIENCE)
    assert playing.returncode == 130
    assert "Traceback" not in progress
    cluster.assert_nothing_left()


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


def test_each_step_has_its_faults_from_first_to_last_request(shared: SharedCluster) -> None:
    cluster = shared.lend()
    fails = "for: 1s, faults: {all: {failure: 100, status: 503, avg-delay: 0}}"
    clean = "for: 1s, faults: {all: {failure: 0, avg-delay: 0}}"
    longer = f"do: [{', '.join(['{restart: worker}'] * 6)}]"
    steps = ", ".join(f"{{{each}}}" for each in (fails, clean, f"{fails}, {longer}", clean))
    done = cluster.comet("scenario", write(cluster, f"clients: 4\npause: 5ms\nsteps: [{steps}]\n"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["steps"]
    assert told[2]["seconds"] > 3, "the first leases of the step are over"
    # One request of each client may be in flight while the faults change. An additional worker has no faults.
    for failing in told[::2]:
        assert failing["ok"] <= 4 + failing["workers"].get("worker-2", 0) < failing["injected"]
    for passing in told[1::2]:
        assert passing["injected"] <= 4 < passing["ok"]


def test_clients_follow_the_balancers_while_these_are_scaled(shared: SharedCluster) -> None:
    cluster = shared.lend()
    loads = ("clients: 4", "rate: 60")
    steps = ", ".join(f"{{for: 1s, {load}, do: [{{scale: {{lb: {pool}}}}}]}}" for load in loads for pool in (1, 3))
    done = cluster.comet("scenario", write(cluster, f"pause: 5ms\nsteps: [{steps}]\n"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["steps"]
    assert [each["errors"] for each in told] == [{}] * 4
    assert all(each["ok"] for each in told)
    assert cluster.replicas()["lb-2"]["requests"] > 0
    assert cluster.comet("scale", "pool=2").returncode == 0
