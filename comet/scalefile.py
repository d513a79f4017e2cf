"""How many replicas there are by command, where that differs from the config: `.comet/scale.json`.

Each number holds for as long as the config asks for the same one as when the command was given, and for this life of the cluster.
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
        asked, scaled = (int(number) for number in content["config"]), (int(number) for number in content["scale"])
        in_file = (config.worker, config.pool)
        worker, pool = (given if then == now else now for then, given, now in zip(asked, scaled, in_file, strict=True))
    except (OSError, ValueError, KeyError, TypeError):
        return config
    return replace(config, worker=worker, pool=pool)


def keep(cluster: Cluster, config: Config, worker: int, pool: int) -> None:
    """Remember numbers given by command; `config` is the file's own. A full disk costs only the memory of it."""
    if (worker, pool) == (config.worker, config.pool):
        forget(cluster)
        return
    with contextlib.suppress(OSError):
        write_atomically(cluster.path("scale.json"), json.dumps({"config": [config.worker, config.pool], "scale": [worker, pool]}) + "\n")


def forget(cluster: Cluster) -> None:
    cluster.path("scale.json").unlink(missing_ok=True)
