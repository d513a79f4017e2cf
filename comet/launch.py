"""How a supervisor comes to run: here, in the foreground, or in a session of its own that outlives the command."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

from comet import database
from comet.cluster import Cluster, Lock
from comet.config import Config
from comet.display import Display, Message
from comet.errors import UserError


def supervise(config: Config, cluster: Cluster, make_display: Callable[[], Display]) -> int:
    # Here, not above: no other command needs the engine's SDK, the forkserver or the load balancer's code.
    from setproctitle import setproctitle

    from comet.drivers.process import become_subreaper
    from comet.run import Run

    lock = Lock(cluster)
    if not lock.acquire():
        raise UserError(f"{config.folder}: a supervisor is running already (PID {lock.holder()}); stop it with: python supervisor.py stop")
    setproctitle(f"comet: supervisor {config.path}")
    become_subreaper()

    display = make_display()

    async def serve() -> int:
        return await Run(config, cluster, display, lock.former).serve()

    try:
        code = asyncio.run(serve())
    finally:
        display.close()
        lock.release()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    if any(thread.is_alive() and not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        # A call to an engine that hangs: everything else is done, and Python would wait for it without end.
        os._exit(code)
    return code


def detached(config: Config, cluster: Cluster, display: Display) -> int:
    """Start a supervisor of its own session, show how it comes up, and return when all are ready or it has failed."""
    read_fd, write_fd = os.pipe()
    argv = [sys.executable, "-m", "comet", "run", "--config", str(config.path), "--notify-fd", str(write_fd)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(database.SOURCES), os.environ.get("PYTHONPATH"))))}
    log = cluster.path("logs", "supervisor.log")
    with log.open("ab") as output:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, pass_fds=(write_fd,), start_new_session=True
        )
    os.close(write_fd)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        for message in messages(read_fd):
            if message["kind"] == "failed":
                child.wait()
                raise UserError(message["text"], message["exit_code"])
            display.show(message)
            if message["kind"] == "ready":
                return 0
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        return child.wait()
    finally:
        display.close()
    code = child.wait()
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    raise UserError(f"the supervisor ended before the cluster was ready (exit code {code}): {last[0]}; see {log}")


def messages(fd: int) -> Iterator[Message]:
    with os.fdopen(fd) as stream:
        for text in stream:
            yield json.loads(text)
