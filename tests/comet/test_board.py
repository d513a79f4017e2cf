"""The board on a real terminal, with real clusters of processes; and its lines at every size."""

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from comet.board.screen import Screen, named
from comet.board.sources import Events
from comet.board.view import Known, Mode, frame
from comet.snapshot import Edge, FleetSnapshot, Row, SupervisorRow, Total
from tests.comet.terminal import COLOUR, Terminal, terminal
from tests.integration.clusters import House, eventually

NARROW = 60


def row(name: str, **fields: object) -> Row:
    role = name.partition("-")[0]
    made = Row(name, role, "process" if role == "lb" else "container", "fdbaa57c12d3", 4300, 6000, "ready", 0, 61.0, 0.2, 31457280,
               None, 2, 10, requests_per_s=1234.5, p50_ms=3.25, p99_ms=12345.0)  # fmt: skip
    return replace(made, **fields)  # type: ignore[arg-type]


def snapshot(workers: int, balancers: int) -> FleetSnapshot:
    rows = [row(f"lb-{index}") for index in range(balancers)]
    rows += [row(f"worker-{index}") for index in range(workers)]
    rows[-1] = replace(
        rows[-1], state="backoff", next_start_s=3.1, reason="exit 1\x1b[2J", last_exit={"code": 1, "signal": None, "oom": False}
    )
    edges = (
        Edge("lb-0", "worker-0", 1.0, 0.0, 3.0, 9.0, 10, 0, 0, False, "no answer"),
        Edge("lb-1", "worker-0", 1, 0, 3, 9, 1, 0, 0, True),
    )
    return FleetSnapshot(SupervisorRow(4242, True, 12.3, "1"), tuple(rows), edges, Total(12.0, 0.5, 3.0, 12.0, 100, 1, 2, 0))


EVENTS = [{"at": "2026-11-23T10:00:00.123Z", "event": "replica_exited", "replica": "worker-0", "signal": "SIGKILL", "code": -9}] * 30


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40, 20])
@pytest.mark.parametrize("height", [50, 24, 12, 5])
@pytest.mark.parametrize("page", ["board", "help", "leave"])
def test_a_frame_fills_its_terminal_and_never_more(width: int, height: int, page: str) -> None:
    for workers in (3, 50):
        lines = frame(Known("/a/folder", True, snapshot(workers, 2), EVENTS, "http://127.0.0.1:5040"), Mode(page), width, height)
        assert len(lines) == height
        assert max(line.cell_len for line in lines) <= width
        assert all(line.plain.isprintable() for line in lines)


def test_a_frame_shows_every_fact_where_there_is_room() -> None:
    text = "\n".join(line.plain for line in frame(Known("/a", True, snapshot(3, 2), EVENTS), Mode(), 200, 30))
    heading = "NAME KIND ID PID PORT STATE HEALTH RESTARTS LAST EXIT UPTIME CPU MEMORY REQ/S P50 P99 IN FLIGHT"
    assert heading in re.sub(" +", " ", text)
    assert "worker-0 container fdbaa57c12d3 4300 6000 ready 1 of 2 0 - 1m01s 0.2% 30.0MiB 1234 3.2ms 12.3s 2" in re.sub(" +", " ", text)
    assert "worker-2 backoff (exit 1" in text
    assert "backoff (next in 3.1s)" in text
    assert "exited: SIGKILL" in text


def test_more_replicas_than_lines_are_scrolled() -> None:
    known = Known("/a", True, snapshot(50, 8), EVENTS)
    first = "\n".join(line.plain for line in frame(known, Mode(), 120, 24))
    last = "\n".join(line.plain for line in frame(known, Mode(offset=1000), 120, 24))
    assert "supervisor" in first
    assert "worker-49  " not in first
    assert "LAST EVENTS" in first
    assert "worker-49  " in last
    assert "of 59" in last


def test_keys_have_names() -> None:
    assert named(b"q\x1b[A\x1b[5~?\x1bz") == ["leave", "up", "page up", "help", "escape", "z"]


def test_events_are_taken_in_as_they_are_written_also_in_parts_and_in_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = Events(path)
    assert not events.poll()
    path.write_text('{"event": "one"}\n{"eve')
    assert events.poll()
    assert not events.poll()
    with path.open("a") as stream:
        stream.write('nt": "two"}\nnonsense\n')
    assert events.poll()
    path.rename(tmp_path / "events.jsonl.1")
    path.write_text('{"event": "three"}\n')
    assert events.poll()
    assert [record["event"] for record in events.kept] == ["one", "two", "three"]


def in_shell(house: House, *arguments: str) -> list[str]:
    """A command between two looks at the terminal's settings, in a shell that outlives Ctrl-C; the second one after a key."""
    command = " ".join([*house.command, *arguments])
    return ["sh", "-c", f"trap : INT; stty -g > before; {command}; echo code $?; read key; stty -g > after; echo over; read key"]


def assert_given_back(shown: Terminal, house: House) -> None:
    shown.type("\r")
    shown.shows("over")
    assert (house.folder / "after").read_text() == (house.folder / "before").read_text()
    assert shown.output.rfind(b"\x1b[?1049l") > shown.output.rfind(b"\x1b[?1049h") >= 0
    assert shown.output.rfind(b"\x1b[?25h") > shown.output.rfind(b"\x1b[?25l")


def rows_of(text: str) -> list[str]:
    return re.findall(r"^((?:supervisor|lb-\d+|worker-\d+) +.*(?:ready|starting|backoff).*)$", text, re.MULTILINE)


@pytest.mark.slow
def test_a_run_on_a_terminal_is_a_board_until_ctrl_c(make_house: Callable[..., House]) -> None:
    house = make_house(runtime="process")
    with terminal(in_shell(house), house.folder) as shown:
        text = shown.shows("LAST EVENTS")
        assert len(rows_of(text)) == 5
        assert "✓" not in text
        assert house.comet("kill", "worker-0").returncode == 0
        shown.shows(lambda text: re.search(r"worker-0 .* ready .* 1  SIGKILL", text))
        shown.type("?")
        shown.shows("Ctrl-C     drains, stops and removes the cluster")
        shown.type("x")
        shown.shows("LAST EVENTS")
        shown.type("q")
        shown.shows("Leave the board?")
        shown.type("\x1b")
        shown.resize(NARROW, 24)
        text = shown.shows(lambda text: "IN FLIGHT" not in text and "REQ/S" in text and "q leave" in text.splitlines()[-1])
        assert len(rows_of(text)) == 5
        # A terminal that stands still holds nothing up.
        shown.type("\x13")
        house.comet("kill", "lb-0")
        eventually(lambda: len(house.events("replica_ready", "lb-0")) == 2, 30, "lb-0 is back")
        shown.type("\x11")
        shown.shows(lambda text: re.search(r"lb-0 .* ready .* 1  SIGKILL", text))
        shown.type("\x03")
        shown.shows("supervisor stopped")
        shown.shows("code 0")
        assert_given_back(shown, house)
    house.assert_nothing_left()


@pytest.mark.slow
def test_an_attached_board_is_left_and_the_cluster_goes_on(make_house: Callable[..., House]) -> None:
    house = make_house(runtime="process")
    house.start()
    with terminal(in_shell(house, "ps", "--watch"), house.folder, NO_COLOR="1") as shown:
        shown.shows("LAST EVENTS")
        assert not COLOUR.search(shown.output.decode(errors="replace"))
        shown.type("q")
        shown.shows("code 0")
        assert_given_back(shown, house)
    with terminal(in_shell(house, "ps", "--watch"), house.folder) as shown:
        shown.shows("LAST EVENTS")
        assert COLOUR.search(shown.output.decode(errors="replace"))
        os.kill(house.replicas()["lb-0"]["pid"], signal.SIGKILL)
        killed = time.monotonic()
        shown.shows(lambda text: re.search(r"lb-0 +exited: SIGKILL", text))
        print(f"seen on the board {1000 * (time.monotonic() - killed):.0f} ms after the kill")
        shown.shows(lambda text: re.search(r"lb-0 .* SIGKILL ", text.partition("LAST EVENTS")[0]))
        board = next(process for process in psutil.Process(shown.pid).children() if "--watch" in process.cmdline())
        board.terminate()
        shown.shows("code 143")
        assert_given_back(shown, house)
    assert house.ps()["supervisor"]["running"]
    piped = house.comet("ps").stdout
    assert "\x1b" not in piped
    assert len(rows_of(piped)) == 5
    house.stop()


@pytest.mark.slow
def test_killed_boards_and_supervisors_leave_a_terminal_in_order(make_house: Callable[..., House]) -> None:
    house = make_house(runtime="process", worker=1, pool=1)
    with terminal(in_shell(house), house.folder) as shown:
        shown.shows("LAST EVENTS")
        board = next(process for process in psutil.Process(house.supervisor_pid()).children() if "--feed-fd" in process.cmdline())
        board.kill()
        shown.shows("the board has ended; the cluster goes on")
        house.comet("kill", "lb-0")
        shown.shows("lb-0 ready after")
        shown.type("\x03")
        shown.shows("supervisor stopped")
        shown.shows("code 0")
        shown.type("\r")
        shown.shows("over")
        assert (house.folder / "after").read_text() == (house.folder / "before").read_text()
    with terminal(in_shell(house), house.folder) as shown:
        shown.shows("LAST EVENTS")
        os.kill(house.supervisor_pid(), signal.SIGKILL)
        shown.shows("the supervisor died; what it kept serves on")
        assert_given_back(shown, house)
    listed = house.comet("ps").stdout
    assert listed.count("(orphan)") == 2
    house.stop()


@pytest.mark.docker
def test_a_followed_log_goes_on_in_the_next_life_of_its_container(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1)
    house.start()
    with terminal([*house.command, "logs", "worker-0", "--follow", "--json"], house.folder, 200) as shown:
        lives = r'"replica": "worker-0"'
        first = len(re.findall(lives, shown.shows(lives)))
        house.comet("kill", "worker-0")
        shown.shows(lambda text: len(re.findall(lives, text)) > first)
        shown.type("\x03")
    house.stop()


def test_the_terminal_itself_says_how_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "33")
    monkeypatch.setenv("LINES", "7")
    assert Screen().size not in ((33, 7), (33, 25))
