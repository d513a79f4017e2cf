"""What a custom service that is an OS process may reach of the host.

The attacker is the service itself: see tests/support/thief.py.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest

from comet.state.directory import WORKER_UID
from tests.support.cluster import PYTHON, open_folder
from tests.support.thief import THIEF, Thief, no_rights, service
from tests.support.waiting import wait_until
from tests.unit.host.test_confinement import closed

needs_root = pytest.mark.root


@needs_root
def test_a_service_of_roots_has_no_capability_and_no_group(thief: Thief) -> None:
    seen = thief.asked("look")
    assert no_rights(seen["status"]), seen["status"]
    assert seen["status"]["Uid"].split() == seen["status"]["Gid"].split() == [str(WORKER_UID)] * 4
    assert seen["status"]["Groups"].split() == []


@needs_root
def test_a_service_of_roots_reads_no_file_that_its_user_may_not(thief: Thief) -> None:
    state, supervisor = thief.cluster.folder / ".comet", thief.cluster.supervisor_pid()
    balancer = thief.cluster.replicas()["lb-0"]["pid"]
    assert (state / "admin.token").exists()
    wanted = [
        "/etc/shadow",
        f"{state}/admin.token",
        f"{state}/lock",
        f"{state}/events.jsonl",
        f"{state}",
        f"{state}/run",
        f"{state}/logs",
    ]
    wanted += [
        f"{state}/logs/worker-0.log",
        f"{thief.cluster.folder}/config.yaml",
        "config.yaml",
        ".comet/admin.token",
        "/root/.bashrc",
    ]
    for pid in (1, supervisor, balancer):
        wanted += [
            f"/proc/{pid}/environ",
            f"/proc/{pid}/fd",
            f"/proc/{pid}/root/etc/shadow",
            f"/proc/{pid}/cwd/config.yaml",
            f"/proc/{pid}/maps",
        ]
        wanted += [f"/proc/{pid}/fd/{number}" for number in sorted(os.listdir(f"/proc/{pid}/fd"))[:40]]
    read = {
        path: told
        for path in wanted
        if not thief.is_refused("read", path) and (told := thief.asked("read", path)) != {"errno": 2}
    }
    assert read == {}
    linked = {
        path for path in wanted if not thief.is_refused("link", path) and thief.asked("link", path) != {"errno": 2}
    }
    assert linked == set()


@needs_root
def test_a_service_of_roots_inherits_nothing_but_its_output(thief: Thief) -> None:

    def look() -> dict[str, Any] | None:
        """A check of its health, or the end of the question before, may have a connection at the same moment."""
        seen: dict[str, Any] = thief.asked("look")
        sockets = sum(target.startswith("socket:") for target in seen["fds"].values())
        return seen if sockets <= 2 else None

    # Its own: the socket that it listens on, and the connection that asks.
    seen = wait_until(look, what="no third socket")
    assert seen is not None
    log = str(thief.cluster.folder / ".comet/logs/worker-0.log")
    assert (seen["fds"]["0"], seen["fds"]["1"], seen["fds"]["2"]) == ("/dev/null", log, log)
    # And what looks.
    assert all(target.startswith(("socket:", "/proc/")) for number, target in seen["fds"].items() if int(number) > 2), (
        seen["fds"]
    )
    assert {name for name in seen["environ"] if name.startswith("COMET_")} == {
        "COMET_CLUSTER",
        "COMET_FOLDER",
        "COMET_REPLICA",
    }
    assert (seen["environ"]["HOME"], seen["environ"]["USER"]) == ("/", str(WORKER_UID))


@needs_root
def test_roots_service_may_reopen_its_output_without_owning_it(thief: Thief) -> None:
    for path in ("/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/2"):
        assert thief.asked("reopen", path) is None, path
    assert "reopened\n" * 4 in thief.cluster.comet("logs", "worker-0").stdout
    log = thief.cluster.folder / ".comet/logs/worker-0.log"
    assert (log.stat().st_uid, log.stat().st_gid, log.stat().st_mode & 0o777) == (0, WORKER_UID, 0o620)
    # Neither a second name, nor another mode, nor another service's output.
    if Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1":
        assert thief.is_refused("second_name", "/proc/self/fd/1")
    assert thief.is_refused("open_up", "/proc/self/fd/1")
    assert thief.is_refused("read", "/proc/self/fd/1")
    assert thief.is_refused("reopen", str(log.with_name("supervisor.log")))


@needs_root
def test_a_service_of_roots_signals_and_traces_nobody(thief: Thief) -> None:
    others = [
        1,
        thief.cluster.supervisor_pid(),
        *(process.pid for process in thief.cluster.processes() if process.pid != thief.pid),
    ]
    # Of what has ended meanwhile nobody is refused anything.
    assert [pid for pid in others if not thief.is_refused("kill", pid) and psutil.pid_exists(pid)] == []
    assert [pid for pid in others if not thief.is_refused("trace", pid) and psutil.pid_exists(pid)] == []


@needs_root
def test_roots_service_gains_nothing_by_setuid_programs(thief: Thief) -> None:
    program = thief.cluster.folder / "all-powerful"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    program.chmod(0o4755)
    assert thief.asked("execute", str(program), "-u").strip() == str(WORKER_UID)


@needs_root
@pytest.mark.parametrize("user", [None, "12346:12347", "root"])
def test_a_service_is_unprivileged_for_every_worker_user(user: str | None) -> None:
    with (
        open_folder() as folder,
        service(folder, worker_user=user and f"'{user}'", worker_command=f"{PYTHON} thief.py") as cluster,
    ):
        (folder / "config.yaml").chmod(0o600)
        cluster.start()
        thief = Thief(cluster)
        seen = thief.asked("look")
        assert seen["environ"]["LISTEN_FDS"] == "1"
        if user == "root":  # The config asked for it.
            assert seen["status"]["Uid"].split() == ["0"] * 4
            return
        uid, gid = (user or f"{WORKER_UID}:{WORKER_UID}").split(":")
        assert (seen["status"]["Uid"].split(), seen["status"]["Gid"].split(), seen["status"]["Groups"].split()) == (
            [uid] * 4,
            [gid] * 4,
            [],
        )
        assert no_rights(seen["status"])
        assert thief.is_refused("read", "/etc/shadow")
        assert thief.is_refused("read", "config.yaml")
        assert thief.is_refused("read", ".comet")


UNREACHABLE = {
    "its program lies in a closed folder": "{closed}/serve {{port}}",
    "its program is closed": "{folder}/serve-closed {{port}}",
    "its program is a link into a closed folder": "{folder}/link {{port}}",
    "its interpreter lies in a closed folder": "{folder}/script {{port}}",
    "its interpreter lies in a closed folder, by env": "{folder}/script-env {{port}}",
    "a file that it is made of is closed": PYTHON + " secret.py {{port}}",
    "a file that it is made of lies in a closed folder": PYTHON + " {closed}/thief.py {{port}}",
}


@needs_root
@pytest.mark.parametrize("kind", UNREACHABLE)
def test_a_program_that_its_user_cannot_reach_is_one_line(kind: str, folder: Path) -> None:
    inside = closed(folder)
    for path, content, mode in (
        (inside / "serve", f"#!{PYTHON}\n{THIEF}", 0o755),
        (inside / "thief.py", THIEF, 0o644),
        (folder / "serve-closed", f"#!{PYTHON}\n{THIEF}", 0o700),
        (folder / "script", f"#!{inside}/python3\n{THIEF}", 0o755),
        (folder / "script-env", f"#!/usr/bin/env only-here\n{THIEF}", 0o755),
        (folder / "secret.py", THIEF, 0o600),
    ):
        path.write_text(content)
        path.chmod(mode)
    for link, target in (
        (inside / "python3", PYTHON),
        (inside / "only-here", PYTHON),
        (folder / "link", inside / "serve"),
    ):
        if not link.is_symlink():
            link.symlink_to(target)
    with open_folder() as other:
        command = UNREACHABLE[kind].format(closed=inside, folder=folder)
        if "secret.py" in command:
            shutil.copy2(folder / "secret.py", other)
        with service(
            other, worker_command=command, worker_environment=f"{{PATH: '{inside}:/usr/bin:/bin'}}"
        ) as cluster:
            done = cluster.comet("run", "--detach")
            assert (done.returncode, done.stderr.strip().count("\n")) == (2, 0), done.stderr
            assert "worker-user" in done.stderr
            assert f"uid {WORKER_UID} cannot reach " in done.stderr


@needs_root
def test_an_unreachable_folder_is_one_line_and_changes_nothing(folder: Path) -> None:
    inside = closed(folder) / "cluster"
    inside.mkdir()
    with service(inside) as cluster:
        done = cluster.comet("run", "--detach")
        assert (done.returncode, done.stderr.strip().count("\n")) == (2, 0), done.stderr
        assert f"{folder}/closed is closed to it (set worker-user" in done.stderr
        cluster.write(worker_user="root")
        cluster.start()
        before = cluster.replicas()["worker-0"]["pid"]
        cluster.write(worker_user="'10007'")
        done = cluster.comet("reload")
        assert (done.returncode, "worker-user" in done.stderr) == (2, True), done.stderr
        assert cluster.replicas()["worker-0"]["pid"] == before
