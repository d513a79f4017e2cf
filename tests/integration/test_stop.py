"""The way out: requests in flight finish, nothing is left, whenever the stop comes."""

import os
import signal
import threading
from collections.abc import Callable

import pytest
import requests

from tests.engines import private_engine
from tests.integration.clusters import House, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_requests_finish_and_leaves_nothing_f9_f37(make_house: Callable[..., House], runtime: str, number: int) -> None:
    house = make_house(worker=2, pool=2, runtime=runtime, avg_delay=3000, delay_distribution="constant", shutdown_grace=8)
    with house.foreground() as supervisor:
        assert supervisor.stdout is not None
        for line in supervisor.stdout:
            if line == "ready\n":
                break
        answers: list[int] = []
        asked = [threading.Thread(target=lambda index=index: answers.append(house.hello(index % 2).status_code)) for index in range(8)]
        for thread in asked:
            thread.start()
        eventually(
            lambda: sum(row["in_flight"] for row in house.replicas().values() if row["role"] == "lb") == 8, what="8 requests in flight"
        )
        supervisor.send_signal(number)
        for thread in asked:
            thread.join(30)
        assert supervisor.wait(60) == 0
    assert answers == [200] * 8
    house.assert_nothing_left()


def test_ctrl_c_reaches_the_whole_terminal_group_and_requests_finish_all_the_same(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process", avg_delay=1500)
    with house.foreground() as supervisor:
        eventually(lambda: house.events("replica_ready", "lb-0"))
        answers: list[int] = []
        asked = threading.Thread(target=lambda: answers.append(house.hello().status_code))
        asked.start()
        eventually(lambda: house.replicas()["lb-0"]["in_flight"] == 1)
        os.killpg(supervisor.pid, signal.SIGINT)
        asked.join(30)
        assert supervisor.wait(60) == 0
    assert answers == [200]
    house.assert_nothing_left()


def test_a_second_signal_stops_at_once(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process", avg_delay=60000, shutdown_grace=300)
    with house.foreground() as supervisor:
        eventually(lambda: house.events("replica_ready", "lb-0"))
        failed: list[str] = []

        def ask() -> None:
            try:
                failed.append(house.hello().text)
            except requests.RequestException as error:
                failed.append(type(error).__name__)

        asked = threading.Thread(target=ask, daemon=True)
        asked.start()
        eventually(lambda: house.replicas()["lb-0"]["in_flight"] == 1)
        supervisor.send_signal(signal.SIGTERM)
        eventually(lambda: house.replicas()["lb-0"]["state"] == "stopping")
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(60)
        asked.join(30)
    # Whichever was killed first: the load balancer, or the worker, of which the load balancer could still tell.
    assert len(failed) == 1
    assert failed[0] == "ConnectionError" or "the worker closed the connection" in failed[0]
    house.assert_nothing_left()


def test_a_signal_during_the_start_leaves_nothing_f8(make_house: Callable[..., House], runtime: str) -> None:
    """At several moments of the start, from the first line on."""
    house = make_house(worker=3, pool=2, runtime=runtime)
    for moment in ("supervisor_started", "replica_starting", "replica_ready"):
        before = len(house.events(moment))
        with house.foreground() as supervisor:
            eventually(lambda moment=moment, before=before: len(house.events(moment)) > before)
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(60) == 0
        house.assert_nothing_left()


def test_former_workers_stay_in_the_totals_until_a_reset_f29(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=1)
    for total in (4, 8):
        house.start()
        for _ in range(4):
            house.hello()
        counts = house.counts()
        assert counts["total"] == total
        assert len(counts) == 1 + total // 2
        house.stop()
    assert house.comet("stats", "--reset").returncode == 0
    house.start()
    house.hello()
    assert house.counts()["total"] == 1
    house.stop()
    house.assert_nothing_left()


def test_clean_removes_the_state_and_keeps_the_statistics(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    house.start()
    house.hello()
    house.stop()
    done = house.comet("clean")
    assert done.returncode == 0
    assert [path.name for path in (house.folder / ".comet").iterdir()] == ["stats"]
    assert "REQUESTS" not in done.stdout
    house.start()
    assert house.counts()["total"] == 1
    house.stop()


def test_a_signal_during_the_image_build_leaves_nothing_f8_f35(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1)
    with private_engine() as engine:
        house.environment |= engine.environment
        with house.foreground() as supervisor:
            assert supervisor.stdout is not None
            seen = []
            for line in supervisor.stdout:
                seen.append(line)
                if line.startswith("building comet-worker:"):
                    break
            assert seen[-1].startswith("building"), seen
            supervisor.send_signal(signal.SIGINT)
            assert supervisor.wait(30) == 0
        assert house.containers(engine.client) == []
        assert house.events("replica_starting") == []
        assert house.processes() == []
