"""Starts a supervisor as a process of its own, reports how its start goes, and gives it commands.

The supervisor sends its messages through a pipe until the cluster is ready, or has failed. After that it needs nobody.
With `owned` it lives as long as the process that starts it: the kernel reports that process's end, however it dies, and
the supervisor then stops its cluster.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comet.common.errors import UserError
from comet.config.schema import Config
from comet.events.event import visible
from comet.host import files
from comet.host.checkout import SOURCES
from comet.state.control_socket import NotAnswering, call
from comet.state.directory import Cluster
from comet.terminal.messages import Message

GRACE = 1.0
"""Seconds that `end` waits for requests in flight, before it has everything ended at once."""

END_TIMEOUT = 15.0
"""Seconds that a supervisor may take to end everything at once."""

QUICK_TIMEOUT = 20.0
"""Seconds for a request that a supervisor answers at once."""

DEATH_TIMEOUT = 0.5
"""Seconds that a supervisor which hung up may take to be dead."""

LOG_TAIL = 64 << 10
TRACEBACK = "Traceback (most recent call last):"
_CANCELLED = re.compile(r"(?:asyncio\.exceptions\.)?(?:CancelledError|KeyboardInterrupt|SystemExit)\b")


class BackgroundSupervisor:
    """A supervisor process that was just started; its output goes to `.comet/logs/supervisor.log`."""

    def __init__(self, config: Config, cluster: Cluster, owned: bool = False) -> None:
        read_fd, write_fd = os.pipe()
        # -P: nothing in the working folder may stand in for one of our packages.
        argv = [sys.executable, "-P", "-m", "comet", "run", "--config", str(config.path), "--notify-fd", str(write_fd)]
        if owned:
            argv += ["--owner-pid", str(os.getpid())]
        path = os.pathsep.join(filter(None, (str(SOURCES), os.environ.get("PYTHONPATH"))))
        self._log = cluster.path("logs", "supervisor.log")
        self._messages = read_fd
        try:
            with os.fdopen(files.append(self._log), "ab") as output:
                self._before = os.fstat(output.fileno()).st_size
                self.process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=os.environ | {"PYTHONPATH": path},
                    pass_fds=(write_fd,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)

    def messages(self) -> Iterator[Message]:
        """Yield what it reports, up to the message `ready`; raise UserError if the start fails."""
        with os.fdopen(self._messages) as stream:
            for text in stream:
                message: Message = json.loads(text)
                if message["kind"] == "failed":
                    self.process.wait()
                    raise UserError(message["text"], message["exit_code"])
                yield message
                if message["kind"] == "ready":
                    return
        raise UserError(ended_early(self.process.wait(), _added_since(self._log, self._before), str(self._log)))


def end(process: "subprocess.Popen[bytes]") -> None:
    """Have a supervisor stop its cluster, then stop it at once, then kill it."""
    for timeout in (GRACE, END_TIMEOUT):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
            return
    process.kill()
    process.wait()


def _added_since(log: Path, before: int) -> str:
    """Return what was added to a log that had `before` bytes, at most its last LOG_TAIL bytes.

    If the log has been truncated since, everything in it counts as added.
    """
    try:
        with os.fdopen(files.open_read(log), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(before if size >= before else 0, size - LOG_TAIL))
            return file.read(LOG_TAIL).decode(errors="replace")
    except OSError:
        return ""


def ended_early(code: int, printed: str, log: str) -> str:
    """Return the error text for a supervisor that ended without a reason.

    It is derived from the exit status and from what the supervisor printed during this start.
    """
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"the supervisor was ended by {name} before the cluster was ready; see {log}"
    if code == 0:
        return f"the supervisor was stopped before the cluster was ready; see {log}"
    lines = [line for line in printed.splitlines() if line.strip()]
    # In a chain of exceptions the first one is the cause; a cancelled task never is.
    ends = [
        line for previous, line in itertools.pairwise(lines) if previous.startswith("  ") and not line.startswith(" ")
    ]
    raised = [line for line in ends if not _CANCELLED.match(line)] if TRACEBACK in printed else lines[-1:]
    reason = raised[0] if raised else "it printed nothing" if not lines else "it was interrupted"
    return f"the supervisor ended before the cluster was ready (exit code {code}): {visible(reason)}; see {log}"


def ask(
    cluster: Cluster,
    process: subprocess.Popen[bytes] | None,
    command: str,
    fields: Mapping[str, Any],
    timeout: float = QUICK_TIMEOUT,
) -> Any:
    """Return what the supervisor answers to a command; UserError where it refuses, or says how it has ended."""
    for name, value in fields.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise UserError(f"{command}: {name}: {value!r} ({type(value).__name__}) cannot be a setting", 2) from None
    try:
        return call(cluster, command, timeout=timeout, **fields)
    except (ConnectionError, NotAnswering) as error:
        ended = str(error)
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = None if process is None else process.wait(DEATH_TIMEOUT)
            ended = f"it has ended, exit status {code}"
        raise UserError(f"{command}: the supervisor does not answer ({ended})") from None
