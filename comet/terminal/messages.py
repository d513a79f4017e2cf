"""Shows messages to a person, or writes them to a log, while a cluster starts, runs and stops.

Every report is a small message (`Message`), so that a detached supervisor can send the same messages through a pipe and
the command that started it can show them. A display may be as slow as its reader: `BackgroundDisplay` keeps that delay
away from the sender.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import time
from typing import Any, Protocol

from comet.common.clock import iso
from comet.events import event

Message = dict[str, Any]
"""A message, by its kind.

{"kind": "step", "text"} · {"kind": "event", "record"} · {"kind": "ready", "replicas", "admin"} · {"kind": "failed",
"text", "exit_code"}
"""

HIDDEN_EVENTS = frozenset({"supervisor_started", "replica_starting", "admin_ready"})
"""Events that only repeat what a step has reported."""

CLOSE_TIMEOUT = 2.0
"""Seconds that a reader has at the end to take the remaining messages.

A stopped terminal must not keep a supervisor from ending.
"""

MAX_QUEUED = 10_000
"""Maximum number of messages that wait for a slow reader; the oldest are dropped first."""


class Display(Protocol):
    def show(self, message: Message) -> None: ...

    def close(self) -> None: ...


class LineDisplay:
    """One plain line per message, for pipes and files.

    Unbuffered: a reader that stops blocks only the thread that writes.
    """

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd

    def show(self, message: Message) -> None:
        for line in self.lines(message):
            write(2 if message["kind"] == "failed" else self._fd, line + "\n")

    def lines(self, message: Message) -> list[str]:
        return lines(message)

    def close(self) -> None:
        return


class JsonDisplay(LineDisplay):
    """One JSON object a line: events as in the journal, other messages in the same format."""

    def lines(self, message: Message) -> list[str]:
        if message["kind"] == "event":
            record = message["record"]
        else:
            fields = {key: value for key, value in message.items() if key != "kind"}
            record = {"at": iso(time.time()), "event": message["kind"], **fields}
        return [json.dumps(record, separators=(",", ":"))]


class QuietDisplay(LineDisplay):
    """A display that prints failures only."""

    def lines(self, message: Message) -> list[str]:
        return lines(message) if message["kind"] == "failed" else []


class PipeDisplay:
    """Writes messages as JSON lines to a descriptor, up to the first `ready` or `failed`."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        os.set_inheritable(fd, False)

    def show(self, message: Message) -> None:
        if self._fd is None:
            return
        try:
            write(self._fd, json.dumps(message) + "\n")
        except OSError:
            self.close()
            return
        if message["kind"] in ("ready", "failed"):
            self.close()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class BackgroundDisplay:
    """Shows messages on a thread of its own, so that the sender never waits for the reader."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._messages: queue.Queue[Message | None] = queue.Queue(MAX_QUEUED)
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)
        self._thread.start()

    def show(self, message: Message) -> None:
        while True:
            try:
                self._messages.put_nowait(message)
                return
            except queue.Full:
                self._drop_oldest()

    def close(self) -> None:
        """Wait until every message has been shown, or for CLOSE_TIMEOUT seconds."""
        with contextlib.suppress(queue.Full):
            self._messages.put_nowait(None)
        self._thread.join(CLOSE_TIMEOUT)

    def _drop_oldest(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._messages.get_nowait()

    def _run(self) -> None:
        try:
            while (message := self._messages.get()) is not None:
                self._display.show(message)
            self._display.close()
        except OSError:  # The reader is gone (a closed terminal, `| head`); nothing else ends because of that.
            self._display = QuietDisplay()


def write(fd: int, text: str) -> None:
    """Write the whole text, however little a single write(2) accepts."""
    data = text.encode(errors="replace")
    while data:
        data = data[os.write(fd, data) :]


def lines(message: Message) -> list[str]:
    """Return the plain lines of a message; none if it need not be shown."""
    kind = message["kind"]
    if kind == "event":
        record = message["record"]
        return [] if record["event"] in HIDDEN_EVENTS else [event.line(record)]
    if kind == "ready":
        return ready_lines(message["replicas"], message.get("admin"))
    text: str = message["text"]
    return text.splitlines() or [""]


def ready_lines(replicas: list[Message], admin: str | None) -> list[str]:
    """Return one line per replica with its URL, the URL of the dashboard, and the final word `ready`."""
    width = max((len(replica["name"]) for replica in replicas), default=0)
    shown = [
        f"{replica['name']:<{width}}  {replica['kind']:<9}  {replica['id'] or '-':<12}  {replica['url']}"
        for replica in replicas
    ]
    return [*shown, *([f"dashboard  {admin}"] if admin else []), "ready"]


def plain_display(quiet: bool, log_format: str | None) -> Display | None:
    """Return the display that the options or a non-terminal output require.

    None means that a terminal may show more than lines.
    """
    if quiet:
        return QuietDisplay()
    if log_format == "json":
        return JsonDisplay()
    return LineDisplay() if log_format == "text" or not is_own_terminal() else None


def is_own_terminal() -> bool:
    """Return whether this is a terminal with cursor control whose foreground process group is ours."""
    try:
        return (
            sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb") and os.tcgetpgrp(1) == os.getpgrp()
        )
    except OSError:
        return False
