"""What replicas print stays bounded while they run, is followed all the same, and tells how each life ended."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.support.cluster import TestCluster, open_cluster, open_folder
from tests.support.waiting import wait_until
from tests.unit.runtimes.test_logs import END


def printed(cluster: TestCluster, name: str, *options: str) -> list[str]:
    done = cluster.comet("logs", name, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def ends(lines: list[str]) -> list[tuple[int, str]]:
    """Where the ends of lives are told, and how they ended."""
    return [(index, found["how"]) for index, line in enumerate(lines) if (found := END.fullmatch(line))]


def printed_anew(cluster: TestCluster, name: str, *hows: str) -> list[str]:
    """What it has printed, once that has a line after a life that ended so: a replica may be ready before it prints
    one, and an engine hands it on a moment later.
    """

    def lines() -> list[str] | None:
        found = printed(cluster, name)
        told = ends(found)
        return found if told and told[-1][1] in hows and told[-1][0] < len(found) - 1 else None

    return wait_until(lines, 30, f"the first line of the next life of {name}") or []


def killed(cluster: TestCluster, name: str) -> None:
    """Kill it, and wait for its next life."""
    restarts = cluster.replicas()[name]["restarts"]
    assert cluster.comet("kill", name).returncode == 0

    def back() -> bool:
        row = cluster.replicas()[name]
        return bool(row["restarts"] > restarts and row["state"] == "ready")

    wait_until(back, 60, f"the next life of {name}")


def test_logs_show_the_exit_between_two_instances(make_cluster: Callable[..., TestCluster], runtime: str) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime=runtime)
    cluster.start()
    for name in ("worker-0", "lb-0"):
        killed(cluster, name)
        lines = printed_anew(cluster, name, "by SIGKILL")
        ((index, _),) = ends(lines)
        assert index > 0, lines
        found = END.fullmatch(lines[index])
        assert found is not None
        assert found["at"] == cluster.replicas()[name]["last_exit"]["at"]
    # The last lines of the present life alone say nothing of the one before it.
    assert ends(printed(cluster, "worker-0", "--tail", "1")) == []
    assert len(printed(cluster, "worker-0", "--tail", "1")) == 1
    # Without a supervisor it is the same.
    told = {name: printed(cluster, name) for name in ("worker-0", "lb-0")}
    supervisor = psutil.Process(cluster.supervisor_pid())
    supervisor.kill()
    supervisor.wait()
    assert {name: printed(cluster, name) for name in told} == told
    cluster.start()
    # What is made anew on purpose ended too, also where its former output is gone with its container.
    assert cluster.comet("restart", "worker-0").returncode == 0
    printed_anew(cluster, "worker-0", "with code 0", "by SIGTERM")
    cluster.stop()


@contextlib.contextmanager
def following(cluster: TestCluster, name: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """`logs NAME --follow` into a file."""
    path = cluster.folder / f"{name}.followed"
    with path.open("wb") as out:
        follower = subprocess.Popen(
            [*cluster.command, "logs", name, "--follow"], cwd=cluster.folder, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield follower, path
    finally:
        follower.kill()
        follower.wait()


def test_followed_logs_are_live_and_end_with_the_cluster(
    make_cluster: Callable[..., TestCluster], runtime: str
) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime=runtime)
    cluster.start()
    with following(cluster, "worker-0") as (of_worker, worker), following(cluster, "lb-0") as (of_lb, lb):
        for name, path in (("worker-0", worker), ("lb-0", lb)):
            wait_until(path.read_text, 30, "its first lines")
            for life in (1, 2):
                killed(cluster, name)

                def told(life: int = life, path: Path = path) -> bool:
                    lines = path.read_text().splitlines()
                    return len(ends(lines)) == life and ends(lines)[-1][0] < len(lines) - 1

                wait_until(told, 30, f"the end of life {life} of {name} and the next life's first line")
            first, second = ends(path.read_text().splitlines())
            assert first[1] == second[1] == "by SIGKILL"
            assert second[0] - first[0] > 1
        # Whose reader has gone ends, though nothing more is printed.
        for name in ("worker-0", "lb-0"):
            with subprocess.Popen(
                [*cluster.command, "logs", name, "--follow"], cwd=cluster.folder, stdout=subprocess.PIPE
            ) as unread:
                assert unread.stdout is not None
                unread.stdout.readline()
                unread.stdout.close()
                assert unread.wait(60) == 0
        cluster.stop()
        assert (of_worker.wait(60), of_lb.wait(60)) == (0, 0)
        if runtime == "process":
            assert worker.read_bytes() == (cluster.folder / ".comet/logs/worker-0.log").read_bytes()


FEW = 300
"""MiB: what a command and its children may need; far less than the logs here."""

MEASURE = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[2:]); "
    "open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))"
)


def peak_memory(cluster: TestCluster, *arguments: str) -> tuple[int, str]:
    """The most memory that a command and its children had, in MiB, and what it printed. A small process starts it: what
    a process has itself at a fork counts for its child, too (getrusage(2)).
    """
    measured = cluster.folder / "memory"
    with (cluster.folder / "printed").open("wb") as out:
        command = [sys.executable, "-c", MEASURE, str(measured), *cluster.command, *arguments]
        subprocess.run(command, cwd=cluster.folder, stdout=out, stderr=subprocess.STDOUT, check=True)
    return int(measured.read_text()) >> 10, (cluster.folder / "printed").read_text(errors="replace")


def test_long_output_of_a_failed_start_is_read_in_little_memory() -> None:
    with open_folder() as folder, open_cluster(folder, worker=1, pool=1, runtime="process") as cluster:
        script = "echo life $$; head -c 60000000 /dev/zero | tr '\\0' x; echo; echo last of $$; exit 3"
        cluster.write(avg_delay=None, failure=None, worker_command=json.dumps(["sh", "-c", script, "{port}"]))
        memory, printed = peak_memory(cluster, "run")
        assert "worker-0 does not become ready: it ended 3 times in a row (exit 3); its last log lines:" in printed
        quoted = [line for line in printed.splitlines() if line.startswith("  | ")]
        (last,) = [line for line in quoted if line.startswith("  | last of")]
        assert quoted[-1] == last
        assert all(len(line) < 2000 for line in quoted)
        assert memory < FEW
        # A log that nobody has bounded is read from its end.
        log = cluster.folder / ".comet/logs/worker-0.log"
        with log.open("r+b") as file:
            file.truncate(2 << 30)
            file.seek(0, os.SEEK_END)
            file.write(b"\n1\n2\xff\n3\n")
        memory, printed = peak_memory(cluster, "logs", "worker-0", "--tail", "3")
        assert printed.split("\n") == ["1", "2\ufffd", "3", ""]
        assert memory < FEW
        first = subprocess.run(
            f"{shlex.join(cluster.command)} logs worker-0 --tail 2 | head -c 1",
            shell=True,
            cwd=cluster.folder,
            capture_output=True,
            check=True,
        )
        assert (first.stdout, first.stderr) == (b"2", b"")
