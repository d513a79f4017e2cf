"""Where the admin server meets the rest of the supervisor: its port, and what of the cluster it is shown.

Everything here runs in the supervisor's loop. With `admin-port: 0` no desk is made, and the loop renders nothing.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from comet.admin.keeper import SETTLE, Keeper, ensure_token
from comet.backoff import RestartPolicy
from comet.checkpoint import NAME, Checkpoint
from comet.cluster import Cluster
from comet.config import KEYS, Config
from comet.errors import UserError
from comet.events import Event
from comet.fleet import Fleet
from comet.journal import Journal, Record
from comet.listeners import bound, holder
from comet.location import without_password
from comet.rates import Sample, bounds_s
from comet.replica import Wanted

HOST = "127.0.0.1"

PORT_PATIENCE = 3.0
"""Seconds that the server of an earlier supervisor may take to let the port go."""


class Desk:
    """The admin server of one cluster. `config` is asked for what is in force, `settled` whether the cluster has come up."""

    def __init__(self, cluster: Cluster, fleet: Fleet, journal: Journal, config: Callable[[], Config], settled: Callable[[], bool]) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._journal = journal
        self._config = config
        self._settled = settled
        self._counts = Checkpoint(cluster.path("run"))
        self._closed = False
        self._listener: socket.socket | None = None
        self._keeper: Keeper | None = None

    async def open(self, port: int, tell: Callable[[Event], None]) -> str:
        """Start the server and return its URL; UserError where the port or the token cannot be had."""
        config = self._config()
        self._listener = await self._bind(config, port)
        try:
            ensure_token(self._cluster)
        except OSError as error:
            raise UserError(f"{self._cluster.path('admin.token')}: cannot be written: {error.strerror}; free some space") from None
        policy = RestartPolicy(maximum=config.restart_backoff_max, stable=config.restart_stable)
        self._counts.restore(self._journal.recent)
        if self._counts.damage is not None:
            tell(Event("state_unreadable", None, {"reason": self._counts.damage, "file": f"run/{NAME}"}))
        self._write_counts()
        self._keeper = Keeper(self._cluster, self._listener, tell, self._picture, self._past, policy)
        self._journal.listeners.append(self._happened)
        self._fleet.on_change = self._keeper.touch
        self._fleet.on_sample = self._sampled
        self._keeper.start()
        return self._keeper.url

    def close(self) -> None:
        self._closed = True
        if self._keeper is not None:
            self._keeper.close()
        if self._listener is not None:
            self._listener.close()

    async def _bind(self, config: Config, port: int) -> socket.socket:
        """Listen. The server of a supervisor that was just killed ends by itself, but after a moment."""
        deadline = asyncio.get_running_loop().time() + PORT_PATIENCE
        while True:
            try:
                return bound(HOST, port, listen=True)
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    where = f"{config.path.name}:{config.lines.get('admin-port', 1)}: admin-port"
                    raise UserError(f"{where}: cannot listen on port {port}{holder(port)}: {error.strerror}", 2) from None
            await asyncio.sleep(0.05)

    def _happened(self, record: Record) -> None:
        self._counts.add(record)
        if self._counts.due:
            # Not now: what the record asks for goes first.
            asyncio.get_running_loop().call_later(SETTLE, self._write_counts)
        if self._keeper is not None:
            self._keeper.say({"type": "event", "record": record})

    def _write_counts(self) -> None:
        """Of a full disk the state's own event tells already; here the next record tries again."""
        if self._counts.due and not self._closed:
            with contextlib.suppress(OSError):
                self._counts.write()

    def _sampled(self, sample: Sample) -> None:
        if self._keeper is not None:
            self._keeper.say({"type": "sample", "sample": asdict(sample)})
            self._keeper.touch()

    def _past(self) -> dict[str, Any]:
        samples = [asdict(sample) for sample in self._fleet.meter.samples]
        return {"type": "past", "events": list(self._journal.recent), "samples": samples}

    def _picture(self) -> dict[str, Any]:
        wanted = [each for each in self._fleet.supervisor.replicas.values() if each.wanted is Wanted.UP]
        told = {
            **self._fleet.picture().as_dict(),
            "ready": self._settled() and all(each.ready for each in wanted),
            "config": shown(self._config()),
            "recoveries": self._counts.recoveries.as_dict(),
            "latency_bounds_s": bounds_s(),
        }
        return {"type": "cluster", "cluster": told}


def shown(config: Config) -> Mapping[str, Any]:
    """The config as a file would have it, without what is nobody's business."""
    values = {key: getattr(config, key.replace("-", "_")) for key in KEYS}
    return values | {"stats-dir": without_password(config.stats_dir)}
