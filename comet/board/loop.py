"""What the process that shows a board does: wait for keys, events, snapshots, a supervisor's words or a signal, and draw.

Attached (`ps --watch`) it shows a board until a key or Ctrl-C ends it. As a supervisor's window it shows the start as it goes by, the
board once all are ready, and the stop; then it ends because its supervisor does, and only then.
"""

import os
import select
import signal
from contextlib import suppress
from dataclasses import replace
from types import FrameType

from comet.board.screen import Screen, named
from comet.board.sources import Events, Snapshots, Words
from comet.board.view import Known, Mode, frame, room
from comet.cluster import Cluster
from comet.display import Message
from comet.progress import LiveDisplay

TICK = 0.1
"""Seconds between two looks at the journal."""

GONE = "the supervisor died; what it kept serves on: `run` adopts it, `stop` ends it"


class Board:
    """`words` come from a supervisor whose window this is; None: attached, to whatever runs."""

    def __init__(self, cluster: Cluster, words: Words | None = None) -> None:
        self._events = Events(cluster.path("events.jsonl"))
        self._words = words
        self._parent = os.getppid()
        self._snapshots: Snapshots | None = None
        self._cluster = cluster
        self._screen = Screen()
        self._progress = LiveDisplay(self._screen.console)
        self._known = Known(str(cluster.folder), foreground=words is not None)
        self._mode = Mode()
        self._shown = False
        self._left = False
        self._stopping = False
        self._suspended = False
        self._size = (0, 0)

    def run(self) -> None:
        """Until it is left, or the supervisor whose window it is has ended."""
        previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)}
        try:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, _ended)
            signal.signal(signal.SIGTSTP, self._on_suspend)
            if self._words is None:
                self._open()
            while not self._over():
                self._turn()
        finally:
            self._close()
            self._progress.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _over(self) -> bool:
        return self._left if self._words is None else self._words.ended

    def _turn(self) -> None:
        words, snapshots = self._words, self._snapshots
        sources = [words.fd] if words is not None else []
        if self._shown and snapshots is not None:
            sources += [snapshots.fd, *([0] if self._screen.keys else [])]
        ready, _, _ = select.select(sources, [], [], TICK)
        if self._suspended:
            self._suspend()
        if words is not None and words.fd in ready:
            for message in words.read():
                self._take(message)
            if words.ended and not self._stopping:
                self._close()
                self._progress.say(GONE)
        if self._shown and snapshots is not None:
            self._look(ready, snapshots)

    def _look(self, ready: list[int], snapshots: Snapshots) -> None:
        stale = self._screen.size != self._size
        if snapshots.fd in ready:
            os.read(snapshots.fd, 4096)
            stale = True
        if self._events.poll():
            snapshots.hurry()
            stale = True
        if 0 in ready:
            data = os.read(0, 1024)
            self._screen.keys = bool(data)
            for key in named(data):
                self._key(key)
            stale = True
        if stale:
            self._draw(snapshots)

    def _draw(self, snapshots: Snapshots) -> None:
        self._known = replace(self._known, snapshot=snapshots.latest, events=tuple(self._events.kept), note=snapshots.trouble)
        self._size = self._screen.size
        self._screen.draw(frame(self._known, self._mode, *self._size))

    def _take(self, message: Message) -> None:
        """A supervisor's word: shown as it goes by unless the board is up and shows it already."""
        if message["kind"] in ("step", "failed") and self._shown:
            self._stopping = True
            self._close()
        self._stopping = self._stopping or message["kind"] == "failed" or message.get("record", {}).get("event") == "supervisor_stopped"
        if not self._shown:
            self._progress.show(message)
        if message["kind"] == "ready":
            self._known = replace(self._known, admin=message.get("admin"))
            self._open()

    def _key(self, key: str) -> None:
        if self._mode.page == "help":
            self._mode = replace(self._mode, page="board")
        elif self._mode.page == "leave":
            self._answer(key)
        elif key == "help":
            self._mode = replace(self._mode, page="help")
        elif key == "leave":
            self._leave()
        elif key == "suspend":
            self._screen.give_back()
            os.kill(0, signal.SIGTSTP)
        else:
            self._scroll(key)

    def _leave(self) -> None:
        if self._words is None:
            self._left = True
        else:
            self._mode = replace(self._mode, page="leave")

    def _answer(self, key: str) -> None:
        """What is to become of a cluster whose supervisor this terminal's job is."""
        self._mode = replace(self._mode, page="board")
        if key == "l":
            self._close()
            self._progress.say("the cluster goes on, events follow; Ctrl-C stops it")
        elif key in ("s", "y"):
            self._stop_supervisor()

    def _stop_supervisor(self) -> None:
        if os.getppid() == self._parent:  # It lives: nobody else has become our parent.
            os.kill(self._parent, signal.SIGINT)

    def _scroll(self, key: str) -> None:
        count, fitting = room(self._known, *self._size)
        last = max(0, count - fitting)
        step = {"up": -1, "down": 1, "page up": -fitting, "page down": fitting, "first": -count, "last": count}.get(key, 0)
        self._mode = replace(self._mode, offset=max(0, min(last, self._mode.offset + step)))

    def _open(self) -> None:
        self._progress.close()
        self._snapshots = self._snapshots or Snapshots(self._cluster)
        self._shown = True
        self._screen.take()
        self._events.poll()
        self._draw(self._snapshots)

    def _close(self) -> None:
        self._shown = False
        self._screen.give_back()

    def _on_suspend(self, number: int, frame: FrameType | None) -> None:
        self._suspended = True

    def _suspend(self) -> None:
        """Give the terminal back, stop as everybody does at SIGTSTP, and take it again when continued."""
        self._suspended = False
        self._screen.give_back()
        self._progress.close()
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._shown:
            self._size = (0, 0)
            self._screen.take()


def attached(cluster: Cluster) -> None:
    """`ps --watch` on a terminal."""
    with suppress(KeyboardInterrupt):
        Board(cluster).run()


def window(cluster: Cluster, words: Words) -> int:
    """The process that shows what the supervisor at the other end tells. Ctrl-C is for the supervisor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    Board(cluster, words).run()
    return 0


def _ended(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
