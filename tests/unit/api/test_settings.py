"""Keyword arguments become a config; what is wrong with them is told by their names."""

from pathlib import Path

import pytest

from comet.api import settings
from comet.common.errors import UserError
from comet.config.schema import Config

HERE, THERE = Path("/cluster"), Path("/work here")


def made(**keys: object) -> Config:
    return settings.config(keys, HERE, THERE)[0]


def test_the_defaults_suit_a_test() -> None:
    config = made()
    assert (config.runtime, config.avg_delay, config.failure, config.admin_port) == ("process", 0, 0, 0)
    assert (config.load_balancer_port, config.worker_port, config.load_balancer_host) == (0, 0, "127.0.0.1")
    assert config.folder == HERE


def test_underscores_stand_for_dashes_in_names_only() -> None:
    config = made(worker=2, avg_delay=1.5, faults={"worker-1": {"slow_body": 3}}, health_path="/a_b")
    assert (config.worker, config.avg_delay, config.health_path) == (2, 1.5, "/a_b")
    assert config.faults == {"worker-1": {"slow-body": 3.0}}
    assert made(limits={"max_head": 64}).max_head == made(max_head=64).max_head == 64


def test_values_of_python_are_written_as_yaml_reads_them() -> None:
    config = made(
        worker_image="example",
        runtime="docker",
        worker_environment={"A": "1: #x", "B": "ü\n"},
        worker_volumes=({"source": Path("/a"), "target": "/b"},),
        upstream_keep_alive=False,
        max_body="none",
    )
    assert dict(config.worker_environment) == {"A": "1: #x", "B": "ü\n"}
    assert config.worker_volumes == (("/a", "/b", False),)
    assert not config.upstream_keep_alive


def test_a_command_of_ones_own_runs_where_the_caller_works() -> None:
    for command in ("serve --port {port}", ["serve", "--port", "{port}"]):
        config = made(worker_command=command)
        assert config.worker_command[-4:] == (str(THERE), "serve", "--port", "{port}")
        assert config.worker_command[:2] == ("sh", "-c")
        assert (config.fault_point, config.worker_user) == ("lb", None)
    config, _ = settings.config({"worker_command": "serve"}, HERE, THERE, is_root=True)
    assert config.worker_user == "root"
    config, _ = settings.config({"worker_command": "serve", "worker_user": "1:1"}, HERE, THERE, is_root=True)
    assert config.worker_user == "1:1"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"wroker": 3}, "comet.cluster: wroker: unknown key (did you mean worker?)"),
        ({"avg_delay": -1}, "comet.cluster: avg_delay: -1 is out of range (allowed: milliseconds, from 0 to 600000)"),
        ({"avg_delay": "a: b"}, "comet.cluster: avg_delay: 'a: b' is not a number (allowed: milliseconds, from 0 to"),
        ({"worker": object}, "comet.cluster: <class 'object'> (type) cannot be a setting"),
        ({"worker": 1, "faults": {"worker-3": {}}}, "comet.cluster: faults.worker-3: no such worker"),
        ({"worker_command": "'"}, "comet.cluster: worker_command: "),
    ],
)
def test_what_is_wrong_is_told_by_the_argument(keys: dict[str, object], told: str) -> None:
    with pytest.raises(UserError) as caught:
        made(**keys)
    assert caught.value.message.startswith(told)
    assert caught.value.exit_code == 2


def test_all_problems_are_told_together() -> None:
    with pytest.raises(UserError) as caught:
        made(pool=0, failure=101)
    assert {line.split(":")[1] for line in caught.value.message.splitlines()} == {" pool", " failure"}
