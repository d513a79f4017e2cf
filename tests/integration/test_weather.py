"""Bad input and bad weather: one clear line, nothing lost, nothing left behind."""

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from comet.image import ensure_image
from tests.engines import PrivateEngine, private_engine
from tests.integration.clusters import ROOT, House, eventually
from tests.integration.test_supervision import clients

pytestmark = [pytest.mark.docker, pytest.mark.slow]

AS_ROOT = [] if os.getuid() == 0 else ["sudo", "-n"]


def refused(house: House, said: str, code: int = 1) -> str:
    """`run` fails with one line that matches, and leaves no process, container or socket; the line."""
    done = house.comet("run")
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    if house.cluster_id is not None:
        assert house.processes() == []
        assert list((house.folder / ".comet/run").glob("*")) == []
    return done.stderr


def test_no_engine(make_house: Callable[..., House]) -> None:
    house = make_house()
    house.environment["DOCKER_HOST"] = f"unix://{house.folder}/no.sock"
    assert len(refused(house, "no Docker engine|no engine").splitlines()) == 1


def test_a_remote_engine_is_refused_f41(make_house: Callable[..., House]) -> None:
    house = make_house()
    house.environment["DOCKER_HOST"] = "tcp://192.0.2.1:2375"
    assert len(refused(house, "192.0.2.1").splitlines()) == 1


def test_a_worker_that_never_becomes_ready_shows_its_last_lines(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=1, pool=1, runtime=runtime, health_path="/nothing-here", start_timeout=3)
    said = refused(house, r"worker-0 does not become ready: not ready within 3 s")
    assert "\n  | " in said
    assert "lb-0" not in [event.get("replica") for event in house.events("replica_starting")]
    house.assert_nothing_left()


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(make_house: Callable[..., House]) -> None:
    house = make_house(runtime="process")
    file = house.folder / "worker-stats.db"
    file.write_text("shopping list: milk\n" * 300)
    before = file.read_bytes()
    assert len(refused(house, r"worker-stats\.db: ").splitlines()) == 1
    assert (file.read_bytes(), file.is_symlink()) == (before, False)
    with contextlib.closing(sqlite3.connect(house.folder / "other.db")) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
        other.commit()
    house.write(stats_dir="other.db")
    before = (house.folder / "other.db").read_bytes()
    assert len(refused(house, r"other\.db: ").splitlines()) == 1
    assert (house.folder / "other.db").read_bytes() == before


def test_an_impossible_place_for_the_database_is_told(make_house: Callable[..., House]) -> None:
    house = make_house(runtime="process", stats_dir="/proc/stats.db")
    assert len(refused(house, "/proc/stats.db").splitlines()) == 1
    house.write(stats_dir="no/such/folder/stats.db")
    assert len(refused(house, "no/such/folder").splitlines()) == 1


def test_a_database_elsewhere_gets_a_directory_of_its_own_f31(make_house: Callable[..., House], tmp_path: Path) -> None:
    house = make_house(worker=1, pool=1, stats_dir=str(tmp_path / "figures.db"))
    house.start()
    house.hello()
    assert house.counts()["total"] == 1
    house.stop()
    assert (tmp_path / "figures.db").resolve() == tmp_path / "figures.db.d/figures.db"
    assert '"total":1' in house.comet("stats", "--json").stdout


def test_a_removed_link_begins_anew_and_keeps_the_old_file(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    house.start()
    house.hello()
    house.stop()
    (house.folder / "worker-stats.db").unlink()
    house.start()
    assert house.counts()["total"] == 0
    house.stop()
    kept = [path for path in (house.folder / ".comet/stats").glob("worker-stats.db.2*") if not path.name.endswith(("-wal", "-shm"))]
    assert len(kept) == 1
    with contextlib.closing(sqlite3.connect(kept[0])) as former:
        assert former.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.fixture
def small_disk(make_house: Callable[..., House]) -> Iterator[House]:
    """A cluster whose `.comet/` lies on a disk of 2 MiB."""
    house = make_house(worker=1, pool=1, runtime="process")
    state = house.folder / ".comet"
    state.mkdir()
    subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", f"size=2m,mode=700,uid={os.getuid()}", "tmpfs", str(state)], check=True)
    try:
        yield house
    finally:
        house.destroy()
        subprocess.run([*AS_ROOT, "umount", "-l", str(state)], check=True)


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    return filler


def test_a_full_disk_at_the_start_is_told(small_disk: House) -> None:
    fill(small_disk.folder / ".comet")
    done = small_disk.comet("run")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr


def test_a_disk_that_fills_up_under_way_stops_no_restart(small_disk: House) -> None:
    house = small_disk
    house.start()
    filler = fill(house.folder / ".comet")
    pid = house.replicas()["lb-0"]["pid"]
    os.kill(pid, 9)
    assert requests.get(f"{house.lb()}/healthz", timeout=10).status_code == 200
    assert house.replicas()["lb-0"]["restarts"] == 1
    filler.unlink()
    assert eventually(lambda: house.hello().status_code == 200, what="answers once the disk is freed")
    os.kill(house.replicas()["lb-0"]["pid"], 9)
    eventually(lambda: house.replicas()["lb-0"]["restarts"] == 2, what="the next restart")
    house.stop()
    assert house.events()[-1]["event"] == "supervisor_stopped"
    # It is told; where the journal's own last block had no room for that either, what is missing there is counted.
    assert house.events("state_unwritable") or any(event.get("lost_events") for event in house.events())


def test_a_wall_clock_that_jumps_ends_and_restarts_nothing(make_house: Callable[..., House], tmp_path: Path) -> None:
    """The supervisor and all that it starts read a clock that this test sets; the machine's own is left alone."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\nreal, path = time.time, {str(offset)!r}\ntime.time = lambda: real() + float(open(path).read() or 0)\n"
    )
    tmp_path.chmod(0o755)
    house = make_house(worker=2, pool=1, runtime="process")
    house.environment["PYTHONPATH"] = str(tmp_path)
    house.start()
    before = house.replicas()
    for jump in (86_400, -3_600):
        seen = len(house.events("clock_moved"))
        offset.write_text(str(jump))
        told = eventually(lambda seen=seen: house.events("clock_moved")[seen:], what="the jump noticed")
        assert abs(told[0]["by_s"]) > 3_000
        assert house.hello().status_code == 200
        assert house.comet("kill", "worker-0").returncode == 0
        eventually(lambda: house.replicas()["worker-0"]["state"] == "ready")
        steps = house.events("replica_ready", "worker-0")[-1]["timeline_ms"]
        assert list(steps.values()) == sorted(steps.values())
        assert 0 <= steps["ready"] < 60_000
    os.kill(house.supervisor_pid(), 9)
    offset.write_text("7200")
    house.start()
    after = house.replicas()
    assert (after["lb-0"]["pid"], after["worker-1"]["pid"]) == (before["lb-0"]["pid"], before["worker-1"]["pid"])
    assert [row["restarts"] for row in after.values()] == [0, 2, 0]
    assert after["worker-0"]["last_exit"]["signal"] == "SIGKILL"
    house.stop()
    house.assert_nothing_left()


def test_leftovers_that_no_longer_fit_are_made_anew(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=1)
    house.start()
    before = house.replicas()
    os.kill(house.supervisor_pid(), 9)
    eventually(lambda: not house.ps()["supervisor"]["running"])
    house.write(worker_memory="200m", worker=1)
    house.start()
    after = house.replicas()
    assert sorted(after) == ["lb-0", "worker-0"]
    assert after["worker-0"]["id"] != before["worker-0"]["id"]
    assert after["lb-0"]["pid"] == before["lb-0"]["pid"]
    assert len(house.containers()) == 1
    house.stop()
    house.assert_nothing_left()


def test_a_broken_state_file_costs_nothing(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=2, pool=2, runtime=runtime)
    house.start()
    before, former = house.replicas(), house.supervisor_pid()
    with clients(house) as strict:
        os.kill(former, 9)
        (house.folder / ".comet/state.json").write_text("{")
        house.start()
        seen = [client.good for client in strict]
        eventually(lambda: all(client.good > count for client, count in zip(strict, seen, strict=True)))
    assert [client.bad for client in strict] == [[]] * len(strict)
    assert [event["pid"] for event in house.events("stale_lock")] == [former]
    assert [event["reason"] for event in house.events("state_unreadable")] == ["not understood"]
    assert {name: row["pid"] for name, row in house.replicas().items()} == {name: row["pid"] for name, row in before.items()}
    house.stop()
    house.assert_nothing_left()


def test_state_that_is_lost_altogether_costs_the_adoption_and_nothing_else(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1)
    house.start()
    before, former = house.replicas(), house.supervisor_pid()
    os.kill(former, 9)
    for file in house.folder.glob(".comet/state.json*"):
        file.write_text("{")
    house.start()
    after = house.replicas()
    assert after["worker-0"]["id"] == before["worker-0"]["id"]  # Its labels suffice.
    assert after["lb-0"]["pid"] != before["lb-0"]["pid"]
    assert house.hello().status_code == 200
    house.stop()
    house.assert_nothing_left()


def test_a_broken_id_file_costs_nothing(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    house.start()
    before = house.replicas()
    os.kill(house.supervisor_pid(), 9)
    file = house.folder / ".comet/id"
    whole = file.read_text()
    file.write_text("\0" * len(whole))
    assert sorted(house.replicas()) == sorted(before)
    house.start()
    assert [event["file"] for event in house.events("state_unreadable")] == ["id"]
    assert {name: row["pid"] for name, row in house.replicas().items()} == {name: row["pid"] for name, row in before.items()}
    assert file.read_text() == whole
    house.stop()
    house.assert_nothing_left()


@pytest.fixture(scope="module")
def own_engine() -> Iterator[PrivateEngine]:
    with private_engine() as made:
        ensure_image(made.client, ROOT, lambda step: None)
        yield made


@pytest.fixture
def engine(own_engine: PrivateEngine) -> Iterator[PrivateEngine]:
    """An engine that these tests may stop, with the worker image in it; it runs again for the next test, however this one ended."""
    try:
        yield own_engine
    finally:
        if not own_engine.running:
            own_engine.start()


def serves_or_says_that_nobody_is_there(answer: requests.Response) -> bool:
    assert answer.status_code in (200, 502, 503), answer.text
    return answer.status_code == 200 or (answer.status_code == 503 and "Retry-After" in answer.headers)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_engine_goes_and_comes_back(make_house: Callable[..., House], engine: PrivateEngine, end: str) -> None:
    house = make_house(worker=2, pool=2)
    house.environment |= engine.environment
    house.start()
    before = house.replicas()
    assert house.hello().status_code == 200
    getattr(engine, end)()
    eventually(lambda: house.events("engine_lost"), what="the loss noticed")
    # The load balancers live on: they answer, if only to say that nobody is there (502 while the last ways to the workers close).
    for number in (0, 1):
        eventually(lambda number=number: serves_or_says_that_nobody_is_there(house.hello(number)), what="an answer in words")
    assert {house.replicas()[f"lb-{number}"]["pid"] for number in (0, 1)} == {before[f"lb-{number}"]["pid"] for number in (0, 1)}
    engine.start()
    eventually(lambda: all(row["state"] == "ready" for row in house.replicas().values()), 60, what="workers ready again")
    eventually(lambda: all(house.hello(number).status_code == 200 for number in (0, 1, 0, 1)), what="answers through both")
    assert {house.replicas()[f"lb-{number}"]["restarts"] for number in (0, 1)} == {0}
    house.stop()
    assert house.containers(engine.client) == []


def test_a_hung_engine_delays_no_load_balancer_and_no_second_stop(make_house: Callable[..., House], engine: PrivateEngine) -> None:
    house = make_house(worker=1, pool=1)
    house.environment |= engine.environment
    with house.foreground() as supervisor:
        eventually(lambda: house.events("replica_ready", "lb-0"), 60)
        container = house.containers(engine.client)[0]
        engine.freeze()
        try:
            pid = next(process.pid for process in house.processes() if "comet: lb-0" in " ".join(process.cmdline()))
            os.kill(pid, 9)
            eventually(lambda: len(house.events("replica_ready", "lb-0")) == 2, what="lb-0 back though the engine hangs")
            assert house.hello().status_code == 200
        finally:
            engine.thaw()
        supervisor.terminate()
        assert supervisor.wait(60) == 0
    assert container not in house.containers(engine.client)


def test_two_clusters_live_side_by_side_f39(make_house: Callable[..., House]) -> None:
    one, two = make_house(worker=1, pool=1), make_house(worker=1, pool=1)
    starts = [threading.Thread(target=each.start) for each in (one, two)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert one.hello().json() != two.hello().json()
    one.stop()
    one.assert_nothing_left()
    assert two.hello().status_code == 200
    two.stop()
    two.assert_nothing_left()


def test_a_cluster_works_in_a_folder_of_200_characters(make_house: Callable[..., House], tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)
    house = House(deep, worker=1, pool=1)
    try:
        house.start()
        assert house.hello().status_code == 200
        os.kill(house.supervisor_pid(), 9)
        eventually(lambda: not house.ps()["supervisor"]["running"])
        house.start()
        assert len(house.events("adopted")) == 2
        house.stop()
        house.assert_nothing_left()
    finally:
        house.destroy()


def test_power_loss_costs_nothing_that_was_committed(make_house: Callable[..., House], runtime: str) -> None:
    """Everything is killed at once, then `run`: leftovers are dealt with, the database is whole, counts are as committed."""
    house = make_house(worker=2, pool=2, runtime=runtime)
    house.start()
    for number in range(20):
        assert house.hello(number % 2).status_code == 200
    before = house.replicas()
    os.kill(house.supervisor_pid(), 9)
    if runtime == "docker":
        with house.engine() as client:
            for row in before.values():
                if row["kind"] == "container":
                    client.api.kill(row["id"])
    for process in house.processes():
        process.kill()
    eventually(lambda: house.processes() == [], what="nothing alive")
    (house.folder / ".comet/run/lb-0.1.sock").touch()  # A stale socket, too.
    house.start()
    assert house.counts()["total"] == 20
    with contextlib.closing(sqlite3.connect(f"file:{house.folder / 'worker-stats.db'}?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert all(row["state"] == "ready" for row in house.replicas().values())
    house.stop()
    house.assert_nothing_left()


def test_a_pid_that_names_another_process_now_is_never_signalled(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    house.start()
    os.kill(house.supervisor_pid(), 9)
    for process in house.processes():
        process.kill()
    eventually(lambda: house.processes() == [])
    with subprocess.Popen(["sleep", "600"]) as stranger:
        state = house.folder / ".comet/state.json"
        content = json.loads(state.read_text())
        for record in content["replicas"]:
            record["pid"] = stranger.pid
        state.write_text(json.dumps(content))
        assert house.replicas() == {}
        house.start()
        assert {(event["replica"], event["pid"]) for event in house.events("pid_reused")} == {
            ("lb-0", stranger.pid), ("worker-0", stranger.pid),
        }  # fmt: skip
        house.stop()
        assert stranger.poll() is None
        stranger.kill()


def test_a_second_signal_does_not_wait_for_an_engine_that_hangs(make_house: Callable[..., House], engine: PrivateEngine) -> None:
    house = make_house(worker=1, pool=1)
    house.environment |= engine.environment
    with house.foreground() as supervisor:
        eventually(lambda: house.events("replica_ready", "lb-0"), 60)
        engine.freeze()
        try:
            supervisor.terminate()
            eventually(lambda: house.events("replica_stopped", "lb-0"))
            supervisor.terminate()
            assert supervisor.wait(30) == 1
            assert supervisor.stdout is not None
            assert "worker-0 may be left" in supervisor.stdout.read()
        finally:
            engine.thaw()
    assert len(house.containers(engine.client)) == 1
    house.stop()
    assert house.containers(engine.client) == []
