"""The admin server's process: python -m comet.admin FOLDER LISTENER FEED (two inherited descriptors). Started by the keeper alone.

It lives as long as its feed: a supervisor that dies, however, closes it.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import waitress  # type: ignore[import-untyped]
from setproctitle import setproctitle

from comet.admin.app import MAX_BODY, Services, create_app
from comet.admin.keeper import TOKEN
from comet.admin.metrics import renderer
from comet.admin.picture import Picture
from comet.cluster import Cluster
from comet.control import call
from comet.usage import Sampler

NICENESS = 10
"""On a machine that has too little CPU, readers of the page wait before supervisor, load balancers and workers do."""

THREADS = 8
CONNECTIONS = 256
IDLE_TIMEOUT = 30
"""Seconds after which a connection that says nothing, or does not read, is closed."""

COMMAND_TIMEOUT = 3600.0
"""Seconds; a rolling restart of 200 workers takes minutes."""


def main() -> None:
    folder, listener_fd, feed_fd = sys.argv[1:]
    cluster = Cluster(Path(folder))
    listener, feed = socket.socket(fileno=int(listener_fd)), socket.socket(fileno=int(feed_fd))
    os.nice(NICENESS)
    setproctitle(f"comet: admin :{listener.getsockname()[1]}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # 50 pollers at a time are no news.
    picture = Picture(Sampler().sample)

    def command(name: str, fields: dict[str, Any]) -> Any:
        return call(cluster, name, COMMAND_TIMEOUT, **fields)

    app = create_app(Services(picture, cluster.path(TOKEN).read_text().strip(), command, renderer(picture.snapshot)))
    server = waitress.create_server(
        app,
        sockets=[listener],
        threads=THREADS,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE_TIMEOUT,
        cleanup_interval=5,
        max_request_header_size=16 << 10,
        max_request_body_size=2 * MAX_BODY,
        asyncore_use_poll=True,
        ident=None,
    )
    threading.Thread(target=_follow, args=(feed, picture), daemon=True).start()
    server.run()


def _follow(feed: socket.socket, picture: Picture) -> None:
    """Take in the feed; its end is ours."""
    try:
        feed.sendall(b"accepting\n")
        with feed.makefile("rb") as stream:
            for line in stream:
                picture.take(json.loads(line))
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
