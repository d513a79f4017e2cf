"""What a person, or a log, is told while a cluster comes up, lives and goes.

Everything told is a small message (`Message`), so that a detached supervisor can send the same messages through a pipe and the command
that started it shows them. A display may be as slow as its reader: `Aside` keeps that away from whoever tells.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import time
from typing import Any, Protocol

from comet import events
from comet.wallclock import iso

Message = dict[str, Any]
"""{"kind": "step", "text"} · {"kind": "event", "record"} · {"kind": "ready", "replicas", "admin"} ·
{"kind": "failed", "text", "exit_code"}"""

QUIET = frozenset({"supervisor_started", "replica_starting", "admin_ready"})
"""Events that only repeat what a step has said."""

PATIENCE = 2.0
"""Seconds that a reader has at the end to take in what is left; a stopped terminal must not keep a supervisor from ending."""

WAITING_AT_MOST = 10_000
"""Messages that wait for a slow reader; older ones than these are given up."""


class Display(Protocol):
    def show(self, message: Message) -> None: ...

    def close(self) -> None: ...


class LineDisplay:
    """One plain line per message, for pipes and files. Unbuffered: a reader that stops holds nobody up but the thread that writes."""

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
    """One JSON object a line, events as the journal keeps them, the rest in the same manner."""

    def lines(self, message: Message) -> list[str]:
        if message["kind"] == "event":
            record = message["record"]
        else:
            told = {key: value for key, value in message.items() if key != "kind"}
            record = {"at": iso(time.time()), "event": message["kind"], **told}
        return [json.dumps(record, separators=(",", ":"))]


class QuietDisplay(LineDisplay):
    """Nothing but what went wrong."""

    def lines(self, message: Message) -> list[str]:
        return lines(message) if message["kind"] == "failed" else []


class PipeDisplay:
    """Messages as JSON lines into a descriptor, until its reader has heard enough."""

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


class Aside:
    """Shows on a thread of its own, so that whoever tells never waits for whoever reads."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._messages: queue.Queue[Message | None] = queue.Queue(WAITING_AT_MOST)
        self._thread = threading.Thread(target=self._work, name="display", daemon=True)
        self._thread.start()

    def show(self, message: Message) -> None:
        while True:
            try:
                self._messages.put_nowait(message)
                return
            except queue.Full:
                self._drop()

    def close(self) -> None:
        """Wait until all has been shown, or for PATIENCE seconds."""
        with contextlib.suppress(queue.Full):
            self._messages.put_nowait(None)
        self._thread.join(PATIENCE)

    def _drop(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._messages.get_nowait()

    def _work(self) -> None:
        try:
            while (message := self._messages.get()) is not None:
                self._display.show(message)
            self._display.close()
        except OSError:  # Whoever read it is gone (a closed terminal, `| head`); nothing else ends for that.
            self._display = QuietDisplay()


def write(fd: int, text: str) -> None:
    """All of it, whatever a single write(2) takes."""
    data = text.encode(errors="replace")
    while data:
        data = data[os.write(fd, data) :]


def lines(message: Message) -> list[str]:
    """The plain lines of a message; none for what need not be said."""
    kind = message["kind"]
    if kind == "event":
        record = message["record"]
        return [] if record["event"] in QUIET else [events.line(record)]
    if kind == "ready":
        return ready_lines(message["replicas"], message.get("admin"))
    text: str = message["text"]
    return text.splitlines() or [""]


def ready_lines(replicas: list[Message], admin: str | None) -> list[str]:
    """One line per replica with its URL, that of the dashboard, and the word that everyone waits for."""
    width = max((len(replica["name"]) for replica in replicas), default=0)
    shown = [f"{replica['name']:<{width}}  {replica['kind']:<9}  {replica['id'] or '-':<12}  {replica['url']}" for replica in replicas]
    return [*shown, *([f"dashboard  {admin}"] if admin else []), "ready"]


def plain(quiet: bool, log_format: str | None) -> Display | None:
    """The display that the options, or an output that is no terminal, ask for; None where a terminal may show more than lines."""
    if quiet:
        return QuietDisplay()
    if log_format == "json":
        return JsonDisplay()
    return LineDisplay() if log_format == "text" or not is_ours() else None


def is_ours(fd: int = 1) -> bool:
    """Whether this is a terminal that can move its cursor, and that we, not a job in front of us, have."""
    try:
        return sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb") and os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False
