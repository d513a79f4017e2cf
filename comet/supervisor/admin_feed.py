"""Connects the admin server with the supervisor: opens its port and sends it the cluster's state.

Everything here runs in the supervisor's loop. With `admin-port: 0` no server is started, and nothing is rendered.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any

from comet.admin.access.sessions import LINK_LIFE
from comet.admin.access.write_access import TOKEN
from comet.admin.process import PUBLISH_DELAY, AdminProcess, ensure_token
from comet.common.errors import UserError, os_error_text
from comet.config.database_url import without_password
from comet.config.keys import KEYS, LIMITS
from comet.config.schema import Config
from comet.events.checkpoint import NAME, Checkpoint
from comet.events.event import Event
from comet.events.journal import Journal, Record
from comet.host import files
from comet.host.sockets import bound, holder
from comet.reconcile.replica import Replica, State, Wanted
from comet.reconcile.restart_policy import RestartPolicy
from comet.state.directory import Cluster
from comet.supervisor.fleet import Fleet
from comet.telemetry.rates import Sample, bounds_s
from comet.workloads.builtin import reachable

HOST = "127.0.0.1"

PORT_TIMEOUT = 3.0
"""Seconds that the admin server of an earlier supervisor may take to release the port."""


class AdminFeed:
    """The admin server of one cluster.

    `config` returns the effective config, `has_started` whether the cluster has started.
    """

    def __init__(
        self,
        cluster: Cluster,
        fleet: Fleet,
        journal: Journal,
        config: Callable[[], Config],
        has_started: Callable[[], bool],
    ) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._journal = journal
        self._config = config
        self._has_started = has_started
        self._counts = Checkpoint(cluster.path("run"))
        self._closed = False
        self._token = ""
        self._listener: socket.socket | None = None
        self._process: AdminProcess | None = None

    async def open(self, port: int, notify: Callable[[Event], None]) -> str:
        """Start the server and return its URL; UserError where the port or the token is unavailable."""
        config = self._config()
        self._listener = await self._bind(config, port)
        try:
            ensure_token(self._cluster)
            self._token = files.read_text(self._cluster.path(TOKEN))
        except OSError as error:
            raise UserError(f"{self._cluster.path('admin.token')}: cannot be written: {os_error_text(error)}") from None
        policy = RestartPolicy(maximum=config.restart_backoff_max, stable=config.restart_stable)
        self._counts.restore(self._journal.recent)
        if self._counts.damage is not None:
            notify(Event("state_unreadable", None, {"reason": self._counts.damage, "file": f"run/{NAME}"}))
        self._write_counts()
        self._process = AdminProcess(
            self._cluster, self._listener, notify, self._cluster_message, self._history, policy
        )
        self._journal.listeners.append(self._on_record)
        self._fleet.on_change = self._process.mark_changed
        self._fleet.on_sample = self._on_sample
        self._fleet.snapshots.admin_port = port
        self._process.start()
        return self._process.url

    def link(self) -> dict[str, Any]:
        """Return the page's address and a link that is valid for one use."""
        if self._process is None:
            why = "admin-port is 0" if self._config().admin_port == 0 else "it is still being started"
            raise UserError(f"there is no dashboard: {why}")
        return {"url": self._process.url, "link": self._process.link(), "expires_s": LINK_LIFE}

    def repair(self) -> list[str]:
        """Write missing files again and return their names; OSError where they cannot be written.

        The token stays the same, since scripts may hold it.
        """
        restored = []
        if self._process is not None and not files.is_there(self._cluster.path(TOKEN)):
            files.write(self._cluster.path(TOKEN), self._token)
            restored.append(TOKEN)
        if self._process is not None and not files.is_there(self._cluster.path("run", NAME)):
            self._counts.due = True
            self._write_counts()
            restored.append(f"run/{NAME}")
        return restored

    @property
    def pids(self) -> set[int]:
        return self._process.pids if self._process is not None else set()

    def announce_stop(self) -> None:
        """Report that the cluster is being stopped on purpose, so that its end is not taken for a death."""
        if self._process is not None:
            self._process.send({"type": "stopping"})

    async def close(self) -> None:
        self._closed = True
        if self._process is not None:
            await self._process.finish()
        if self._listener is not None:
            self._listener.close()

    async def _bind(self, config: Config, port: int) -> socket.socket:
        """Bind the listening socket; the server of a supervisor that was just killed takes a moment to end."""
        deadline = asyncio.get_running_loop().time() + PORT_TIMEOUT
        while True:
            try:
                return bound(HOST, port, listen=True)
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    position = f"{config.path.name}:{config.lines.get('admin-port', 1)}: admin-port"
                    raise UserError(
                        f"{position}: cannot listen on port {port}{holder(port)}: {error.strerror}", 2
                    ) from None
            await asyncio.sleep(0.05)

    def _on_record(self, record: Record) -> None:
        self._counts.add(record)
        if self._counts.due:
            # Later: the reaction to the record goes first.
            asyncio.get_running_loop().call_later(PUBLISH_DELAY, self._write_counts)
        if self._process is not None:
            self._process.send({"type": "event", "record": record})

    def _write_counts(self) -> None:
        """Write the counts if due; a failure is ignored.

        The state file's own event already reports a full disk, and the next record tries again.
        """
        if self._counts.due and not self._closed:
            with contextlib.suppress(OSError):
                self._counts.write()

    def _on_sample(self, sample: Sample) -> None:
        if self._process is not None:
            self._process.send({"type": "sample", "sample": asdict(sample)})
            self._process.mark_changed()

    def _history(self) -> dict[str, Any]:
        samples = [asdict(sample) for sample in self._fleet.snapshots.meter.samples]
        return {"type": "past", "events": list(self._journal.recent), "samples": samples}

    def _cluster_message(self) -> dict[str, Any]:
        fleet, config = self._fleet, self._config()
        wanted = [each for each in fleet.supervisor.replicas.values() if each.wanted is Wanted.UP]
        cluster = {
            **fleet.snapshots.picture().as_dict(),
            "ready": self._has_started() and is_serving(wanted, fleet.router.drained),
            "config": public_config(config),
            "recoveries": self._counts.recoveries.as_dict(),
            "latency_bounds_s": bounds_s(),
            "front": {
                "scheme": config.front_scheme,
                "host": reachable(config.load_balancer_host),
                "path": config.front_path,
            },
        }
        return {"type": "cluster", "cluster": cluster}


def is_serving(wanted: Collection[Replica], drained: Collection[str] = ()) -> bool:
    """Whether all wanted replicas are ready, with at least one healthy load balancer and one healthy worker.

    A drained worker serves nobody.
    """
    healthy = [each for each in wanted if each.state is State.READY and not each.lost and each.name not in drained]
    healthy_roles = {each.spec.role for each in healthy}
    return all(each.ready and not each.lost for each in wanted) and healthy_roles >= {"lb", "worker"}


def public_config(config: Config) -> Mapping[str, Any]:
    """Return the config by the keys of its file, without the database's password."""
    values = {key: getattr(config, key.replace("-", "_")) for key in KEYS | LIMITS}
    return values | {"stats-dir": without_password(config.stats_dir)}
