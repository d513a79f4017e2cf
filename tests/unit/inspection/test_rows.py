"""The rows of `inspect`: what each shows of a load balancer and of a worker in a container, and what is marked."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from comet.common.figures import size
from comet.inspection import rows, text, values
from comet.inspection.facts import DENIED, Facts, Limit
from tests.unit.inspection.recording import CONTAINER
from tests.unit.inspection.samples import MACHINE, balancer, worker


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return rows.report([balancer(), worker()], MACHINE)


def row(report: dict[str, Any], key: str) -> dict[str, Any]:
    return next(each for each in report["rows"] if each["key"] == key)


def texts(report: dict[str, Any], key: str) -> list[str]:
    return [value["text"] for value in row(report, key)["values"]]


def test_every_row_says_what_it_means_in_five_words() -> None:
    every = [each for group in rows.GROUPS.values() for each in group]
    assert [each.key for each in every if not 0 < len(each.meaning.split()) <= 5] == []
    assert len({each.key for each in every}) == len(every)
    assert len({(each.heading, group) for group, members in rows.GROUPS.items() for each in members}) == len(every)


def test_a_report_is_plain_data(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report)) == report
    assert [each["name"] for each in report["replicas"]] == ["lb-0", "worker-0"]
    assert [each["container"] for each in report["replicas"]] == [None, CONTAINER]


@pytest.mark.parametrize(
    ("key", "process", "container"),
    [
        ("tree", "systemd (1) → comet: supervisor (10) → forkserver (11) → comet: lb-0 (1484)",
         "systemd (1) → containerd-shim-runc-v2 (20) → docker-init (21) → python3 (1740)"),
        ("inside_pid", "29484, the same", "7"),
        ("age", "90 s", "90 s"),
        ("user", "0:0", "10001:10001, groups 10001"),
        ("user_map", "none: the same outside", "none: the same outside"),
        ("capabilities", "all but sys_resource", "none"),
        ("no_new_privileges", "no", "yes"),
        ("seccomp", "off", "filter (1 installed)"),
        ("label", "none (no security module is active)", "none (no security module is active)"),
        ("namespace_mnt", "host's 4026531832", "its own 4026534683"),
        ("namespace_user", "host's 4026531837", "host's 4026531837"),
        ("memory_limit", "not known (this kernel does not say)", "256 MiB"),
        ("cpu_limit", "none", "none, weight 1024"),
        ("cpus", "0-1", "0-1"),
        ("root", "ext4 /dev/sda1, writable", "overlay overlay, read-only"),
        ("layers", "none (its files are the host's)", "4 read-only (3 of the image, 1 of the engine), 1 writable"),
        ("image", "none (its files are the host's)", "comet-worker:1 (Docker 20.10.24, started by runc)"),
        ("descriptors", "23 of 20000 (6 sockets, 5 pipes, 9 files, 3 others)",
         "16 of 20000 (1 socket, 5 pipes, 8 files, 2 others)"),
        ("gateway", "192.0.2.1 by eth0", "172.18.0.1 by eth0"),
        ("way", "port 5050: itself (1484)", "port 6000: docker-proxy (30) → 172.18.0.2:8080, network comet-955a"),
        ("nat", "none", "127.0.0.1:6000 → 172.18.0.2:8080; not from this machine's loopback"),
        ("resident", "23.2 MiB", "34.3 MiB"),
        ("together", "8.00 KiB", "12.0 MiB"),
        ("environment", "3 variables, 56 bytes", "3 variables, 56 bytes"),
        ("oom", "666, adjusted by 0", "667, adjusted by 0"),
    ],
)  # fmt: skip
def test_what_a_process_and_a_container_show(report: dict[str, Any], key: str, process: str, container: str) -> None:
    assert texts(report, key) == [process, container]


def test_what_differs_is_marked(report: dict[str, Any]) -> None:
    marked = {each["key"] for each in report["rows"] if each["differs"]}
    assert {"tree", "inside_pid", "user", "capabilities", "seccomp", "namespace_net", "root", "layers", "binds", "way",
            "nat", "shared", "image"} <= marked  # fmt: skip
    assert marked.isdisjoint({"pid", "age", "user_map", "label", "namespace_user", "cpus", "environment", "oom"})


def test_two_replicas_of_one_kind_differ_in_little() -> None:
    one = worker()
    report = rows.report([one, replace(one, name="worker-1")], MACHINE)
    assert [each["key"] for each in report["rows"] if each["differs"]] == []


def test_what_is_not_known_is_no_difference() -> None:
    one = worker()
    hidden = replace(one, name="worker-1", process=replace(one.process, memory=DENIED, status=DENIED, mounts=DENIED))
    report = rows.report([one, hidden], MACHINE)
    assert not any(each["differs"] for each in report["rows"])
    value = row(report, "private")["values"][1]
    assert value == {"text": "not permitted (run as root)", "value": None, "missing": "not permitted",
                     "remedy": "run as root"}  # fmt: skip


def test_what_is_known_to_be_absent_is_a_difference(report: dict[str, Any]) -> None:
    layers = row(report, "layers")
    assert layers["differs"]
    assert (layers["values"][0]["missing"], layers["values"][0]["remedy"]) == ("none", None)


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_replicas_is_shown(count: int) -> None:
    one = worker()
    report = rows.report([replace(one, name=f"worker-{number}") for number in range(count)], MACHINE)
    assert {len(each["values"]) for each in report["rows"]} == {count}
    assert not any(each["differs"] for each in report["rows"])


def with_limit(facts: Facts, limit: Limit) -> Facts:
    assert not isinstance(facts.cgroup, type(DENIED))
    return replace(facts, cgroup=replace(facts.cgroup, memory_limit=limit))


def test_a_limit_of_a_group_above_names_it() -> None:
    one = worker()
    found = values.memory_limit(with_limit(one, Limit(1 << 30, "/docker")), MACHINE)
    assert text.size_limit(found) == "1.00 GiB (set by /docker)"
    own = values.memory_limit(with_limit(one, Limit(1 << 30, f"/docker/{CONTAINER}")), MACHINE)
    assert text.size_limit(own) == "1.00 GiB"


def test_whose_a_namespace_is_may_be_unknown() -> None:
    hidden = replace(MACHINE, namespaces={"net": DENIED})
    found = values.namespace(worker(), hidden, "net")
    assert found == {"inode": 4026534687, "host": None}
    assert text.namespace(found) == "unknown whose 4026534687"


@pytest.mark.parametrize(
    ("write", "value", "shown"),
    [
        (size, 0, "0 B"),
        (size, 2048, "2.00 KiB"),
        (size, 3 << 30, "3.00 GiB"),
        (text.seconds, 59.9, "59 s"),
        (text.seconds, 7200, "2 h"),
        (text.seconds, 300000, "3 d"),
        (text.user_map, [[0, 100000, 65536]], "0 is 100000 outside (65536)"),
        (text.user_map, [], "nobody"),
        (text.capabilities, ["chown", "kill"], "2: chown, kill"),
        (text.seccomp, {"mode": 1, "filters": None}, "strict"),
        (text.throttled, {"throttled": 12, "periods": 80}, "12 of 80"),
        (text.cpu_limit, {"cores": 0.5, "inherited": False, "group": "/a", "weight": None}, "0.5 cores"),
        (text.tasks_limit, {"limit": None, "tasks": 4}, "none, now 4"),
        (text.used, {"used": 1 << 20, "members": 2, "limit_hits": 1}, "1.00 MiB by 2 processes, limit met 1 time"),
        (text.pressure, {"cpu": 12.5, "memory": None, "io": 3.0, "own": False}, "CPU 12 %, I/O 3 % (whole machine)"),
        (text.listeners, {"port": 1, "listeners": [], "network": None}, "port 1: no process, the kernel forwards it"),
        (text.listed, ["a", "b", "c", "d", "e"], "a, b, c, d and 1 more"),
        (text.binds, [], "nothing"),
        (text.interfaces, [], "none"),
        (text.or_none, {"gateway": None}, "none"),
    ],
)
def test_values_as_people_read_them(write: Callable[[Any], str], value: Any, shown: str) -> None:
    assert write(value) == shown
