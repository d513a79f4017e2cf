"""What replicas print stays bounded while they run, is followed all the same, and tells how each life ended."""

import contextlib
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest

from comet import farewells
from comet.cluster import Cluster
from comet.drivers.execute import KEEP_LOG_BYTES, trim
from comet.drivers.manager import ENGINE_ERRORS, Manager
from comet.logs import _from_file
from tests.integration.clusters import House, eventually
from tests.setup.fake_engine import listening


def test_a_grown_log_is_cut_under_its_writers_hands_and_its_last_part_kept(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"first\n")
        follower = _from_file(path, 10, follow=True)
        assert next(follower) == "first"
        trim([path, tmp_path / "nobody.log"])
        assert path.read_bytes() == b"first\n"
        writer.write(b"x" * KEEP_LOG_BYTES + b"\nlast\n")
        assert [len(next(follower)), next(follower)] == [KEEP_LOG_BYTES, "last"]
        trim([path])
        writer.write(b"after\n")
        assert next(follower) == "after"
    assert path.read_bytes() == b"after\n"
    kept = (tmp_path / "worker-0.log.1").read_bytes()
    assert (len(kept), kept[-5:]) == (KEEP_LOG_BYTES, b"last\n")


END = re.compile(r"-- (?P<name>\S+) exited (?P<how>.+) at (?P<at>[0-9TZ:.-]+) --")


def record(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "at": "2026-11-25T10:00:01.500Z",
        "event": "replica_exited",
        "number": number,
        "replica": "worker-0",
        "kind": "process",
        **fields,
    }


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"code": -9, "signal": "SIGKILL", "died_at": "2026-11-25T10:00:01.000Z"},
            "-- worker-0 exited by SIGKILL at 2026-11-25T10:00:01.000Z --",
        ),
        ({"code": 137, "signal": "SIGKILL", "oom": True}, "-- worker-0 exited by SIGKILL (out of memory) at 2026-11-25T10:00:01.500Z --"),
        ({"code": 3, "signal": None}, "-- worker-0 exited with code 3 at 2026-11-25T10:00:01.500Z --"),
        ({"code": None, "signal": None}, "-- worker-0 exited at 2026-11-25T10:00:01.500Z, nobody could read how --"),
    ],
)
def test_how_a_life_ended_is_one_line(fields: dict[str, Any], line: str) -> None:
    assert farewells.text(record(1, **fields)) == line


def test_the_end_of_a_process_is_a_line_of_its_own_also_after_half_a_line(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.create()
    log = cluster.path("logs", "worker-0.log")
    farewells.note(cluster, record(1, code=1, signal=None))
    log.write_bytes(log.read_bytes() + b"half a li")
    farewells.note(cluster, record(2, code=2, signal=None))
    farewells.note(cluster, record(3, code=3, signal=None, kind="container"))
    farewells.note(cluster, {**record(4), "event": "replica_ready"})
    assert [END.sub(r"\g<how>", line) for line in log.read_text().splitlines()] == ["with code 1", "half a li", "with code 2"]
    shutil.rmtree(cluster.path("logs"))
    farewells.note(cluster, record(5, code=1, signal=None))  # It cannot be written: nothing happens.


def printed(house: House, name: str, *options: str) -> list[str]:
    done = house.comet("logs", name, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def ends(lines: list[str]) -> list[tuple[int, str]]:
    """Where the ends of lives are told, and how they ended."""
    return [(index, found["how"]) for index, line in enumerate(lines) if (found := END.fullmatch(line))]


def killed(house: House, name: str) -> None:
    """Kill it, and wait for its next life."""
    restarts = house.replicas()[name]["restarts"]
    assert house.comet("kill", name).returncode == 0

    def back() -> bool:
        row = house.replicas()[name]
        return bool(row["restarts"] > restarts and row["state"] == "ready")

    eventually(back, 60, f"the next life of {name}")


@pytest.mark.docker
@pytest.mark.slow
def test_logs_tell_between_two_lives_how_the_first_ended(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=1, pool=1, runtime=runtime)
    house.start()
    for name in ("worker-0", "lb-0"):
        killed(house, name)
        lines = printed(house, name)
        ((index, how),) = ends(lines)
        assert how == "by SIGKILL"
        assert 0 < index < len(lines) - 1, lines
        found = END.fullmatch(lines[index])
        assert found is not None
        assert found["at"] == house.replicas()[name]["last_exit"]["at"]
    # The last lines of the present life alone say nothing of the one before it.
    assert ends(printed(house, "worker-0", "--tail", "1")) == []
    assert len(printed(house, "worker-0", "--tail", "1")) == 1
    # Without a supervisor it is the same.
    told = {name: printed(house, name) for name in ("worker-0", "lb-0")}
    supervisor = psutil.Process(house.supervisor_pid())
    supervisor.kill()
    supervisor.wait()
    assert {name: printed(house, name) for name in told} == told
    house.start()
    # What is made anew on purpose ended too, also where its former output is gone with its container.
    assert house.comet("restart", "worker-0").returncode == 0
    lines = printed(house, "worker-0")
    index, how = ends(lines)[-1]
    assert how in ("with code 0", "by SIGTERM")
    assert index < len(lines) - 1
    house.stop()


@pytest.mark.docker
@pytest.mark.slow
def test_followed_logs_tell_it_as_it_happens(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=1, pool=1, runtime=runtime)
    house.start()
    for name in ("worker-0", "lb-0"):
        with (house.folder / f"{name}.followed").open("w+") as out:
            command = [*house.command, "logs", name, "--follow"]
            follower = subprocess.Popen(command, cwd=house.folder, stdout=out, stderr=subprocess.STDOUT)
            try:
                read = Path(out.name).read_text
                eventually(read, 30, "its first lines")
                for life in (1, 2):
                    killed(house, name)

                    def told(life: int = life, read: Callable[[], str] = read) -> bool:
                        lines = read().splitlines()
                        return len(ends(lines)) == life and ends(lines)[-1][0] < len(lines) - 1

                    eventually(told, 30, f"the end of life {life} of {name} and the next life's first line")
                first, second = ends(read().splitlines())
                assert first[1] == second[1] == "by SIGKILL"
                assert second[0] - first[0] > 1
            finally:
                follower.kill()
                follower.wait()
    house.stop()


def test_following_begins_with_what_is_written_from_now_on_and_yields_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"past\n")
        follower = _from_file(path, 0, follow=True)
        writer.write(b"")
        threading.Timer(0.3, lambda: (writer.write(b"half "), threading.Timer(0.5, lambda: writer.write(b"and half\n")).start())).start()
        assert next(follower) == "half and half"


def test_a_manager_that_goes_away_in_the_middle_of_a_log_is_an_error_of_the_engine() -> None:
    piece = b"2026-01-01T00:00:00.000000000Z one\n"
    framed = b"\x01\0\0\0" + len(piece).to_bytes(4, "big") + piece
    broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n50\r\nhalf" % (len(framed), framed)
    with listening(broken) as path, contextlib.closing(docker.DockerClient(base_url=f"unix://{path}", version="1.41")) as client:
        read = Manager(client, "c1").log("t1", follow=True, tail="all")
        assert next(read) == ("2026-01-01T00:00:00.000000000Z", "one")
        with pytest.raises(ENGINE_ERRORS):
            next(read)
