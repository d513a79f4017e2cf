"""Awkward moments: readers that go away, deaths in the midst of a hand-over, configs that changed while nobody supervised."""

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable

import psutil
import pytest

from tests.integration.clusters import House, eventually, free_ports
from tests.integration.test_supervision import clients

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def orphaned(house: House) -> None:
    os.kill(house.supervisor_pid(), 9)
    eventually(lambda: not house.ps()["supervisor"]["running"])


def test_a_reader_that_goes_away_costs_the_display_only(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    with house.foreground() as supervisor:
        eventually(lambda: house.events("replica_ready", "lb-0"))
        assert supervisor.stdout is not None
        supervisor.stdout.close()
        for restarts in (1, 2):
            assert house.comet("kill", "lb-0").returncode == 0
            assert house.hello().status_code == 200
            eventually(lambda restarts=restarts: house.replicas()["lb-0"]["restarts"] == restarts)
        house.stop()
    house.assert_nothing_left()


def test_an_old_load_balancer_that_dies_while_its_heir_takes_over_holds_up_nothing(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process", shutdown_grace=2)
    house.start()
    dice = random.Random(7)
    for _ in range(12):
        pid = house.replicas()["lb-0"]["pid"]
        before = len(house.events("replica_starting", "lb-0"))

        def kill_in_the_midst(pid: int = pid, before: int = before) -> None:
            eventually(lambda: len(house.events("replica_starting", "lb-0")) > before)
            threading.Event().wait(dice.uniform(0.002, 0.03))
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()

        killer = threading.Thread(target=kill_in_the_midst)
        killer.start()
        done = house.comet("restart", "lb-0", timeout=30)
        killer.join()
        assert done.returncode == 0, done.stderr
        assert house.hello().status_code == 200
    house.stop()
    house.assert_nothing_left()


def test_what_changed_while_nobody_supervised_is_not_adopted(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=1)
    house.start()
    orphaned(house)
    house.write(worker_port=free_ports(5))
    house.start()
    assert house.hello().status_code == 200
    assert house.replicas()["worker-0"]["port"] == house.config["worker-port"]
    orphaned(house)
    house.write(runtime="process")
    house.start()
    assert house.containers() == []
    assert house.hello().json()["message"].startswith("hello from process: ")
    assert {row["restarts"] for row in house.replicas().values()} == {0}
    house.stop()
    house.assert_nothing_left()


def test_stop_and_clean_do_not_claim_what_an_absent_engine_keeps_from_them(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1)
    house.start()
    orphaned(house)
    house.environment["DOCKER_HOST"] = f"unix://{house.folder}/no.sock"
    for command in ("stop", "clean", "stop"):
        done = house.comet(command)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "containers of this cluster may be left" in done.stderr
    del house.environment["DOCKER_HOST"]
    assert len(house.containers()) == 1
    house.stop()
    house.assert_nothing_left()


def test_a_cluster_of_no_workers_can_be_scaled_up(make_house: Callable[..., House]) -> None:
    house = make_house(worker=0, pool=1)
    house.start()
    assert house.hello().status_code == 503
    done = house.comet("scale", "worker=1")
    assert done.returncode == 0, done.stderr
    assert house.hello().status_code == 200
    house.stop()
    house.assert_nothing_left()


def test_two_stops_at_once_are_one(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=1)
    house.start()
    orphaned(house)
    done: list[subprocess.CompletedProcess[str]] = []
    stops = [threading.Thread(target=lambda: done.append(house.comet("stop"))) for _ in range(2)]
    for stop in stops:
        stop.start()
    for stop in stops:
        stop.join()
    assert {each.returncode for each in done} <= {0, 3}, done
    assert "Traceback" not in "".join(each.stderr for each in done)
    house.assert_nothing_left()


def test_a_hung_supervisor_is_told_apart_from_none(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    house.start()
    pid = house.supervisor_pid()
    os.kill(pid, 19)
    try:
        listed = house.ps()
        assert (listed["supervisor"]["pid"], listed["supervisor"]["running"]) == (pid, True)
        assert [row["name"] for row in listed["replicas"]] == ["lb-0", "worker-0"]
    finally:
        os.kill(pid, 18)
    house.stop()


def test_a_load_balancer_that_does_not_answer_is_replaced_on_its_socket_before_it_ends(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=2, runtime="process", shutdown_grace=1)
    house.start()
    before = house.replicas()
    orphaned(house)
    os.kill(before["lb-0"]["pid"], signal.SIGSTOP)
    waiting = threading.Thread(target=house.hello, args=(0,))
    with clients(house, number=2) as strict:
        waiting.start()
        house.start()
        # Neither who asks either of them, nor who was waiting in the stopped one's backlog, is refused.
        waiting.join(20)
        assert not waiting.is_alive()
    assert [client.bad for client in strict] == [[]] * len(strict)
    after = house.replicas()
    assert after["lb-0"]["pid"] != before["lb-0"]["pid"]
    assert after["lb-1"]["pid"] == before["lb-1"]["pid"]
    eventually(lambda: not psutil.pid_exists(before["lb-0"]["pid"]), 10, "the stopped one is ended in the end")
    assert house.hello(0).status_code == 200
    house.stop()
    house.assert_nothing_left()


def test_what_another_version_made_is_rolled_without_losing_a_request(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=2, runtime="process")
    house.start()
    before = {name: row["pid"] for name, row in house.replicas().items()}
    orphaned(house)
    # The state file as another version's code would have left it.
    path = house.folder / ".comet/state.json"
    state = json.loads(path.read_text())
    for record in state["replicas"]:
        record["fingerprint"] = "0123456789abcdef"
    path.write_text(json.dumps(state))
    with clients(house) as strict:
        house.start()
        seen = [client.good for client in strict]
        eventually(lambda: all(client.good > count + 10 for client, count in zip(strict, seen, strict=True)))
    assert [client.bad for client in strict] == [[]] * len(strict)
    after = {name: row["pid"] for name, row in house.replicas().items()}
    assert set(after) == set(before)
    assert not set(after.values()) & set(before.values())
    assert {row["restarts"] for row in house.replicas().values()} == {0}
    orphaned(house)
    house.start()
    assert {name: row["pid"] for name, row in house.replicas().items()} == after
    house.stop()
    house.assert_nothing_left()
