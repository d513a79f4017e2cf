"""Runs the board's process: waits for keys, events, snapshots, messages or signals, and draws.

Attached (`ps --watch`), the board runs until a key or Ctrl-C ends it. As a supervisor's window, it shows the start in
progress, the board once all replicas are ready, and the stop. It then ends when its supervisor ends, and not before.
"""

import os
import select
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from types import FrameType

from comet.state.directory import Cluster
from comet.telemetry.snapshot import Row
from comet.terminal.board.orders import COMMANDS, PAUSE_KEY, LogTail, Orders
from comet.terminal.board.screen import Screen, key_names
from comet.terminal.board.sources import Events, FeedReader, Snapshots
from comet.terminal.board.view import BoardState, Mode, frame, scroll_range
from comet.terminal.messages import Message
from comet.terminal.progress import LiveDisplay

POLL_INTERVAL = 0.1
"""Seconds between two reads of the journal."""

SUPERVISOR_DIED = "the supervisor died; its replicas keep serving: `run` adopts them, `stop` ends them"


class Board:
    """The board of one cluster.

    `feed` is the message feed of the supervisor that started this board as its window. None: the board is attached, to
    whatever runs.
    """

    def __init__(self, cluster: Cluster, feed: FeedReader | None = None) -> None:
        self._events = Events(cluster.path("events.jsonl"))
        self._feed = feed
        self._parent = os.getppid()
        self._snapshots: Snapshots | None = None
        self._cluster = cluster
        self._screen = Screen()
        self._progress = LiveDisplay(self._screen.console)
        self._state = BoardState(str(cluster.folder), foreground=feed is not None)
        self._mode = Mode()
        self._orders = Orders(cluster)
        self._log: LogTail | None = None
        self._shown: tuple[str, Sequence[str]] = ("", ())
        self._is_open = False
        self._left = False
        self._stopping = False
        self._suspended = False
        self._size = (0, 0)

    def run(self) -> None:
        """Run until the user leaves the board, or until the supervisor whose window it is has ended."""
        previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)}
        try:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, _exit_on_signal)
            signal.signal(signal.SIGTSTP, self._on_suspend)
            if self._feed is None:
                self._open()
            while not self._is_done():
                self._step()
        finally:
            self._close()
            self._progress.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _is_done(self) -> bool:
        return self._left if self._feed is None else self._feed.ended

    def _step(self) -> None:
        if self._suspended:
            self._suspend()
        feed, snapshots = self._feed, self._snapshots
        sources = [feed.fd] if feed is not None else []
        if self._is_open and snapshots is not None:
            self._take_or_leave()
            sources += [snapshots.fd, *([0] if self._screen.keys and self._screen.is_held else [])]
        ready, _, _ = select.select(sources, [], [], POLL_INTERVAL)
        if self._suspended:
            self._suspend()
            return  # What was ready is looked for again: the terminal may be another job's by then.
        if feed is not None and feed.fd in ready:
            for message in feed.read():
                self._handle_message(message)
            if feed.ended and not self._stopping:
                self._close()
                self._progress.print_line(SUPERVISOR_DIED)
        if self._is_open and snapshots is not None:
            self._update(ready, snapshots)

    def _take_or_leave(self) -> None:
        """Hold the terminal exactly while it is this job's.

        In the background, a key read would stop the whole job, the supervisor included.
        """
        if not self._screen.is_ours:
            self._screen.release()
        elif not self._screen.is_held:
            self._size = (0, 0)
            self._screen.acquire()

    def _update(self, ready: list[int], snapshots: Snapshots) -> None:
        needs_redraw = self._screen.size != self._size
        if snapshots.fd in ready:
            os.read(snapshots.fd, 4096)
            needs_redraw = True
        if self._events.poll():
            snapshots.request_soon()
            needs_redraw = True
        shown = (self._orders.note, () if self._log is None else self._log.lines)
        if shown != self._shown:
            self._shown = shown
            snapshots.request_soon()
            needs_redraw = True
        if 0 in ready:
            data = os.read(0, 1024)
            self._screen.keys = bool(data)
            for key in key_names(data):
                self._key(key)
            needs_redraw = True
        if needs_redraw:
            self._draw(snapshots)

    def _draw(self, snapshots: Snapshots) -> None:
        self._state = replace(
            self._state,
            snapshot=snapshots.latest,
            events=tuple(self._events.records),
            note=snapshots.error or self._orders.note,
            log=() if self._log is None else self._log.lines,
        )
        self._size = self._screen.size
        self._screen.draw(frame(self._state, self._mode, *self._size))

    def _handle_message(self, message: Message) -> None:
        """Handle a message from the supervisor; print it unless the board is open and shows it already."""
        if message["kind"] in ("step", "failed") and self._is_open:
            self._stopping = True
            self._close()
        self._stopping = (
            self._stopping
            or message["kind"] == "failed"
            or message.get("record", {}).get("event") == "supervisor_stopped"
        )
        if not self._is_open:
            self._progress.show(message)
        if message["kind"] == "ready":
            self._state = replace(self._state, admin=message.get("admin"))
            self._open()

    def _key(self, key: str) -> None:
        if self._mode.page in ("help", "log"):
            self._mode = replace(self._mode, page="board")
            self._close_log()
        elif self._mode.page == "confirm":
            if key in ("y", "Y"):
                self._orders.begin(self._mode.order, "" if self._mode.of_cluster else self._mode.selected)
            self._mode = replace(self._mode, page="board", order="")
        elif self._mode.page == "leave":
            self._handle_leave_answer(key)
        elif key == "help":
            self._mode = replace(self._mode, page="help")
        elif key == "leave":
            self._leave()
        elif key == "suspend":
            self._screen.release()
            os.kill(0, signal.SIGTSTP)
        elif key in ("up", "down"):
            self._select(-1 if key == "up" else 1)
        elif key == "escape":
            self._mode = replace(self._mode, selected="")
        elif key in COMMANDS and self._mode.selected:
            is_drained = any(row.name == self._mode.selected and row.drained for row in self._rows())
            order = "undrain" if key == "d" and is_drained else COMMANDS[key]
            self._mode = replace(self._mode, page="confirm", order=order)
        elif key == PAUSE_KEY and self._state.snapshot is not None:
            order = "resume" if self._state.snapshot.total.paused else "pause"
            self._mode = replace(self._mode, page="confirm", order=order)
        elif key == "l" and self._mode.selected:
            self._open_log()
        else:
            self._scroll(key)

    def _rows(self) -> Sequence[Row]:
        return self._state.snapshot.replicas if self._state.snapshot is not None else ()

    def _select(self, step: int) -> None:
        """Choose the next replica, and scroll so that it is seen."""
        names = [row.name for row in self._rows()]
        if not names:
            return
        selected = self._mode.selected
        index = names.index(selected) + step if selected in names else 0
        index = max(0, min(len(names) - 1, index))
        _, fitting = scroll_range(self._state, *self._size)
        line = index + 1  # The supervisor's line comes first.
        offset = max(line - fitting + 1, min(self._mode.offset, line if index else 0))
        self._mode = replace(self._mode, selected=names[index], offset=max(0, offset))

    def _open_log(self) -> None:
        name = self._mode.selected
        kind = next((row.kind for row in self._rows() if row.name == name), "process")
        self._close_log()
        self._log = LogTail(self._cluster, name, kind)
        self._mode = replace(self._mode, page="log")

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _leave(self) -> None:
        if self._feed is None:
            self._left = True
        else:
            self._mode = replace(self._mode, page="leave")

    def _handle_leave_answer(self, key: str) -> None:
        """Handle the user's answer to "leave the board?" where the supervisor is this terminal's job."""
        self._mode = replace(self._mode, page="board")
        if key == "l":
            self._close()
            self._progress.print_line("the cluster keeps running, events follow; Ctrl-C stops it")
        elif key in ("s", "y"):
            self._stop_supervisor()

    def _stop_supervisor(self) -> None:
        if os.getppid() == self._parent:  # The supervisor lives: no other process has become the parent.
            os.kill(self._parent, signal.SIGINT)

    def _scroll(self, key: str) -> None:
        count, fitting = scroll_range(self._state, *self._size)
        last = max(0, count - fitting)
        step = {"page up": -fitting, "page down": fitting, "first": -count, "last": count}.get(key, 0)
        self._mode = replace(self._mode, offset=max(0, min(last, self._mode.offset + step)))

    def _open(self) -> None:
        self._progress.close()
        self._snapshots = self._snapshots or Snapshots(self._cluster)
        self._is_open = True
        self._screen.acquire()
        self._events.poll()
        self._draw(self._snapshots)

    def _close(self) -> None:
        self._is_open = False
        self._screen.release()

    def _on_suspend(self, number: int, frame: FrameType | None) -> None:
        self._suspended = True

    def _suspend(self) -> None:
        """Restore the terminal and stop as usual for SIGTSTP; once continued, the next step may take it again."""
        self._suspended = False
        self._screen.release()
        self._progress.close()
        os.kill(os.getpid(), signal.SIGSTOP)


def run_attached(cluster: Cluster) -> None:
    """Show the board for `ps --watch` on a terminal."""
    with suppress(KeyboardInterrupt):
        Board(cluster).run()


def run_window(cluster: Cluster, feed: FeedReader) -> int:
    """Show what the supervisor at the other end of the feed reports; return the exit code."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    Board(cluster, feed).run()
    return 0


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
