"""Keeps the replica counts that commands have set, where they differ from the config, in `.comet/scale.json`.

Each count is effective while the config asks for the same number as at the time of the command, until the cluster is
stopped.
"""

import contextlib
import json

from comet.common.errors import UserError
from comet.common.json_values import decode, is_whole, mapping
from comet.config.schema import Config, parse_numbers
from comet.host import files
from comet.state.directory import Cluster


def apply(cluster: Cluster, config: Config) -> Config:
    """Return the config with the effective replica counts.

    Counts that this config does not allow, for example because its ports have moved, are ignored.
    """
    try:
        asked, scaled = _read(files.read(cluster.path("scale.json")))
        in_file = (config.worker, config.pool)
        worker, pool = (given if then == now else now for then, given, now in zip(asked, scaled, in_file, strict=True))
        return parse_numbers(config, worker, pool)
    except (OSError, ValueError, UserError):
        return config


def _read(data: bytes) -> tuple[list[int], list[int]]:
    """Return the counts in the config at the time of the command and those of the command, both as [workers, pool].

    Raise ValueError if the content is invalid.
    """
    content = mapping(decode(data))
    asked, scaled = content.get("config"), content.get("scale")
    for numbers in (asked, scaled):
        if not isinstance(numbers, list) or len(numbers) != 2 or not all(is_whole(number, 0) for number in numbers):
            raise ValueError("not two numbers of replicas")
    return asked, scaled  # type: ignore[return-value]


def keep(cluster: Cluster, config: Config, worker: int, pool: int) -> None:
    """Save the counts set by a command; `config` is that of the file.

    A full disk loses only the saved counts.
    """
    if (worker, pool) == (config.worker, config.pool):
        forget(cluster)
        return
    with contextlib.suppress(OSError):
        files.write(
            cluster.path("scale.json"),
            json.dumps({"config": [config.worker, config.pool], "scale": [worker, pool]}) + "\n",
        )


def forget(cluster: Cluster) -> None:
    files.remove(cluster.path("scale.json"))
