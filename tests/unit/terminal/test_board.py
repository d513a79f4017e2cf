"""The board on a real terminal, with real clusters of processes; and its lines at every size."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from comet.telemetry.snapshot import Edge, FleetSnapshot, Row, SupervisorRow, Total
from comet.terminal.board.screen import Screen, key_names
from comet.terminal.board.sources import Events
from comet.terminal.board.view import BoardState, Mode, frame


def row(name: str, **fields: object) -> Row:
    role = name.partition("-")[0]
    made = Row(name, role, "process" if role == "lb" else "container", "fdbaa57c12d3", 4300, 6000, "ready", 0, 61.0,
               0.2, 31457280,
               None, 2, 10, requests_per_s=1234.5, p50_ms=3.25, p99_ms=12345.0)  # fmt: skip
    return replace(made, **fields)  # type: ignore[arg-type]


def snapshot(workers: int, balancers: int) -> FleetSnapshot:
    rows = [row(f"lb-{index}") for index in range(balancers)]
    rows += [row(f"worker-{index}") for index in range(workers)]
    rows[-1] = replace(
        rows[-1],
        state="backoff",
        next_start_s=3.1,
        reason="exit 1\x1b[2J",
        last_exit={"code": 1, "signal": None, "oom": False},
    )
    edges = (
        Edge("lb-0", "worker-0", 1.0, 0.0, 3.0, 9.0, 10, 0, 0, False, "no answer"),
        Edge("lb-1", "worker-0", 1, 0, 3, 9, 1, 0, 0, True),
    )
    return FleetSnapshot(
        SupervisorRow(4242, True, 12.3, "1"), tuple(rows), edges, Total(12.0, 0.5, 3.0, 12.0, 100, 1, 2, 0)
    )


EVENTS = [
    {
        "at": "2026-11-23T10:00:00.123Z",
        "event": "replica_exited",
        "replica": "worker-0",
        "signal": "SIGKILL",
        "code": -9,
    }
] * 30


RECOVERED = [
    {"event": "replica_ready", "replica": name, "kind": kind, "timeline_ms": {"died": 0.0, "ready": ready}}
    for name, kind, ready in (
        ("lb-0", "process", 8.4),
        ("worker-0", "container", 612.0),
        ("worker-1", "process", 190.0),
    )
]


def test_the_board_compares_a_worker_with_itself_an_lb_apart() -> None:
    lines = frame(BoardState("/a", True, snapshot(3, 2), RECOVERED), Mode(), 160, 24)
    assert (
        "death to ready, median  Worker as process 190ms (1) · Worker as container 612ms (1) · "
        "apart: Load balancer (warm spare) 8.40ms (1)"
    ) in [line.plain for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("width", [200, 120, 80, 60, 40, 20])
@pytest.mark.parametrize("height", [50, 24, 12, 5])
@pytest.mark.parametrize("page", ["board", "help", "leave"])
def test_a_frame_fills_its_terminal_and_never_more(width: int, height: int, page: str) -> None:
    for workers in (3, 50):
        lines = frame(
            BoardState("/a/folder", True, snapshot(workers, 2), EVENTS, "http://127.0.0.1:5040"),
            Mode(page),
            width,
            height,
        )
        assert len(lines) == height
        assert max(line.cell_len for line in lines) <= width
        assert all(line.plain.isprintable() for line in lines)


@pytest.mark.parametrize("foreground", [True, False])
@pytest.mark.parametrize("width", [100, 80, 60, 40])
def test_the_help_is_whole_at_every_width(width: int, foreground: bool) -> None:
    folder = f"/home/somebody/{'a long name of a folder/' * 4}"
    lines = [line.plain for line in frame(BoardState(folder, foreground, snapshot(3, 2)), Mode("help"), width, 40)]
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    text = " ".join(" ".join(lines).split())
    assert "rates and percentiles cover the last 5 s." in text
    assert "logs NAME --follow, kill NAME." in text
    assert folder.replace(" ", "") in text.replace(" ", "")


def test_a_frame_shows_every_fact_where_there_is_room() -> None:
    text = "\n".join(line.plain for line in frame(BoardState("/a", True, snapshot(3, 2), EVENTS), Mode(), 200, 30))
    heading = "NAME KIND ID PID PORT STATE HEALTH RESTARTS LAST EXIT UPTIME CPU MEMORY REQ/S P50 P99 IN FLIGHT"
    assert heading in re.sub(" +", " ", text)
    assert (
        "worker-0 container fdbaa57c12d3 4300 6000 ready 1 of 2 0 - 1m01s 0.200% 30.0MiB 1,234 3.25ms 12.3s 2"
        in re.sub(" +", " ", text)
    )
    assert "worker-2 backoff (exit 1" in text
    assert "backoff (next in 3.1s)" in text
    assert "crashed: SIGKILL" in text


def test_the_kind_of_a_replica_is_seen_on_80_columns() -> None:
    text = "\n".join(line.plain for line in frame(BoardState("/a", True, snapshot(3, 2)), Mode(), 80, 24))
    assert "KIND" in text
    assert re.search(r"worker-1 +container ", text)


def test_the_chosen_replica_and_what_can_be_done_to_it_are_shown() -> None:
    known = BoardState("/a", True, snapshot(3, 2), log=[f"line {number}" for number in range(100)])
    lines = frame(known, Mode(selected="worker-1"), 120, 24)
    (chosen,) = [line for line in lines[:-1] if any(str(span.style) == "reverse" for span in line.spans)]
    assert chosen.plain.startswith("worker-1 ")
    assert lines[-1].plain.startswith(" worker-1: x kill · r restart · d drain · l log")
    assert "kill worker-1?" in frame(known, Mode("confirm", selected="worker-1", order="kill"), 120, 24)[-1].plain
    log = [line.plain for line in frame(known, Mode("log", selected="worker-1"), 120, 24)]
    assert (log[0], log[-2]) == ("Log of worker-1", "line 99")


def test_more_replicas_than_lines_are_scrolled() -> None:
    known = BoardState("/a", True, snapshot(50, 8), EVENTS)
    first = "\n".join(line.plain for line in frame(known, Mode(), 120, 24))
    last = "\n".join(line.plain for line in frame(known, Mode(offset=1000), 120, 24))
    assert "supervisor" in first
    assert "worker-49  " not in first
    assert "LAST EVENTS" in first
    assert "worker-49  " in last
    assert "of 59" in last


def test_keys_have_names() -> None:
    assert key_names(b"q\x1b[A\x1b[5~?\x1bz") == ["leave", "up", "page up", "help", "escape", "z"]


def test_events_are_read_in_parts_and_from_a_rotated_file(tmp_path: Path) -> None:
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
    assert [record["event"] for record in events.records] == ["one", "two", "three"]


def test_the_terminal_itself_says_how_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "33")
    monkeypatch.setenv("LINES", "7")
    assert Screen().size not in ((33, 7), (33, 25))
