"""The faults in force, one small file per worker in a directory that the workers can read and not write.

A file is replaced by rename(2), so the directory is what gets mounted, never a file: a mounted file would keep showing its old inode.
"""

import json
from collections.abc import Iterable

from comet.cluster import Cluster, write_atomically
from comet.config import Config


def settings(config: Config) -> dict[str, object]:
    """What config.yaml says of faults, in the form that a worker reads."""
    return {"avg-delay": config.avg_delay, "failure": config.failure, "delay-distribution": config.delay_distribution}


def write(cluster: Cluster, config: Config, names: Iterable[str]) -> None:
    """Write the file of each named worker; OSError where the disk is full."""
    directory = cluster.path("faults")
    directory.mkdir(exist_ok=True)
    # Whatever the umask: a container's user must be able to read here. `.comet/` itself keeps others of this host out.
    directory.chmod(0o755)
    for name in names:
        write_atomically(directory / f"{name}.json", json.dumps(settings(config)) + "\n", mode=0o644)
