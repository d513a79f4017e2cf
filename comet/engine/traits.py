"""Describes an engine: Docker or Podman, its rights, and how its API differs.

The engine is asked once; all other modules read the result as facts. Everything that depends on the engine is decided
here, from the engine's answers to `/info` and `/version`: no other module asks which kind it is. For what an engine
does not say, the behavior of Docker with root's rights is assumed.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import docker

DOCKER, PODMAN = "docker", "podman"


@dataclass(frozen=True)
class EngineTraits:
    """The facts about one engine.

    `rootless`: it has the rights of one ordinary user, who is uid 0 in its containers. `remapped`: it has root's
    rights, and its containers' uids are different ones on the host. `limits`: limits of memory and processes have an
    effect.
    """

    kind: str = DOCKER
    version: str = ""
    rootless: bool = False
    remapped: bool = False
    cgroups: int = 1
    storage: str = ""
    limits: bool = True

    @property
    def title(self) -> str:
        """The engine's name for people: `Docker 20.10.24, rootless`."""
        ways = [word for word, is_so in (("rootless", self.rootless), ("userns-remap", self.remapped)) if is_so]
        return ", ".join([f"{self.kind.capitalize()} {self.version}".strip(), *ways])

    @property
    def lacks(self) -> list[str]:
        """What workers lack on this engine, one line for each."""
        found = []
        if not self.limits:
            found.append(
                "limits of workers (memory, processes, CPU) have no effect: without root's rights they take cgroup v2"
            )
        elif not self.reports_oom:
            found.append(
                "on cgroup v1 it reports no out-of-memory kill: that is read from the kernel's log, as far as this "
                "user may"
            )
        if not self.isolates:
            found.append(
                "workers reach one another, and other machines: this engine ignores the options that keep a network "
                "closed"
            )
        return found

    @property
    def reaches_loopback(self) -> bool:
        """Whether a container in the host's network reaches what listens on the host's loopback.

        Rootless Docker has its own network in place of the host's.
        """
        return not (self.rootless and self.kind == DOCKER)

    @property
    def isolates(self) -> bool:
        """Whether containers of one network can be isolated from one another and from other machines."""
        return self.kind == DOCKER

    @property
    def networks_can_fail(self) -> bool:
        """Whether what reaches a published port passes the container's devices.

        The forwarder of rootless Podman does not: a worker that is cut off still answers.
        """
        return not (self.rootless and self.kind == PODMAN)

    def user(self, uid_gid: str) -> str:
        """Return the user in a container with `host_users` that is this user of the host.

        In an engine without root's rights, the engine's user is uid 0, and no other is of use.
        """
        return "0:0" if self.rootless else uid_gid

    @property
    def host_users(self) -> str | None:
        """The mode of the user namespace (None: the default one) in which `user` is valid."""
        return "host" if self.remapped else None

    @property
    def log_driver(self) -> str:
        """The log driver that keeps every byte of a log: Docker's default driver changes bytes that are no UTF-8."""
        return "k8s-file" if self.kind == PODMAN else "local"

    @property
    def log_options(self) -> dict[str, str]:
        return {} if self.kind == PODMAN else {"compress": "false"}

    @property
    def log_is_as_written(self) -> bool:
        """Whether a log's messages are single writes with times in whole seconds (`comet.engine.log_stream`).

        Otherwise they are lines with times in nanoseconds.
        """
        return self.kind == PODMAN

    @property
    def cleans_up_later(self) -> bool:
        """Whether a container that died is "stopped" for a moment, and "exited" when its network is freed.

        A container that is started before that keeps a network whose published ports are closed.
        """
        return self.kind == PODMAN

    @property
    def reports_oom(self) -> bool:
        """Whether the engine reports that a container's memory limit ended it."""
        return self.limits and (self.kind == DOCKER or self.cgroups == 2)


def read(info: Mapping[str, Any], version: Mapping[str, Any]) -> EngineTraits:
    """Return the traits, from the engine's answers to `/info` and `/version`."""
    components = [str(each.get("Name", "")) for each in version.get("Components") or ()]
    options = {part for option in info.get("SecurityOptions") or () for part in str(option).split(",")}
    podman = any("podman" in name.lower() for name in components)
    rootless = bool(info.get("Rootless")) or "name=rootless" in options
    cgroups = 2 if str(info.get("CgroupVersion", "1")) == "2" else 1
    return EngineTraits(
        kind=PODMAN if podman else DOCKER,
        version=str(version.get("Version") or info.get("ServerVersion") or ""),
        rootless=rootless,
        remapped="name=userns" in options,
        cgroups=cgroups,
        storage=str(info.get("Driver") or ""),
        # An ordinary user can have no group of cgroup v1; Podman says otherwise.
        limits=bool(info.get("MemoryLimit", True)) and not (rootless and cgroups == 1),
    )


_known: weakref.WeakKeyDictionary[docker.APIClient, EngineTraits] = weakref.WeakKeyDictionary()


def of(client: docker.DockerClient) -> EngineTraits:
    """Return the traits of this client's engine; the first call asks the engine."""
    api = client.api
    found = _known.get(api)
    if found is None:
        found = _known[api] = read(api.info(), api.version(api_version=False))
    return found
