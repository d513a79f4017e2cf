"""What is told, in each manner, and that a reader who stops makes nobody wait."""

import json
import os
import threading
import time

import pytest

from comet.display import Aside, Display, JsonDisplay, LineDisplay, Message, QuietDisplay
from comet.listing import listing

STEP: Message = {"kind": "step", "text": "looking"}
EXIT: Message = {"kind": "event", "record": {"at": "2026-11-23T10:00:00.123Z", "event": "replica_exited", "replica": "lb-0", "code": 1}}
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
    assert told(LineDisplay, STEP, EXIT) == "looking\nlb-0 exited: exit 1\n"


def test_json_is_an_object_a_line_and_an_event_as_the_journal_keeps_it() -> None:
    step, exited = map(json.loads, told(JsonDisplay, STEP, EXIT).splitlines())
    assert (step["event"], step["text"]) == ("step", "looking")
    assert exited == EXIT["record"]


def test_quiet_tells_what_went_wrong_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    assert told(QuietDisplay, STEP, EXIT) == ""
    QuietDisplay().show(FAILED)
    assert capfd.readouterr() == ("", "no engine\n")


def test_a_reader_that_stops_makes_nobody_wait() -> None:
    read_fd, write_fd = os.pipe()
    display: Display = Aside(LineDisplay(write_fd))
    began = time.process_time()
    for _ in range(30_000):  # Far more than a pipe, and the messages that may wait, hold.
        display.show({"kind": "step", "text": "x" * 100})
    assert time.process_time() - began < 20
    reader = threading.Thread(target=lambda: os.read(read_fd, 10), daemon=True)
    reader.start()
    display.close()  # Within its patience.
    os.close(read_fd)


def test_a_reader_that_is_gone_is_done_without() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    display = Aside(LineDisplay(write_fd))
    display.show(STEP)
    display.show(STEP)
    display.close()
    os.close(write_fd)


def test_a_listing_leaves_out_the_least_important_then_cuts_and_never_breaks() -> None:
    table = listing("NAME", "NUMBER", "WHY", right={1}, ranks=(0, 2, 1))
    table.add_row("worker-0", "12", "because \x1b[31mof that")
    assert [line.plain for line in table.lines(None)] == ["NAME      NUMBER  WHY", "worker-0      12  because  [31mof that"]
    assert [line.plain for line in table.lines(30)] == ["NAME      WHY", "worker-0  because  [31mof that"]
    assert [line.plain for line in table.lines(8)] == ["NAME", "worker-0"]
    assert [line.plain for line in table.lines(5)] == ["NAME", "work…"]
