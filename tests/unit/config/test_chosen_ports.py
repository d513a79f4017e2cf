"""Ports that Comet chooses: one per name, kept, none of them another program's."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from comet.common.errors import UserError
from comet.config.chosen_ports import ChosenPorts, choose, forget
from comet.config.schema import Config, parse
from comet.host.port_reservations import PortReservations
from comet.host.sockets import PORTS_VARIABLE, bound, find_free
from comet.state.directory import Cluster

FREE = "load-balancer-port: 0\nworker-port: 0\nadmin-port: auto\nload-balancer-host: 127.0.0.1\n"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    made.create()
    return made


@pytest.fixture
def ports(cluster: Cluster) -> Iterator[ChosenPorts]:
    made = ChosenPorts(cluster)
    yield made
    made.close()


def config(cluster: Cluster, text: str = FREE) -> Config:
    return parse(text, cluster.folder / "config.yaml")


def test_each_replica_and_the_dashboard_get_a_port(cluster: Cluster, ports: ChosenPorts) -> None:
    made = ports.assign(config(cluster))
    workers = [made.port("worker", number) for number in range(3)]
    balancers = [made.port("lb", number) for number in range(2)]
    assert workers == [workers[0], workers[0] + 1, workers[0] + 2]
    assert balancers == [balancers[0], balancers[0] + 1]
    assert len({*workers, *balancers, made.dashboard_port}) == 6


def test_ports_that_the_config_gives_stay(cluster: Cluster, ports: ChosenPorts) -> None:
    made = ports.assign(config(cluster, "load-balancer-port: 5050\nworker-port: 6000\nadmin-port: 0\n"))
    assert (made.port("lb", 1), made.port("worker", 2), made.dashboard_port) == (5051, 6002, 0)
    assert not cluster.path("ports.json").exists()


def test_a_further_replica_leaves_the_others_where_they_are(cluster: Cluster, ports: ChosenPorts) -> None:
    before = ports.assign(config(cluster))
    after = ports.assign(replace(before, worker=9, pool=3))
    assert {name: after.chosen[name] for name in before.chosen} == before.chosen
    assert len(set(after.chosen.values())) == 13


def test_the_next_port_is_taken_first(cluster: Cluster, ports: ChosenPorts, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_free("127.0.0.1", 40)
    monkeypatch.setenv(PORTS_VARIABLE, f"{first}-{first + 39}")
    given = config(cluster, f"{FREE}worker: 1\npool: 1\n")
    before = ports.assign(given)
    taken = before.port("worker", 0) + 1
    if taken in before.chosen.values() or taken > first + 39:
        taken = 0
    after = ports.assign(replace(given, worker=2))
    assert after.port("worker", 1) == (taken or after.port("worker", 1))


@pytest.mark.slow
def test_clusters_side_by_side_never_share_a_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_free("127.0.0.1", 60)
    monkeypatch.setenv(PORTS_VARIABLE, f"{first}-{first + 59}")
    made, seen = [], list[int]()
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        each = Cluster(folder)
        each.create()
        made.append(ChosenPorts(each))
        seen += made[-1].assign(config(each)).chosen.values()
    assert len(set(seen)) == 60
    for ports in made:
        ports.close()


def test_a_port_that_somebody_listens_on_is_not_chosen(
    cluster: Cluster, ports: ChosenPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = find_free("127.0.0.1", 4)
    monkeypatch.setenv(PORTS_VARIABLE, f"{first}-{first + 3}")
    one = config(cluster, "load-balancer-port: 0\npool: 3\nworker-port: 6000\nadmin-port: 0\n")
    with bound("127.0.0.1", first + 1, listen=True):
        made = ports.assign(one)
        assert sorted(made.chosen.values()) == [first, first + 2, first + 3]
        with pytest.raises(UserError, match=r"config.yaml:1: load-balancer-port: no 1 free ports") as caught:
            ports.assign(replace(one, pool=4))
    assert caught.value.exit_code == 2


def test_room_for_scale_above_a_given_port_is_left(
    cluster: Cluster, ports: ChosenPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PORTS_VARIABLE, "25000-25600")
    made = ports.assign(config(cluster, "load-balancer-port: 0\nworker-port: 25000\nadmin-port: 0\n"))
    assert all(port >= 25256 for port in made.chosen.values())


def test_the_next_supervisor_goes_on_with_the_same_ports(cluster: Cluster, ports: ChosenPorts) -> None:
    before = ports.assign(config(cluster))
    ports.close()
    following = ChosenPorts(cluster)
    following.resume(config(cluster), [])
    assert following.assign(config(cluster)).chosen == before.chosen
    following.close()


def test_what_runs_is_known_without_the_file(cluster: Cluster, ports: ChosenPorts) -> None:
    with bound("127.0.0.1", 0, listen=True) as living:
        port = living.getsockname()[1]
        ports.resume(config(cluster), [("lb-0", port), (None, 4), ("worker-0", None)])
        assert ports.assign(config(cluster)).port("lb", 0) == port


def test_a_port_that_another_program_took_meanwhile_is_replaced(cluster: Cluster, ports: ChosenPorts) -> None:
    before = ports.assign(config(cluster))
    ports.close()
    with bound("127.0.0.1", before.port("worker", 1), listen=True):
        following = ChosenPorts(cluster)
        following.resume(config(cluster), [])
        after = following.assign(config(cluster))
        following.close()
    changed = {name for name in before.chosen if before.chosen[name] != after.chosen[name]}
    assert changed == {"worker-1"}


def test_surplus_ports_are_given_up(cluster: Cluster, ports: ChosenPorts) -> None:
    made = ports.assign(config(cluster), workers=5)
    ports.prune(config(cluster))
    assert sorted(json.loads(cluster.path("ports.json").read_text())) == [
        "admin", "lb-0", "lb-1", "worker-0", "worker-1", "worker-2",
    ]  # fmt: skip
    others = PortReservations()
    assert others.take(made.port("worker", 4))
    assert not others.take(made.port("worker", 2))
    others.close()


def test_a_missing_file_is_written_again(cluster: Cluster, ports: ChosenPorts) -> None:
    assert not ports.repair()
    ports.assign(config(cluster))
    forget(cluster)
    assert ports.repair()
    assert cluster.path("ports.json").exists()
    assert not ports.repair()


@pytest.mark.parametrize("content", ["", "[]", '{"lb-0": "x"}', '{"lb-0": 70000, "worker-0": 0}', "{"])
def test_a_file_that_is_not_understood_counts_as_missing(cluster: Cluster, ports: ChosenPorts, content: str) -> None:
    cluster.path("ports.json").write_text(content)
    ports.resume(config(cluster), [])
    assert 0 < ports.assign(config(cluster)).port("lb", 0) < 65536


def test_a_swarm_chooses_the_ports_of_its_tasks(cluster: Cluster, ports: ChosenPorts) -> None:
    swarm = "runtime: swarm\nworker-image: example\n"
    assert sorted(ports.assign(config(cluster, FREE + swarm)).chosen) == ["admin", "lb-0", "lb-1"]


def test_consecutive_ports_come_first_then_any() -> None:
    assert choose(2, range(10, 20), 14, lambda port: True) == [14, 15]
    assert choose(2, range(10, 20), None, lambda port: port in (11, 13)) == [11, 13]
    assert choose(2, range(10, 20), None, lambda port: port == 11) is None
