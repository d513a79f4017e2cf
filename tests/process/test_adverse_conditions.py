"""Bad input and bad weather: one clear line, nothing lost, nothing left behind."""

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.process.test_crashes import clients
from tests.support.cluster import TestCluster, fill, open_cluster
from tests.support.engines import PrivateEngine
from tests.support.waiting import PATIENCE, wait_until


def refused(cluster: TestCluster, said: str, code: int = 1) -> str:
    """`run` fails with one line that matches, and leaves no process, container or socket; the line."""
    done = cluster.comet("run")
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    if cluster.cluster_id is not None:
        assert cluster.processes() == []
        assert list((cluster.folder / ".comet/run").glob("*")) == []
    return done.stderr


@pytest.mark.docker
def test_no_engine_is_one_line(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster()
    cluster.environment["DOCKER_HOST"] = f"unix://{cluster.folder}/no.sock"
    assert len(refused(cluster, "no Docker engine|no engine").splitlines()) == 1


@pytest.mark.docker
def test_a_remote_engine_is_refused(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster()
    cluster.environment["DOCKER_HOST"] = "tcp://192.0.2.1:2375"
    assert len(refused(cluster, "192.0.2.1").splitlines()) == 1


def test_a_worker_that_never_becomes_ready_shows_its_last_lines(
    make_cluster: Callable[..., TestCluster], runtime: str
) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime=runtime, health_path="/nothing-here", start_timeout=10)
    said = refused(cluster, r"worker-0 does not become ready: not ready within 10 s")
    assert "\n  | " in said
    assert "lb-0" not in [event.get("replica") for event in cluster.events("replica_starting")]
    cluster.assert_nothing_left()


def test_a_file_that_is_no_database_is_refused_untouched(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(runtime="process")
    file = cluster.folder / "worker-stats.db"
    file.write_text("shopping list: milk\n" * 300)
    before = file.read_bytes()
    assert len(refused(cluster, r"worker-stats\.db: ").splitlines()) == 1
    assert (file.read_bytes(), file.is_symlink()) == (before, False)
    with contextlib.closing(sqlite3.connect(cluster.folder / "other.db")) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
        other.commit()
    cluster.write(stats_dir="other.db")
    before = (cluster.folder / "other.db").read_bytes()
    assert len(refused(cluster, r"other\.db: ").splitlines()) == 1
    assert (cluster.folder / "other.db").read_bytes() == before


def test_an_impossible_database_path_is_refused(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(runtime="process", stats_dir="/proc/stats.db")
    assert len(refused(cluster, "/proc/stats.db").splitlines()) == 1
    cluster.write(stats_dir="no/such/folder/stats.db")
    assert len(refused(cluster, "no/such/folder").splitlines()) == 1


@pytest.mark.docker
def test_a_database_elsewhere_gets_a_directory_of_its_own(
    make_cluster: Callable[..., TestCluster], tmp_path: Path
) -> None:
    cluster = make_cluster(worker=1, pool=1, stats_dir=str(tmp_path / "figures.db"))
    cluster.start()
    cluster.hello()
    assert cluster.counts()["total"] == 1
    cluster.stop()
    assert (tmp_path / "figures.db").resolve() == tmp_path / "figures.db.d/figures.db"
    assert '"total":1' in cluster.comet("stats", "--json").stdout


def test_a_removed_database_link_starts_a_new_database(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    cluster.hello()
    cluster.stop()
    (cluster.folder / "worker-stats.db").unlink()
    cluster.start()
    assert cluster.counts()["total"] == 0
    cluster.stop()
    kept = [
        path
        for path in (cluster.folder / ".comet/stats").glob("worker-stats.db.2*")
        if not path.name.endswith(("-wal", "-shm"))
    ]
    assert len(kept) == 1
    with contextlib.closing(sqlite3.connect(kept[0])) as former:
        assert former.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_full_disk_at_the_start_is_reported(small_disk: TestCluster) -> None:
    fill(small_disk.folder / ".comet")
    done = small_disk.comet("run")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr


def test_a_disk_full_while_running_stops_no_restart(small_disk: TestCluster) -> None:
    cluster = small_disk
    cluster.start()
    filler = fill(cluster.folder / ".comet")
    pid = cluster.replicas()["lb-0"]["pid"]
    os.kill(pid, 9)
    assert requests.get(f"{cluster.lb()}/healthz", timeout=60).status_code == 200
    assert cluster.replicas()["lb-0"]["restarts"] == 1
    filler.unlink()
    assert wait_until(lambda: cluster.hello().status_code == 200, what="answers once the disk is freed")
    os.kill(cluster.replicas()["lb-0"]["pid"], 9)
    wait_until(lambda: cluster.replicas()["lb-0"]["restarts"] == 2, what="the next restart")
    cluster.stop()
    assert cluster.events()[-1]["event"] == "supervisor_stopped"
    # It is told; where the journal's own last block had no room for that either, what is missing there is counted.
    assert cluster.events("state_unwritable") or any(event.get("lost_events") for event in cluster.events())


def test_a_wall_clock_that_jumps_ends_and_restarts_nothing(
    make_cluster: Callable[..., TestCluster], tmp_path: Path
) -> None:
    """The supervisor and all that it starts read a clock that this test sets; the machine's own is left alone."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\nreal, path = time.time, {str(offset)!r}\ntime.time = lambda: real() + float(open(path).read() "
        "or 0)\n"
    )
    tmp_path.chmod(0o755)
    cluster = make_cluster(worker=2, pool=1, runtime="process")
    cluster.environment["PYTHONPATH"] = str(tmp_path)
    cluster.start()
    before = cluster.replicas()
    for jump in (86_400, -3_600):
        seen = len(cluster.events("clock_moved"))
        offset.write_text(str(jump))
        told = wait_until(lambda seen=seen: cluster.events("clock_moved")[seen:], what="the jump noticed")
        assert abs(told[0]["by_s"]) > 3_000
        assert cluster.hello().status_code == 200
        assert cluster.comet("kill", "worker-0").returncode == 0
        wait_until(lambda: cluster.replicas()["worker-0"]["state"] == "ready")
        steps = cluster.events("replica_ready", "worker-0")[-1]["timeline_ms"]
        assert list(steps.values()) == sorted(steps.values())
        assert 0 <= steps["ready"] < 60_000
    os.kill(cluster.supervisor_pid(), 9)
    offset.write_text("7200")
    cluster.start()
    after = cluster.replicas()
    assert (after["lb-0"]["pid"], after["worker-1"]["pid"]) == (before["lb-0"]["pid"], before["worker-1"]["pid"])
    assert [row["restarts"] for row in after.values()] == [0, 2, 0]
    assert after["worker-0"]["last_exit"]["signal"] == "SIGKILL"
    cluster.stop()
    cluster.assert_nothing_left()


@pytest.mark.docker
def test_outdated_replicas_are_replaced_at_the_start(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=1)
    cluster.start()
    before = cluster.replicas()
    os.kill(cluster.supervisor_pid(), 9)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])
    cluster.write(worker_memory="200m", worker=1)
    cluster.start()
    after = cluster.replicas()
    assert sorted(after) == ["lb-0", "worker-0"]
    assert after["worker-0"]["id"] != before["worker-0"]["id"]
    assert after["lb-0"]["pid"] == before["lb-0"]["pid"]
    assert len(cluster.containers()) == 1
    cluster.stop()
    cluster.assert_nothing_left()


def test_a_broken_file_of_the_state_costs_nothing(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=2, runtime="process")
    cluster.start()
    before, former = cluster.replicas(), cluster.supervisor_pid()
    with clients(cluster) as strict:
        os.kill(former, 9)
        (cluster.folder / ".comet/state.json").write_text("{")
        cluster.start()
        seen = [client.good for client in strict]
        wait_until(lambda: all(client.good > count for client, count in zip(strict, seen, strict=True)))
        assert [event["pid"] for event in cluster.events("stale_lock")] == [former]
        assert [event["reason"] for event in cluster.events("state_unreadable")] == ["not understood"]
        os.kill(cluster.supervisor_pid(), 9)
        file = cluster.folder / ".comet/id"
        whole = file.read_text()
        file.write_text("\0" * len(whole))
        assert sorted(cluster.replicas()) == sorted(before)
        cluster.start()
        assert file.read_text() == whole
    assert [client.bad for client in strict] == [[]] * len(strict)
    assert [event.get("file") for event in cluster.events("state_unreadable")][1:] == ["id"]
    assert {name: row["pid"] for name, row in cluster.replicas().items()} == {
        name: row["pid"] for name, row in before.items()
    }
    cluster.stop()
    cluster.assert_nothing_left()


@pytest.mark.docker
def test_lost_state_costs_the_adoption_and_nothing_else(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1)
    cluster.start()
    before, former = cluster.replicas(), cluster.supervisor_pid()
    os.kill(former, 9)
    for file in cluster.folder.glob(".comet/state.json*"):
        file.write_text("{")
    cluster.start()
    after = cluster.replicas()
    assert after["worker-0"]["id"] == before["worker-0"]["id"]  # Its labels suffice.
    assert after["lb-0"]["pid"] != before["lb-0"]["pid"]
    assert cluster.hello().status_code == 200
    cluster.stop()
    cluster.assert_nothing_left()


def serves_or_says_that_nobody_is_there(answer: requests.Response) -> bool:
    assert answer.status_code in (200, 502, 503), answer.text
    return answer.status_code == 200 or (answer.status_code == 503 and "Retry-After" in answer.headers)


@pytest.mark.docker
def test_the_engine_stops_and_returns(make_cluster: Callable[..., TestCluster], engine: PrivateEngine) -> None:
    cluster = make_cluster(worker=2, pool=2)
    cluster.environment |= engine.environment
    cluster.start()
    before = cluster.replicas()
    assert cluster.hello().status_code == 200
    for end in (engine.stop, engine.kill):
        seen = len(cluster.events("engine_lost"))
        end()
        wait_until(lambda seen=seen: len(cluster.events("engine_lost")) > seen, what="the loss noticed")
        # The load balancers live on: they answer, if only to say that nobody is there (502 while the last ways to the
        # workers close).
        for lb in (0, 1):
            wait_until(lambda lb=lb: serves_or_says_that_nobody_is_there(cluster.hello(lb)), what="an answer in words")
        assert {cluster.replicas()[f"lb-{lb}"]["pid"] for lb in (0, 1)} == {before[f"lb-{lb}"]["pid"] for lb in (0, 1)}
        engine.start()
        wait_until(
            lambda: all(row["state"] == "ready" for row in cluster.replicas().values()), 60, what="workers ready again"
        )
        wait_until(
            lambda: all(cluster.hello(lb).status_code == 200 for lb in (0, 1, 0, 1)), what="answers through both"
        )
    assert {cluster.replicas()[f"lb-{lb}"]["restarts"] for lb in (0, 1)} == {0}
    cluster.stop()
    assert cluster.containers(engine.client) == []


@pytest.mark.docker
def test_without_an_engine_orders_end_and_a_stop_says_the_rest(
    make_cluster: Callable[..., TestCluster], engine: PrivateEngine
) -> None:
    cluster = make_cluster(worker=2, pool=1)
    cluster.environment |= engine.environment
    cluster.start()
    engine.stop()
    wait_until(lambda: cluster.events("engine_lost"), what="the loss noticed")
    for words in (["restart", "worker"], ["scale", "worker=3"], ["restart", "worker-0"], ["reload"]):
        done = cluster.comet(*words)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), (words, done.stderr)
        assert "the Docker engine does not answer" in done.stderr
    assert cluster.comet("restart", "lb").returncode == 0
    stopped = cluster.comet("stop")
    assert stopped.returncode == 1
    assert "containers may be left" in stopped.stderr
    engine.start()
    assert len(cluster.containers(engine.client)) == 2
    assert cluster.comet("stop").returncode == 0
    assert cluster.containers(engine.client) == []


@pytest.mark.docker
def test_an_engine_that_goes_during_an_operation_ends_it(
    make_cluster: Callable[..., TestCluster], engine: PrivateEngine
) -> None:
    cluster = make_cluster(worker=1, pool=1)
    cluster.environment |= engine.environment
    cluster.start()
    restarting = [*cluster.command, "restart", "worker"]
    environment = os.environ | cluster.environment
    with subprocess.Popen(restarting, cwd=cluster.folder, env=environment, stderr=subprocess.PIPE, text=True) as order:
        wait_until(lambda: cluster.events("surge_started"), what="the replacement")
        engine.kill()
        _, said = order.communicate(timeout=90 * PATIENCE)
    assert order.returncode == 1, said
    assert cluster.comet("restart", "lb").returncode == 0
    engine.start()
    wait_until(lambda: {row["state"] for row in cluster.replicas().values()} == {"ready"}, 60, "all ready again")
    wait_until(lambda: len(cluster.replicas()) == 2, 60, "the replacement gone")
    assert cluster.comet("restart", "worker").returncode == 0
    cluster.stop()
    assert cluster.containers(engine.client) == []


@pytest.mark.docker
def test_a_hung_engine_delays_no_lb_and_no_second_stop(
    make_cluster: Callable[..., TestCluster], engine: PrivateEngine
) -> None:
    cluster = make_cluster(worker=1, pool=1)
    cluster.environment |= engine.environment
    with cluster.foreground() as supervisor:
        wait_until(lambda: cluster.events("replica_ready", "lb-0"), 60)
        engine.freeze()
        try:
            os.kill(cluster.replicas()["lb-0"]["pid"], 9)
            wait_until(
                lambda: len(cluster.events("replica_ready", "lb-0")) == 2, what="lb-0 back though the engine hangs"
            )
        finally:
            engine.thaw()
        wait_until(lambda: cluster.hello().status_code == 200)
        engine.freeze()
        try:
            supervisor.terminate()
            wait_until(lambda: cluster.events("replica_stopped", "lb-0"))
            supervisor.terminate()
            assert supervisor.wait(30 * PATIENCE) == 1
            assert supervisor.stdout is not None
            assert "worker-0 may be left" in supervisor.stdout.read()
        finally:
            engine.thaw()
    assert len(cluster.containers(engine.client)) == 1
    cluster.stop()
    assert cluster.containers(engine.client) == []


@pytest.mark.docker
def test_two_clusters_live_side_by_side_one_in_a_long_folder(
    make_cluster: Callable[..., TestCluster], tmp_path: Path
) -> None:
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)
    other = make_cluster(worker=1, pool=1)
    with open_cluster(deep, worker=1, pool=1) as cluster:
        starts = [threading.Thread(target=each.start) for each in (cluster, other)]
        for start in starts:
            start.start()
        for start in starts:
            start.join()
        assert cluster.hello().json() != other.hello().json()
        os.kill(cluster.supervisor_pid(), 9)
        wait_until(lambda: not cluster.ps()["supervisor"]["running"])
        cluster.start()
        assert len(cluster.events("adopted")) == 2
        cluster.stop()
        cluster.assert_nothing_left()
        assert other.hello().status_code == 200
        other.stop()
        other.assert_nothing_left()


@pytest.mark.docker
def test_power_loss_costs_nothing_that_was_committed(make_cluster: Callable[..., TestCluster]) -> None:
    """Everything is killed at once, then `run`: leftovers are dealt with, the database is whole, counts are as
    committed.
    """
    cluster = make_cluster(worker=2, pool=2)
    cluster.start()
    for number in range(20):
        assert cluster.hello(number % 2).status_code == 200
    before = cluster.replicas()
    os.kill(cluster.supervisor_pid(), 9)
    with cluster.engine() as client:
        for row in before.values():
            if row["kind"] == "container":
                client.api.kill(row["id"])
    cluster.kill_processes()
    wait_until(lambda: cluster.processes() == [], what="nothing alive")
    (cluster.folder / ".comet/run/lb-0.1.sock").touch()  # A stale socket, too.
    cluster.start()
    assert_counts_are_whole(cluster, 20)
    assert all(row["state"] == "ready" for row in cluster.replicas().values())
    cluster.stop()
    cluster.assert_nothing_left()


def assert_counts_are_whole(cluster: TestCluster, total: int) -> None:
    assert cluster.counts()["total"] == total
    with contextlib.closing(
        sqlite3.connect(f"file:{cluster.folder / 'worker-stats.db'}?mode=ro", uri=True)
    ) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_pid_that_names_another_process_now_is_never_signalled(make_cluster: Callable[..., TestCluster]) -> None:
    """After a power loss, too: what was committed is there."""
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    for _ in range(20):
        assert cluster.hello().status_code == 200
    os.kill(cluster.supervisor_pid(), 9)
    cluster.kill_processes()
    wait_until(lambda: cluster.processes() == [])
    with subprocess.Popen(["sleep", "600"]) as stranger:
        state = cluster.folder / ".comet/state.json"
        content = json.loads(state.read_text())
        for record in content["replicas"]:
            record["pid"] = stranger.pid
        state.write_text(json.dumps(content))
        assert cluster.replicas() == {}
        cluster.start()
        assert {(event["replica"], event["pid"]) for event in cluster.events("pid_reused")} == {
            ("lb-0", stranger.pid), ("worker-0", stranger.pid),
        }  # fmt: skip
        assert_counts_are_whole(cluster, 20)
        cluster.stop()
        cluster.assert_nothing_left()
        assert stranger.poll() is None
        stranger.kill()
