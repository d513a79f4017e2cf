"""Commands of the command line, run in processes that are forked from one that has imported it.

An interpreter with these imports costs half a second of CPU and the command itself some milliseconds, and the tests
give many hundreds. The forked process does all that `python supervisor.py` does after its imports: it calls
`supervisor.main` with a folder, an environment, arguments and standard streams of its own. It ends as an interpreter
does, but leaves its modules to the kernel: to take them down piece by piece would copy each page of them, and cost
twice what the command does. What tests how a process starts or ends does not come here.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = (
    "comet.api.statistics",
    "comet.balancers.finder",
    "comet.cli.acting",
    "comet.cli.commands",
    "comet.cli.main",
    "comet.faults.files",
    "comet.runtimes.docker.finder",
    "comet.runtimes.external.finder",
    "comet.runtimes.logs",
    "comet.runtimes.merged_logs",
    "comet.runtimes.process.finder",
    "comet.runtimes.swarm.finder",
    "comet.terminal.board.loop",
    "docker",
    "psycopg",
    "rich.console",
    "sqlite3",
)
READY = b"ready"
MAX_BYTES = 100_000
"""Of one request: a packet of a UNIX socket holds 200 kB."""


class Commands:
    """Gives commands to the process that they are forked from, which ends with this one."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            argv = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(argv, cwd=ROOT, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        assert self._socket.recv(len(READY)) == READY

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def run(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        """As `subprocess.run` of supervisor.py with these arguments in this folder, its output captured as text."""
        request = json.dumps([arguments, str(folder), dict(environment)]).encode()
        assert len(request) < MAX_BYTES
        pipes = [os.pipe() for _ in ("standard output", "standard error", "outcome")]
        with contextlib.ExitStack() as ends:
            for _, write in pipes:
                ends.callback(os.close, write)
            with self._lock:
                socket.send_fds(self._socket, [request], [write for _, write in pipes])
        told = {read: b"" for read, _ in pipes}
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            for read in told:
                selector.register(read, selectors.EVENT_READ)
            try:
                while selector.get_map():
                    ready = selector.select(deadline - time.monotonic())
                    if not ready:
                        _, _, (pid, *_) = [content.split() for content in told.values()]
                        os.kill(int(pid), 9)
                        raise subprocess.TimeoutExpired(list(arguments), timeout)
                    for key, _ in ready:
                        piece = os.read(key.fd, 65536)
                        told[key.fd] += piece
                        if not piece:
                            selector.unregister(key.fd)
            finally:
                for read in told:
                    os.close(read)
        out, errors, outcome = told.values()
        code = int(outcome.split()[1])
        text = [stream.decode(errors="surrogateescape").replace("\r\n", "\n") for stream in (out, errors)]
        return subprocess.CompletedProcess(list(arguments), code, *text)


def serve(control: socket.socket) -> Sequence[str] | None:
    """Fork a process for each request until nobody is there to give one. Returns in the forked ones, with the arguments
    of the command.
    """
    alive: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in alive:
                    selector.unregister(key.fd)
                    pid, outcome = alive.pop(key.fd)
                    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    os.write(outcome, str(status).encode())
                    os.close(outcome)
                    os.close(key.fd)
                    continue
                request, received, _, _ = socket.recv_fds(control, MAX_BYTES, 3)
                if not request:
                    return None
                pid = os.fork()
                if pid == 0:
                    return become(request, *received[:2])
                for fd in received[:2]:
                    os.close(fd)
                os.write(received[2], f"{pid}\n".encode())
                pidfd = os.pidfd_open(pid)
                alive[pidfd] = (pid, received[2])
                selector.register(pidfd, selectors.EVENT_READ)


def become(request: bytes, out: int, errors: int) -> Sequence[str]:
    """Make this process what a fresh one would be; the arguments that it was given."""
    arguments, folder, environment = json.loads(request)
    os.dup2(out, 1)
    os.dup2(errors, 2)
    os.closerange(3, 1024)
    # The ones there are know the file that was open before.
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", 1, closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return list(arguments)


def main() -> int | str | None:
    sys.path.insert(0, str(ROOT))
    import supervisor

    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # What is never collected is never copied.
    control = socket.socket(fileno=int(sys.argv[1]))
    control.send(READY)
    arguments = serve(control)
    if arguments is None:
        control.close()
        return 0
    control.detach()  # The descriptor is closed.
    sys.argv = [supervisor.__file__, *arguments]
    try:
        outcome = supervisor.main()
    except SystemExit as end:
        outcome = end.code
    leave(outcome)
    return outcome


def leave(outcome: int | str | None) -> None:
    """End at once with this exit status; return where the end has something to say, which the interpreter does."""
    if isinstance(outcome, str):
        return
    threading._shutdown()  # type: ignore[attr-defined]  # Waits for threads, as Py_FinalizeEx() does.
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(outcome or 0)


if __name__ == "__main__":
    raise SystemExit(main())
