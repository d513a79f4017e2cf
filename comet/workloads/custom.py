"""What the config says of a custom service: an image or a command line, run unchanged.

Such a service must speak HTTP/1.1 on its address and answer a GET of `health-path` with a status from 200 to 399. It
gets the address by the placeholders {host}, {port} and {name} of its command line and by the variables HOST, PORT and
COMET_REPLICA. A command line without {port} gets the listening socket itself, as descriptor 3, as in sd_listen_fds(3)
(LISTEN_FDS, LISTEN_PID): the supervisor holds that socket, so connections wait while the service restarts.
"""

import os
from pathlib import Path

from comet.common.values import url_host
from comet.config.schema import Config

ANY_HOST = "0.0.0.0"
"""The host on which a container's service listens: all addresses of its own network."""


def fill_placeholders(words: tuple[str, ...], host: str, port: int, name: str) -> tuple[str, ...]:
    """Return the command line with its placeholders replaced. An IPv6 host gets its brackets."""
    values = {"{host}": url_host(host), "{port}": str(port), "{name}": name}
    found = []
    for word in words:
        for place, value in values.items():
            word = word.replace(place, value)
        found.append(word)
    return tuple(found)


def variables(config: Config, host: str, port: int, name: str) -> dict[str, str]:
    return {"HOST": host, "PORT": str(port), "COMET_REPLICA": name, **dict(config.worker_environment)}


def absolute(folder: Path, source: str) -> str:
    return os.path.abspath(folder / os.path.expanduser(source))
