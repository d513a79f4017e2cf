"""What an engine is, from what it says of itself: answers of real engines, cut down to what is read of them."""

from __future__ import annotations

from typing import Any

import pytest

from comet.engine.traits import EngineTraits, read

DOCKER = {"Version": "20.10.24+dfsg1", "Components": [{"Name": "Engine"}, {"Name": "containerd"}]}
PODMAN = {"Version": "4.3.1", "Components": [{"Name": "Podman Engine", "Version": "4.3.1"}, {"Name": "Conmon"}]}
SECCOMP = "name=seccomp,profile=default"


@pytest.mark.parametrize(
    ("info", "version", "expected"),
    [
        (
            {"SecurityOptions": [SECCOMP], "CgroupVersion": "1", "MemoryLimit": True, "Driver": "overlay2"},
            DOCKER,
            EngineTraits("docker", "20.10.24+dfsg1", cgroups=1, storage="overlay2"),
        ),
        (
            {"SecurityOptions": [SECCOMP, "name=userns", "name=cgroupns"], "CgroupVersion": "2", "MemoryLimit": True},
            DOCKER,
            EngineTraits("docker", "20.10.24+dfsg1", remapped=True, cgroups=2),
        ),
        (
            {"SecurityOptions": [SECCOMP, "name=rootless"], "CgroupVersion": "1", "MemoryLimit": False},
            DOCKER,
            EngineTraits("docker", "20.10.24+dfsg1", rootless=True, limits=False),
        ),
        # On cgroup v1 rootless Podman says that it limits memory.
        (
            {
                "SecurityOptions": [SECCOMP, "name=rootless"],
                "Rootless": True,
                "CgroupVersion": "1",
                "MemoryLimit": True,
            },
            PODMAN,
            EngineTraits("podman", "4.3.1", rootless=True, limits=False),
        ),
        (
            {"SecurityOptions": None, "CgroupVersion": "2", "Rootless": True},
            PODMAN,
            EngineTraits("podman", "4.3.1", rootless=True, cgroups=2),
        ),
        ({}, {}, EngineTraits()),
    ],
)
def test_an_engine_is_what_it_says(info: dict[str, Any], version: dict[str, Any], expected: EngineTraits) -> None:
    assert read(info, version) == expected


def test_what_workers_do_without_is_said() -> None:
    assert EngineTraits().lacks == []
    assert [line.partition(":")[0] for line in EngineTraits("podman").lacks] == [
        "on cgroup v1 it reports no out-of-memory kill",
        "workers reach one another, and other machines",
    ]
    assert len(EngineTraits(rootless=True, limits=False).lacks) == 1
    assert EngineTraits(cgroups=2, rootless=True).lacks == []


def test_the_user_in_a_container_is_the_hosts() -> None:
    assert EngineTraits().user("1000:100") == "1000:100"
    assert EngineTraits(rootless=True).user("1000:100") == "0:0"
    assert (EngineTraits().host_users, EngineTraits(remapped=True).host_users) == (None, "host")
