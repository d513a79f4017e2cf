"""What is told, in each manner, and that a reader who stops makes nobody wait."""

import io
import json
import os
import threading
import time

import pytest
from rich.console import Console

from comet.terminal.messages import BackgroundDisplay, Display, JsonDisplay, LineDisplay, Message, QuietDisplay
from comet.terminal.progress import LiveDisplay
from comet.terminal.table_layout import listing

STEP: Message = {"kind": "step", "text": "looking"}
EXIT: Message = {
    "kind": "event",
    "record": {"at": "2026-11-23T10:00:00.123Z", "event": "replica_exited", "replica": "lb-0", "code": 1},
}
READY: Message = {"kind": "ready", "replicas": [], "admin": None}
FAILED: Message = {"kind": "failed", "text": "no engine", "exit_code": 1}


def told(display_of: type[LineDisplay], *messages: Message) -> str:
    read_fd, write_fd = os.pipe()
    display = display_of(write_fd)
    for message in messages:
        display.show(message)
    os.close(write_fd)
    with os.fdopen(read_fd) as stream:
        return stream.read()


def test_lines_are_plain() -> None:
    assert told(LineDisplay, STEP, EXIT) == "looking\nlb-0 crashed: exit 1\n"


def test_json_output_is_an_object_a_line_as_in_the_journal() -> None:
    step, exited = map(json.loads, told(JsonDisplay, STEP, EXIT).splitlines())
    assert (step["event"], step["text"]) == ("step", "looking")
    assert exited == EXIT["record"]


def test_quiet_tells_what_went_wrong_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    assert told(QuietDisplay, STEP, EXIT) == ""
    QuietDisplay().show(FAILED)
    assert capfd.readouterr() == ("", "no engine\n")


@pytest.mark.slow
def test_a_reader_that_stops_makes_nobody_wait() -> None:
    read_fd, write_fd = os.pipe()
    display: Display = BackgroundDisplay(LineDisplay(write_fd))
    began = time.process_time()
    for _ in range(30_000):  # Far more than a pipe, and the messages that may wait, hold.
        display.show({"kind": "step", "text": "x" * 100})
    assert time.process_time() - began < 20
    reader = threading.Thread(target=lambda: os.read(read_fd, 10), daemon=True)
    reader.start()
    display.close()  # Within its patience.
    reader.join()
    os.close(read_fd)


def test_a_reader_that_is_gone_is_done_without() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    display = BackgroundDisplay(LineDisplay(write_fd))
    display.show(STEP)
    display.show(STEP)
    display.close()
    assert not display._thread.is_alive()
    os.close(write_fd)


def test_a_narrow_listing_drops_columns_then_cuts() -> None:
    table = listing("NAME", "NUMBER", "WHY", right={1}, ranks=(0, 2, 1))
    table.add_row("worker-0", "12", "because \x1b[31mof that")
    assert [line.plain for line in table.lines(None)] == [
        "NAME      NUMBER  WHY",
        "worker-0      12  because  [31mof that",
    ]
    assert [line.plain for line in table.lines(30)] == ["NAME      WHY", "worker-0  because  [31mof that"]
    assert [line.plain for line in table.lines(8)] == ["NAME", "worker-0"]
    assert [line.plain for line in table.lines(5)] == ["NAME", "work…"]


def on_a_console(width: int, *messages: Message) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, highlight=False)
    display = LiveDisplay(console)
    for message in messages:
        display.show(message)
    display.close()
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_a_step_that_failed_has_no_check_mark(capfd: pytest.CaptureFixture[str]) -> None:
    shown = on_a_console(80, STEP, {"kind": "step", "text": "building"}, FAILED)
    assert shown.splitlines() == ["✓ looking", "✗ building"]
    assert capfd.readouterr().err == "no engine\n"


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_long_step_is_one_line(width: int) -> None:
    (line,) = on_a_console(
        width, {"kind": "step", "text": "Step 3/9 : RUN " + "python -m pip " * 20}, READY
    ).splitlines()[:1]
    assert len(line) <= width
    assert line.startswith("✓ Step 3/9")
    assert line.endswith("…")
