"""Limits, use and pressure of control groups: version 1 as recorded, version 2 written as the kernel does."""

from pathlib import Path

import pytest

from comet.inspection import cgroup
from comet.inspection.cgroup import HIDDEN
from comet.inspection.facts import CgroupFacts, Limit, Missing, Pressure
from tests.unit.inspection.recording import CONTAINER, WORKER, unpack, unpacked

GROUP = f"/docker/{CONTAINER}"

MIB = 1 << 20

VERSION_2 = f"""=== sys/fs/cgroup/system.slice/memory.max
1073741824
=== sys/fs/cgroup/system.slice/pids.max
500
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/memory.max
max
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/memory.current
25165824
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/memory.events
low 0
high 0
max 17
oom 1
oom_kill 1
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/memory.stat
anon 20971520
file 4194304
kernel 0
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/cpu.max
50000 100000
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/cpu.weight
100
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/cpu.stat
usage_usec 900
nr_periods 80
nr_throttled 12
throttled_usec 1000
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/pids.max
max
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/pids.current
4
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/cgroup.procs
10
11
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/cpu.pressure
some avg10=12.50 avg60=1.00 avg300=0.00 total=14199414
full avg10=1.56 avg60=2.30 avg300=2.61 total=14166431
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/memory.pressure
some avg10=0.00 avg60=1.00 avg300=0.00 total=1
=== sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/io.pressure
some avg10=3.00 avg60=1.00 avg300=0.00 total=1
"""

SCOPE = f"/system.slice/docker-{CONTAINER}.scope"
MOUNTED_2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def version_1(tmp_path: Path) -> CgroupFacts:
    tree = unpacked(tmp_path, "container", "balancer")
    mounted = cgroup.trees((tree / "proc/1484/mountinfo").read_text(), tree)
    return cgroup.read((tree / f"proc/{WORKER}/cgroup").read_text(), mounted, tree / "none")


@pytest.fixture
def version_2(tmp_path: Path) -> CgroupFacts:
    unpack(tmp_path, VERSION_2)
    return cgroup.read(f"0::{SCOPE}\n", cgroup.trees(MOUNTED_2, tmp_path), tmp_path / "none")


def test_version_1(version_1: CgroupFacts) -> None:
    assert version_1.version == 1
    assert version_1.paths["memory"] == version_1.paths[""] == GROUP
    assert version_1.memory_limit == Limit(256 * MIB, GROUP)
    assert (version_1.memory_used, version_1.page_cache) == (24788992, 643072)
    assert version_1.memory_hits == 0
    assert (version_1.cpus, version_1.weight) == (Limit(None), 1024)
    assert (version_1.tasks_limit, version_1.tasks) == (Limit(2100, GROUP), 4)
    assert version_1.throttled == (0, 0)
    assert version_1.members == 2


def test_version_1_has_the_pressure_of_version_2_beside_it(version_1: CgroupFacts) -> None:
    assert isinstance(version_1.pressure, Pressure)
    assert version_1.pressure.own
    assert version_1.pressure.cpu is not None


def test_version_2(version_2: CgroupFacts) -> None:
    assert version_2.version == 2
    assert version_2.memory_used == 24 * MIB
    assert (version_2.memory_hits, version_2.page_cache) == (17, 4 * MIB)
    assert (version_2.cpus, version_2.weight) == (Limit(0.5, SCOPE), 100)
    assert version_2.throttled == (12, 80)
    assert (version_2.tasks, version_2.members) == (4, 2)
    assert version_2.pressure == Pressure(12.5, 0.0, 3.0, own=True)


def test_the_strictest_limit_on_the_way_up_applies(version_2: CgroupFacts) -> None:
    assert version_2.memory_limit == Limit(1024 * MIB, "/system.slice")
    assert version_2.tasks_limit == Limit(500, "/system.slice")


def test_without_pressure_of_its_own_a_group_has_the_machines(tmp_path: Path) -> None:
    unpack(tmp_path, VERSION_2)
    for resource in ("cpu", "memory", "io"):
        (tmp_path / f"sys/fs/cgroup{SCOPE}/{resource}.pressure").unlink()
    unpack(tmp_path, "=== pressure/cpu\nsome avg10=94.52 avg60=82.41 avg300=35.12 total=1\n")
    found = cgroup.read(f"0::{SCOPE}\n", cgroup.trees(MOUNTED_2, tmp_path), tmp_path / "pressure")
    assert found.pressure == Pressure(94.52, None, None, own=False)
    found = cgroup.read(f"0::{SCOPE}\n", cgroup.trees(MOUNTED_2, tmp_path), tmp_path / "nowhere")
    assert isinstance(found.pressure, Missing)


def test_a_group_outside_the_mounted_part_is_not_visible(tmp_path: Path) -> None:
    """In a container the mount begins at the container's own group."""
    mounted = cgroup.trees(MOUNTED_2.replace("0:26 / ", "0:26 /docker/abc "), tmp_path)
    found = cgroup.read("0::/system.slice/other.service\n", mounted, tmp_path / "none")
    assert (found.memory_limit, found.memory_used) == (HIDDEN, HIDDEN)
    assert cgroup.group_of("memory", {"": "/docker/abcd"}, mounted) is None
    inside = cgroup.group_of("memory", {"": "/docker/abc/below"}, mounted)
    assert inside is not None
    assert inside.folder == tmp_path / "sys/fs/cgroup/below"


def test_a_limit_without_a_group_is_not_taken_for_none(tmp_path: Path) -> None:
    found = cgroup.read("0::/gone\n", cgroup.trees(MOUNTED_2, tmp_path), tmp_path / "none")
    assert isinstance(found.memory_limit, Missing)


def test_controllers_that_are_mounted_together(tmp_path: Path) -> None:
    mounts = "33 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    unpack(tmp_path, "=== sys/fs/cgroup/cpu,cpuacct/a/cpu.shares\n512\n")
    found = cgroup.read("4:cpu,cpuacct:/a\n", cgroup.trees(mounts, tmp_path), tmp_path / "none")
    assert found.weight == 512
