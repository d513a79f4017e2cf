"""What a person sees while a cluster comes up, lives and goes: lines, or on a terminal a live view of what is still under way.

Everything shown is a small message (`Message`), so that a detached supervisor can send the same messages through a pipe and the command
that started it shows them.
"""

import json
import os
import sys
from typing import Any, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from comet import events

Message = dict[str, Any]
"""{"kind": "step", "text"} · {"kind": "event", "record"} · {"kind": "ready", "replicas", "admin"} ·
{"kind": "failed", "text", "exit_code"}"""

QUIET = frozenset({"supervisor_started", "replica_starting", "admin_ready"})
"""Events that only repeat what a step has said."""

STATE_STYLES = {"ready": "green", "starting": "yellow", "unhealthy": "red", "backoff": "red", "stopping": "yellow", "stopped": "dim"}


class Display(Protocol):
    def show(self, message: Message) -> None: ...

    def close(self) -> None: ...


class LineDisplay:
    """One plain line per message, for pipes and files."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def show(self, message: Message) -> None:
        stream = sys.stderr if message["kind"] == "failed" else self._stream
        for line in lines(message):
            print(line, file=stream, flush=True)

    def close(self) -> None:
        return


class PipeDisplay:
    """Messages as JSON lines into a descriptor, until its reader has heard enough."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        os.set_inheritable(fd, False)

    def show(self, message: Message) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, json.dumps(message).encode() + b"\n")
        except OSError:
            self.close()
            return
        if message["kind"] in ("ready", "failed"):
            self.close()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class LiveDisplay:
    """On a terminal: finished steps and events scroll by, what is under way turns below them."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._step = ""
        self._starting: dict[str, str] = {}

    def show(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "step":
            self._finish_step()
            self._step = message["text"]
        elif kind == "event":
            self._follow(message["record"])
        if kind in ("ready", "failed"):
            self._finish_step()
            self.close()
        if kind == "failed":
            print(message["text"], file=sys.stderr, flush=True)
        elif kind != "step":
            for line in lines(message):
                self._console.print(styled(line), soft_wrap=True)
        if kind not in ("ready", "failed"):
            self._refresh()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _finish_step(self) -> None:
        if self._step:
            self._console.print(Text("✓ ", style="green") + Text(self._step))
            self._step = ""

    def _follow(self, record: Message) -> None:
        name, replica = record["event"], str(record.get("replica"))
        if name in ("replica_starting", "replica_restarting"):
            self._starting[replica] = "starting"
        elif name == "backoff_entered":
            self._starting[replica] = "waiting to be restarted"
        elif name in ("replica_ready", "replica_stopped"):
            self._starting.pop(replica, None)

    def _refresh(self) -> None:
        under_way = [f"{name} {what}" for name, what in sorted(self._starting.items())]
        if self._step:
            under_way.insert(0, self._step)
        if not under_way:
            self.close()
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=10, transient=True)
            self._live.start()
        self._live.update(Group(*(Spinner("dots", Text(line, style="yellow")) for line in under_way)))


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


def styled(line: str) -> Text:
    text = Text(line)
    text.highlight_regex(r"\bready\b", "green")
    text.highlight_regex(r"\b(exited|unhealthy|lost|could not)\b.*", "red")
    text.highlight_regex(r"https?://\S+", "cyan")
    return text


def for_stdout() -> Display:
    return LiveDisplay() if sys.stdout.isatty() else LineDisplay()
