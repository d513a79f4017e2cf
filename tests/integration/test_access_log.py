"""`access-log: true`, through a whole cluster and the restart of a load balancer."""

import json
from collections.abc import Callable

import pytest

from tests.integration.clusters import House, eventually

pytestmark = [pytest.mark.slow]


def test_every_request_leaves_a_line_also_across_a_restart(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=1, runtime="process", access_log="true")
    house.start()
    assert [house.hello().status_code for _ in range(4)] == [200] * 4
    path = house.folder / ".comet/logs/lb-0.access.log"
    eventually(lambda: path.exists() and path.read_text().count("\n") == 4)
    assert house.comet("kill", "lb-0").returncode == 0
    assert house.hello().status_code == 200
    eventually(lambda: path.read_text().count("\n") == 5)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["worker"] for record in records[:4]] == ["worker-0", "worker-1"] * 2
    assert path.stat().st_mode & 0o777 == 0o600
    house.stop()
    house.assert_nothing_left()


def test_there_is_none_unless_it_is_asked_for(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    house.start()
    assert house.hello().status_code == 200
    house.stop()
    assert list((house.folder / ".comet/logs").glob("*.access.log*")) == []
