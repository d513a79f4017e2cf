"""Runs the admin server: python -m comet.admin FOLDER LISTENER FEED (two inherited descriptors).

Only the supervisor's AdminProcess starts it. It lives as long as its feed, which closes when the supervisor dies for
whatever reason.
"""

import functools
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from flask import request
from setproctitle import setproctitle

from comet.admin.access.sessions import Keys
from comet.admin.access.write_access import TOKEN
from comet.admin.app import MAX_BODY, Services, create_app
from comet.admin.connections import PEER, Server
from comet.admin.sample_load import SampleLoad
from comet.admin.view_model import ViewModel
from comet.host import files
from comet.host.process_setup import prepare_process
from comet.state.control_socket import call
from comet.state.directory import Cluster
from comet.telemetry.process_usage import Sampler

NICENESS = 10
"""The nice value: where CPU is scarce, readers of the page wait before supervisor, load balancers and workers do."""

COMMAND_TIMEOUT = 3600.0
"""Seconds that a command may take; a rolling restart of 200 workers takes minutes."""


def main() -> None:
    prepare_process()
    folder, listener_fd, feed_fd = sys.argv[1:]
    cluster = Cluster(Path(folder))
    cluster.hold()
    listener, feed = socket.socket(fileno=int(listener_fd)), socket.socket(fileno=int(feed_fd))
    os.nice(NICENESS)
    setproctitle(f"comet: admin :{listener.getsockname()[1]}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # 50 concurrent pollers are normal.
    stream = feed.makefile("rb")
    first = stream.readline()
    if not first:
        return
    view_model = ViewModel(Sampler().sample)
    server = Server(
        create_app(_services(cluster, view_model, Keys(**json.loads(first)["keys"]))),
        listener,
        owners={0, os.getuid()},
        max_request_header_size=16 << 10,
        max_request_body_size=2 * MAX_BODY,
    )
    threading.Thread(target=_follow, args=(feed, stream, view_model), daemon=True).start()
    server.run()


def _services(cluster: Cluster, view_model: ViewModel, keys: Keys) -> Services:
    """Return what the application may do; it imports what most servers are never asked for when it is."""
    sample_load = SampleLoad(cluster, view_model.latest)
    view_model.load_state = lambda: sample_load.state

    def command(name: str, fields: dict[str, Any]) -> Any:
        if name == "load":
            return sample_load.send(fields["rate"], fields["for"])
        if name == "demo":
            return sample_load.demonstrate()
        return call(cluster, name, COMMAND_TIMEOUT, **fields)

    @functools.cache
    def renderer() -> Callable[[], bytes]:
        from comet.admin import metrics

        return metrics.renderer(view_model.snapshot)

    def render_metrics() -> bytes:
        return renderer()()

    def inspect(names: list[str]) -> dict[str, Any]:
        from comet.inspection import replicas

        return replicas.report(cluster, names)

    def logs(names: list[str], lines: int) -> list[dict[str, str]]:
        from comet.admin import replica_logs

        return replica_logs.read(cluster, view_model.latest(), names, lines)

    token = files.read_text(cluster.path(TOKEN)).strip()
    return Services(view_model, token, command, render_metrics, lambda: request.environ.get(PEER), keys, inspect, logs)


def _follow(feed: socket.socket, stream: IO[bytes], view_model: ViewModel) -> None:
    """Read the feed into the view model; end the process when the feed ends."""
    try:
        feed.sendall(b"accepting\n")
        for line in stream:
            message = json.loads(line)
            if message["type"] == "end":
                time.sleep(view_model.notice_s)
                break
            view_model.apply(message)
            feed.sendall(b".")
    except OSError:
        pass
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
