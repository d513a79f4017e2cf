"""The report of `inspect`, and what /proc says of a process, read without the code that makes the report."""

import json
import os
from pathlib import Path
from typing import Any

from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until


class Report:
    """What `inspect --json` prints."""

    def __init__(self, cluster: TestCluster, *names: str) -> None:
        self.cluster = cluster
        done = cluster.comet("inspect", *names, "--json")
        assert done.returncode == 0, done.stderr
        self.told: dict[str, Any] = json.loads(done.stdout)
        self.names = [each["name"] for each in self.told["replicas"]]
        assert self.names == list(names)

    def row(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in self.told["rows"] if each["key"] == key)
        return found

    def cell(self, key: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.row(key)["values"][self.names.index(name)]
        return found

    def value(self, key: str, name: str) -> Any:
        cell = self.cell(key, name)
        assert cell["missing"] is None, (key, cell)
        return cell["value"]

    def marked(self) -> set[str]:
        return {each["key"] for each in self.told["rows"] if each["differs"]}


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def check_against_proc(report: Report, name: str) -> int:
    """Compare every row that /proc alone decides; return the PID."""
    pid = int(report.value("pid", name))
    told, proc = status(pid), Path(f"/proc/{pid}")
    inside = report.value("inside_pid", name)
    assert (inside["pid"], inside["own_numbers"]) == (int(told["NSpid"][-1]), len(told["NSpid"]) > 1)
    user = report.value("user", name)
    assert [user["uid"], user["effective_uid"]] == [int(word) for word in told["Uid"][:2]]
    assert [user["gid"], user["effective_gid"]] == [int(word) for word in told["Gid"][:2]]
    assert user["groups"] == [int(word) for word in told["Groups"]]
    assert report.value("user_map", name) == [list(map(int, line.split())) for line in _lines(proc / "uid_map")]
    for key, field in (("capabilities", "CapEff"), ("bounding", "CapBnd")):
        assert len(report.value(key, name)) == int(told[field][0], 16).bit_count()
    assert report.value("no_new_privileges", name) == (told["NoNewPrivs"] == ["1"])
    assert report.value("seccomp", name)["mode"] == int(told["Seccomp"][0])
    assert report.value("cpus", name) == told["Cpus_allowed_list"][0]
    # Who may not read the first process (root with fewer rights than it) has itself for the host.
    first = "1" if report.told["machine"]["host"] == "PID 1" else "self"
    for kind in ("mnt", "pid", "net", "uts", "ipc", "user", "cgroup"):
        inode = os.stat(proc / "ns" / kind).st_ino
        host = os.stat(f"/proc/{first}/ns/{kind}").st_ino
        assert report.value(f"namespace_{kind}", name) == {"inode": inode, "host": inode == host}
    groups = {words.split(":")[1]: words.split(":")[2] for words in _lines(proc / "cgroup")}
    path = report.value("cgroup", name)["path"]
    assert path == groups.get("memory", groups.get(""))
    if os.stat(proc / "ns/mnt").st_ino != os.stat(f"/proc/{first}/ns/mnt").st_ino:
        # In the host's, they come and go; what others mount there may reach this one, too (mount_namespaces(7), slave).
        wait_until(
            lambda: Report(report.cluster, name).value("mounts", name) == len(_lines(proc / "mountinfo")),
            what="as many mounts",
        )
    assert report.value("root", name)["kind"] == _root_kind(proc)
    assert report.value("environment", name)["bytes"] == len((proc / "environ").read_bytes())
    assert report.value("oom", name)["adjustment"] == int((proc / "oom_score_adj").read_text())
    cards = {line.split(":")[0].strip() for line in _lines(proc / "net/dev")[2:]}
    shown = {each["name"] for each in report.value("interfaces", name)}
    assert "lo" in shown & cards
    if os.stat(proc / "ns/net").st_ino != os.stat(f"/proc/{first}/ns/net").st_ino:
        assert shown == cards  # In the host's, other containers' cards come and go.
    parts = {key: report.value(key, name) for key in ("resident", "private", "shared", "together")}
    assert parts["private"] + parts["shared"] == parts["resident"]
    assert 0 < parts["together"] <= parts["resident"]
    if not _moving_rows_agree(report, name, proc):  # It did something between the two looks: both look again.
        wait_until(
            lambda: _moving_rows_agree(Report(report.cluster, name), name, proc), what="threads, descriptors and memory"
        )
    _check_way(report, name, pid)
    return pid


def _moving_rows_agree(report: Report, name: str, proc: Path) -> bool:
    """Whether the rows that change while a process works are what /proc says just now."""
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in _lines(proc / "smaps_rollup")[1:]}
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return (
        report.value("threads", name) == int(status(int(proc.name))["Threads"][0])
        and abs(report.value("descriptors", name)["open"] - len(list((proc / "fd").iterdir()))) <= 3
        and abs(report.value("resident", name) - sizes["Rss"]) <= 0.1 * sizes["Rss"]
        and abs(report.value("private", name) - private) <= 0.1 * sizes["Rss"]
    )


def _check_way(report: Report, name: str, pid: int) -> None:
    """The tree is the chain of parents, from the first process on."""
    way = [each["pid"] for each in report.value("tree", name)]
    assert (way[0], way[-1]) == (1, pid)
    assert [int(status(each)["PPid"][0]) for each in way] == [0, *way[:-1]]


def _root_kind(proc: Path) -> str:
    lines = [line for line in _lines(proc / "mountinfo") if line.split()[4] == "/"]
    return lines[-1].partition(" - ")[2].split()[0]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
