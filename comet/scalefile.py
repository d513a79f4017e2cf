"""How many replicas there are by command, where that differs from the config: `.comet/scale.json`.

It holds for as long as the config asks for the same numbers as when the command was given, and for this life of the cluster.
"""

import contextlib
import json
from dataclasses import replace

from comet.cluster import Cluster, write_atomically
from comet.config import Config


def apply(cluster: Cluster, config: Config) -> Config:
    """The config with the numbers in force."""
    try:
        content = json.loads(cluster.path("scale.json").read_text())
        if content["config"] == [config.worker, config.pool]:
            worker, pool = (int(number) for number in content["scale"])
            return replace(config, worker=worker, pool=pool)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return config


def keep(cluster: Cluster, config: Config, worker: int, pool: int) -> None:
    """Remember numbers given by command; `config` is the file's own. A full disk costs only the memory of it."""
    with contextlib.suppress(OSError):
        write_atomically(cluster.path("scale.json"), json.dumps({"config": [config.worker, config.pool], "scale": [worker, pool]}) + "\n")


def forget(cluster: Cluster) -> None:
    cluster.path("scale.json").unlink(missing_ok=True)
