"""What is read of a process, from recorded trees of /proc: a worker in a container, and a load balancer."""

import os
from pathlib import Path

import pytest

from comet.inspection import proc, proc_text
from comet.inspection.facts import DENIED, NAMESPACES, UNSUPPORTED, Descriptors, Interface, Missing, Mount, fact
from comet.inspection.proc import Gone, ProcessFolder
from tests.unit.inspection.recording import BALANCER, INIT, WORKER, unpacked


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return unpacked(tmp_path, "container", "balancer") / "proc"


def test_a_worker_in_a_container(tree: Path) -> None:
    with ProcessFolder(WORKER, proc=tree) as folder:
        found = proc.read(folder, now=folder.birth + 60)
    status = found.status
    assert not isinstance(status, Missing)
    assert (found.age, status.threads, status.inside) == (60, 3, (29040, 7))
    assert (status.uids, status.groups) == ((10001,) * 4, (10001,))
    assert (status.effective, status.bounding) == (0, 0)
    assert (status.no_new_privileges, status.seccomp, status.filters) == (True, 2, 1)
    assert found.command.startswith("python3 -m worker_app --listen 0.0.0.0:8080")
    assert found.uid_map == ((0, 0, 4294967295),)
    assert found.namespaces["net"] == 4026534687
    assert set(found.namespaces) == set(NAMESPACES)
    assert found.interfaces == (Interface("lo", ("127.0.0.1/8",)), Interface("eth0", ("172.18.0.2/16",)))
    assert found.gateway == "172.18.0.1 by eth0"
    assert found.descriptors == Descriptors(sockets=1, pipes=5, files=8, others=2, limit=20000)
    assert found.environment == (3, 56)
    assert found.oom == (667, 0)


def test_its_memory_adds_up(tree: Path) -> None:
    with ProcessFolder(WORKER, proc=tree) as folder:
        memory = proc.read(folder).memory
    assert not isinstance(memory, Missing)
    assert memory.private + memory.shared == memory.resident
    assert memory.shared == (12320 + 8) * 1024
    assert memory.private < memory.proportional < memory.resident


def test_its_root_is_an_overlay_of_layers(tree: Path) -> None:
    with ProcessFolder(WORKER, proc=tree) as folder:
        mounts = proc.read(folder).mounts
    assert not isinstance(mounts, Missing)
    root = next(mount for mount in mounts if mount.place == "/")
    assert (root.kind, root.read_only, proc_text.layers(root)) == ("overlay", True, 4)
    assert ("/home/ann/comet/.comet/faults", True) in [(each.root, each.read_only) for each in mounts]


def test_a_process_on_the_host(tree: Path) -> None:
    with ProcessFolder(BALANCER, proc=tree) as folder:
        found = proc.read(folder)
    assert not isinstance(found.status, Missing)
    assert found.command == "comet: lb-0 :20000"
    assert len(found.status.inside) == 1
    assert "sys_admin" in proc_text.capabilities(found.status.effective)
    assert isinstance(found.interfaces, tuple)
    eth0 = next(each for each in found.interfaces if each.name == "eth0")
    assert eth0.addresses[0] == "192.0.2.2/24"
    assert found.gateway == "192.0.2.1 by eth0"


def test_a_process_with_another_birth_is_not_read(tree: Path) -> None:
    with ProcessFolder(WORKER, proc=tree) as folder:
        birth = folder.birth
    ProcessFolder(WORKER, birth, tree).close()
    with pytest.raises(Gone):
        ProcessFolder(WORKER, birth + 0.01, tree)
    with pytest.raises(Gone):
        ProcessFolder(4242, proc=tree)


def test_a_zombie_is_gone(tree: Path) -> None:
    stat = tree / str(INIT) / "stat"
    stat.write_text(stat.read_text().replace(") S ", ") Z "))
    with pytest.raises(Gone):
        ProcessFolder(INIT, proc=tree)


def test_what_comes_to_the_place_of_a_process_is_not_read(tree: Path) -> None:
    """The folder stays that of the process that it was opened for."""
    with ProcessFolder(WORKER, proc=tree) as folder:
        (tree / str(WORKER)).rename(tree / "before")
        (tree / str(BALANCER)).rename(tree / str(WORKER))
        assert proc.read(folder).command.startswith("python3 -m worker_app")


def test_what_a_kernel_does_not_say_hides_nothing_else(tree: Path) -> None:
    for name in ("smaps_rollup", "uid_map", "oom_score", "ns/time"):
        (tree / str(WORKER) / name).unlink()
    with ProcessFolder(WORKER, proc=tree) as folder:
        found = proc.read(folder)
    assert (found.memory, found.uid_map, found.oom) == (UNSUPPORTED,) * 3
    assert "time" not in found.namespaces
    assert found.environment == (3, 56)


def test_a_refusal_says_what_to_do() -> None:
    def refused() -> int:
        raise PermissionError

    assert fact(refused) == DENIED
    assert str(DENIED) == "not permitted (run as root)"


def test_no_security_module_is_no_refusal(tree: Path) -> None:
    with ProcessFolder(WORKER, proc=tree) as folder:
        label = proc.read(folder).label
        assert isinstance(label, Missing)
        assert label.absent
        (tree / str(WORKER) / "attr").mkdir()
        (tree / str(WORKER) / "attr/current").write_text("docker-default (enforce)\n")
        assert proc.read(folder).label == "docker-default (enforce)"


def test_passwords_are_not_shown(tree: Path) -> None:
    line = "serve\0--password\0hunter2\0postgresql://me:hunter2@db/stats\0"
    (tree / str(WORKER) / "cmdline").write_text(line)
    with ProcessFolder(WORKER, proc=tree) as folder:
        assert proc.command(folder) == "serve --password *** postgresql://me:***@db/stats"


def test_the_host_is_the_first_process(tree: Path) -> None:
    (tree / str(BALANCER)).rename(tree / "1")
    assert proc.machine(tree).reference == "PID 1"
    assert proc.machine(tree).namespaces["net"] == 4026531833


def test_this_process_stands_for_a_hidden_first_one(tree: Path) -> None:
    (tree / str(BALANCER)).rename(tree / str(os.getpid()))
    assert proc.machine(tree).reference == "this command"


@pytest.mark.parametrize(
    ("kind", "options", "layers"),
    [
        ("ext4", "rw", 0),
        ("overlay", "rw,lowerdir=/a:/b,upperdir=/u,workdir=/w", 2),
        ("overlay", r"rw,lowerdir=/a\:1:/b", 2),
        ("overlay", "rw,lowerdir+=/a,lowerdir+=/b,lowerdir+=/c,upperdir=/u", 3),
        ("overlay", "rw,lowerdir=/a::/data", 2),
    ],
)
def test_layers_are_counted_as_each_kernel_writes_them(kind: str, options: str, layers: int) -> None:
    mount = Mount(1, 0, "0:1", "/", "/", False, kind, kind, tuple(options.split(",")))
    assert proc_text.layers(mount) == layers


def test_odd_characters_in_mounts() -> None:
    (mount,) = proc_text.mounts("36 35 8:1 /a\\040b /mnt\\134c rw,noatime shared:1 master:2 - ext4 /dev/sda1 rw\n")
    assert (mount.root, mount.place, mount.read_only) == ("/a b", "/mnt\\c", False)


def test_old_kernels_say_less() -> None:
    old = "Pid:\t9\nPPid:\t1\nThreads:\t1\nUid:\t0 0 0 0\nGid:\t0 0 0 0\nCapEff:\t0\nCapBnd:\t0\n"
    status = proc_text.status(old)
    assert (status.inside, status.no_new_privileges, status.seccomp, status.filters) == ((9,), None, None, None)


@pytest.mark.parametrize("text", ["", "nonsense", "Pid: x"])
def test_text_that_is_no_status_is_refused(text: str) -> None:
    with pytest.raises((ValueError, LookupError)):
        proc_text.status(text)


def test_a_capability_that_is_newer_than_the_list_has_its_number() -> None:
    assert proc_text.capabilities(1 | 1 << 50) == ["chown", "50"]


def test_only_ranges_with_pages_in_memory_are_looked_at() -> None:
    smaps = "1000-3000 r-xp 0 08:01 7 /bin/x\nRss:   8 kB\nPss: 4 kB\n4000-5000 ---p 0 00:00 0\nRss:   0 kB\n"
    assert proc_text.resident_ranges(smaps) == [(0x1000, 0x3000)]
