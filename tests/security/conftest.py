"""A service that attacks the host it runs on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import open_folder
from tests.support.thief import Thief, service


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user may pass, as pytest's are not."""
    with open_folder() as made:
        yield made


@pytest.fixture(scope="module")
def thief(folder: Path) -> Iterator[Thief]:
    """A custom service that root started, with an admin server beside it and a config that nobody else may read."""
    with service(folder, admin_port=0) as cluster:
        cluster.write(admin_port=cluster.config["load-balancer-port"] + 50)
        (folder / "config.yaml").chmod(0o600)
        cluster.environment["COMET_SECRET"] = "of the supervisor"
        cluster.start()
        yield Thief(cluster)
