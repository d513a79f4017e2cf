"""A cluster that belongs to this process: started, controlled and observed from Python, and stopped with the process.

`comet.cluster(worker=3)` is a context manager:

    with comet.cluster(worker=3) as c:
        c.faults("worker-1", failure=30, for_="5s")
        requests.get(f"{c.url}/api/v1/hello")

Each method does what the command of the same name does, over the same socket. Nothing is left behind: the supervisor
ends with this process, however that dies (`comet.api.background`), and `comet.api.folders` clears away what a killed
supervisor leaves. Modules that need the engine's SDK are imported where they are used: it takes longer to import than
anything else here, and a cluster of processes starts without it.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from comet.api import folders, settings
from comet.api.background import QUICK_TIMEOUT, BackgroundSupervisor, ask, end
from comet.api.event_log import Event, EventLog, event_number, named, require_known, require_seconds
from comet.api.signals import SentSignals
from comet.commands.table import COMMANDS
from comet.common.errors import UserError
from comet.common.values import shown
from comet.config.fault_settings import NETWORK
from comet.config.schema import Config, load
from comet.faults.files import FAULT_FILE_DELAY, NETWORK_TIMEOUT
from comet.state.directory import Cluster
from comet.telemetry.snapshot import FleetSnapshot, Row, from_dict
from comet.terminal.messages import Message

OPERATION_TIMEOUT = 3600.0
"""Seconds for a rolling restart."""

POLL_PAUSE = 0.02
"""Seconds between two looks at the replicas."""


def cluster(config: str | os.PathLike[str] | None = None, /, **keys: Any) -> "RunningCluster":
    """Return a cluster that a `with` statement starts and stops.

    The keyword arguments are the keys of config.yaml with underscores. What is not given has the defaults of
    config.yaml, but: `runtime="process"`, `avg_delay=0`, `failure=0`, free ports, no dashboard
    (`admin_port="auto"` turns it on), 127.0.0.1 alone. The cluster has a temporary folder of its own. A
    `worker_command` runs in the working folder of this process.

    With `config`, the path of a config file, that cluster is started in its own folder, and no keyword argument is
    allowed.
    """
    return RunningCluster(config, keys)


class RunningCluster:
    """One cluster; made by `comet.cluster`, and running between `start` and `stop`. Not for concurrent use.

    Methods raise `comet.UserError` where the command of the same name would fail.
    """

    def __init__(self, config: str | os.PathLike[str] | None, keys: Mapping[str, Any]) -> None:
        if not isinstance(config, str | os.PathLike | None):
            raise UserError(f"comet.cluster: {config!r} is not the path of a config file", 2)
        if config is not None and keys:
            raise UserError(f"comet.cluster: {', '.join(keys)}: set it in {os.fspath(config)}, which is named too", 2)
        self._file = None if config is None else Path(config).absolute()
        self._keys = dict(keys)
        self._owner = os.getpid()
        self._working = Path.cwd()
        self._config: Config | None = None
        self._cluster: Cluster | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._events: EventLog | None = None
        self._signals = SentSignals()
        self._has_faults = False
        self._first_keys = dict(keys)
        self._urls: tuple[str, ...] = ()
        self._dashboard: str | None = None

    def __enter__(self) -> "RunningCluster":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<comet cluster {self._urls[0] if self._urls else 'that does not run'}>"

    # Life.

    def start(self) -> "RunningCluster":
        """Start the cluster and return it once all replicas are ready; UserError says why it does not start.

        What was changed in an earlier run (`reload`, `scale`, `faults`) is over: it begins as it was asked for.
        """
        if self._process is not None:
            raise UserError("comet.cluster: it runs already")
        self._owner = os.getpid()
        self._signals, self._has_faults, self._keys = SentSignals(), False, dict(self._first_keys)
        if self._file is not None:
            config = load(self._file)
        else:
            folder = folders.made()
            try:
                config, text = settings.config(self._keys, folder, self._working, os.geteuid() == 0)
                (folder / "config.yaml").write_text(text)
            except BaseException:
                folders.remove(folder)
                raise
        self._config, self._cluster = config, Cluster(config.folder)
        try:
            if self._file is not None:
                from comet.runtimes import discovery

                discovery.recognize(self._cluster)
            self._cluster.create()
            self._events = EventLog(self._cluster)
            started = BackgroundSupervisor(config, self._cluster, owned=True)
            self._process = started.process
            for message in started.messages():
                if message["kind"] == "ready":
                    self._take_addresses(message)
            self._events.mark()
        except BaseException as error:
            self.stop()
            if isinstance(error, UserError) and self._file is None:
                raise settings.as_argument(error) from None
            raise
        return self

    def stop(self) -> None:
        """Stop everything, and remove the temporary folder.

        Requests in flight get a second to end. So does a connection that a client keeps open, as a `requests.Session`
        or the response in the traceback of a failed test does: a request on it would still be answered. In a process
        that was forked from the one that started the cluster, this does nothing.
        """
        if os.getpid() != self._owner or self._cluster is None:
            return
        cluster, process = self._cluster, self._process
        try:
            if process is not None:
                end(process)
            # A start in a folder of the user's may have been refused because another supervisor runs there.
            is_ours = self._file is None or bool(self._urls)
            if is_ours and (process is None or process.returncode != 0):
                folders.end_rest(cluster)
        finally:
            self._process, self._urls, self._dashboard = None, (), None
            if self._file is None:
                folders.remove(cluster.folder)
            self._cluster = None

    # Addresses.

    @property
    def url(self) -> str:
        """The address of the first load balancer: `http://127.0.0.1:PORT`, without a slash at its end."""
        if not self._urls:
            raise UserError("comet.cluster: it does not run; use it in a with statement, or call start()")
        return self._urls[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of all load balancers."""
        self.url  # noqa: B018 - raises where nothing runs
        return self._urls

    @property
    def dashboard(self) -> str | None:
        """The address of the dashboard; None without one."""
        return self._dashboard

    @property
    def folder(self) -> Path:
        """The cluster's folder, with its config.yaml and `.comet/`."""
        return self._running.folder

    # What it does.

    def kill(self, name: str, signal: str | int = "KILL") -> None:
        """Send a signal, by its name or number, to a replica, as a crash would; return once it is sent."""
        self._mark()
        sent = self._call("kill", {"name": name, "signal": str(signal)})["signal"]
        self._signals.note(name, str(sent), self._log.last_number)

    def faults(
        self,
        target: str = "all",
        *,
        for_: str | float | None = None,
        count: int | None = None,
        clear: bool = False,
        **faults: str | float,
    ) -> None:
        """Change the faults of a worker or of all; return once they are effective.

        `faults` are the settings of docs/faults.md with underscores (`failure=30`, `avg_delay=200`). `for_` limits them
        to a time (`"5s"`, or seconds), `count` to the next requests of each worker. `clear` first goes back to what the
        config says.
        """
        self._mark()
        limits = {"for": for_, "count": count, "clear": clear or None}
        given = {name.replace("_", "-"): value for name, value in faults.items()}
        given |= {name: value for name, value in limits.items() if value is not None}
        if not given:
            raise UserError("faults: no fault is named (such as failure=30), and clear=True is not given", 2)
        self._has_faults = self._has_faults or bool(faults)
        timeout = NETWORK_TIMEOUT if set(given) & set(NETWORK) else QUICK_TIMEOUT
        self._call("faults", {"target": target, **given}, timeout)
        time.sleep(FAULT_FILE_DELAY)

    def drain(self, name: str) -> None:
        """Send a worker no new requests; return once no load balancer does, while those in flight finish."""
        self._mark()
        self._call("drain", {"name": name}, OPERATION_TIMEOUT)

    def undrain(self, name: str) -> None:
        """Send requests to a drained worker again."""
        self._mark()
        self._call("undrain", {"name": name}, OPERATION_TIMEOUT)

    def pause(self, for_: str | float | None = None) -> None:
        """Let requests wait in the load balancers, for a time (`"500ms"`, or seconds) or until `resume`."""
        self._mark()
        self._call("pause", {"for": for_}, OPERATION_TIMEOUT)

    def resume(self) -> None:
        """End a pause: the requests that wait go on."""
        self._mark()
        self._call("resume", timeout=OPERATION_TIMEOUT)

    def scale(self, worker: int | None = None, pool: int | None = None) -> None:
        """Change the number of replicas; return once the new ones are ready and the surplus ones are gone."""
        if worker is None and pool is None:
            raise UserError("scale: worker, pool or both must be given (whole numbers)")
        self._mark()
        self._call("scale", {"worker": worker, "pool": pool}, OPERATION_TIMEOUT)
        self._learn_addresses()

    def restart(self, target: str = "all") -> None:
        """Replace replicas one by one: a name, `worker`, `lb` or `all`; return once that is done."""
        self._mark()
        self._call("restart", {"target": target}, OPERATION_TIMEOUT)

    def reload(self, **keys: Any) -> None:
        """Change keys of the config and apply them, as `reload` does; None goes back to a key's default.

        Without keys the config file is read again, as it is now. Changed faults are effective when this returns.
        """
        self._mark()
        if keys:
            if self._file is not None:
                raise UserError(f"comet.cluster: {', '.join(keys)}: set it in {self._file}", 2)
            merged = {name: value for name, value in {**self._keys, **keys}.items() if value is not None}
            config, text = settings.config(merged, self.folder, self._working, os.geteuid() == 0)
            before = (self.folder / "config.yaml").read_text()
            (self.folder / "config.yaml").write_text(text)
            try:
                self._call("reload", timeout=OPERATION_TIMEOUT)
            except UserError as error:
                (self.folder / "config.yaml").write_text(before)
                raise settings.as_argument(error) from None
            self._keys, self._config = merged, config
        else:
            self._call("reload", timeout=OPERATION_TIMEOUT)
            self._config = load(self._running_config.path)
        self._learn_addresses()
        time.sleep(FAULT_FILE_DELAY)

    def restore(self, timeout: float = 30.0) -> None:
        """Undo faults, drains, a pause, `scale`, `reload`, kills and stops; return when all replicas are ready.

        Raise TimeoutError if they are not within `timeout` seconds.
        """
        for name in list(self._signals.stopped):
            with contextlib.suppress(UserError):  # It is dead, or was scaled away.
                self.kill(name, "CONT")
            self._signals.stopped.discard(name)
        snapshot = self._snapshot()
        # Others may have set some, too, as a command does; what the picture does not show yet was set here.
        if self._has_faults or snapshot.total.front_fault_orders or any(row.fault_orders for row in snapshot.replicas):
            self.faults(clear=True)
            self._has_faults = False
        if snapshot.total.paused:
            self.resume()
        for name in [row.name for row in snapshot.replicas if row.drained]:
            self.undrain(name)
        if self._keys != self._first_keys:
            self.reload(**(dict.fromkeys(self._keys) | self._first_keys))
        now = self.replicas().values()
        numbers = [sum(row.role == role for row in now) for role in ("worker", "lb")]
        config = self._running_config
        if numbers != [config.worker, config.pool]:
            self.scale(worker=config.worker, pool=config.pool)
        self.wait_ready(timeout)
        self._mark()

    # What is seen of it.

    def replicas(self) -> dict[str, Row]:
        """Return the replicas by name, as `ps --json` shows them, without CPU and memory."""
        return {row.name: row for row in self._snapshot().replicas}

    def events(self, event: str | None = None, *, replica: str | None = None) -> list[Event]:
        """Return what has happened since the start: all events, or those with this name, or of this replica."""
        if event is not None:
            require_known(event)
        return [
            record
            for record in self._log.read()
            if event in (None, record["event"]) and replica in (None, record.get("replica"))
        ]

    def wait_for(
        self,
        event: str | Callable[[Event], bool],
        *,
        replica: str | None = None,
        timeout: float = 10.0,
        since: Event | int | None = None,
        **fields: Any,
    ) -> Event:
        """Return the first matching event since the last command that was given here (kill, faults, scale, …).

        `event` is a name of docs/api.md, such as `replica_ready`, or a function of an event; `fields` are what else it
        must say. `since` begins after an earlier event instead. TimeoutError names the last events.
        """
        number = event_number(since)
        require_seconds("wait_for", timeout)
        if callable(event):
            return self._log.wait(event, "of that kind", timeout, number)
        require_known(event)
        matches, what = named(event, {"replica": replica, **fields})
        return self._log.wait(matches, what, timeout, number)

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Return once all replicas are ready, also those that were just killed; TimeoutError names those that are not.

        A replica that is killed is seen dead a moment later. One that got a signal which it may handle is waited for
        as long as `shutdown_grace` says, and three seconds more.
        """
        require_seconds("wait_ready", timeout)
        deadline = time.monotonic() + timeout
        self._signals.await_deaths(self.wait_for, timeout, self._running_config.shutdown_grace)
        while True:
            snapshot = self._snapshot()
            waiting = [row.name for row in snapshot.replicas if row.state != "ready"]
            waiting += [f"{edge.worker} for {edge.lb}" for edge in snapshot.edges if not edge.healthy]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready within {timeout:g} s: {', '.join(waiting)}")
            time.sleep(POLL_PAUSE)

    def stats(self) -> dict[str, Any]:
        """Return the request statistics: `total`, and `workers` (a list), each with its exact counts.

        Each has `successful`, `failed`, `mean_ms`, `p50_ms`, `p99_ms` and `injections` by kind.
        """
        from comet.api import statistics

        return statistics.report(self._running_config, self._running)

    def logs(self, name: str, tail: int = 100) -> str:
        """Return the last lines that a replica printed, with the ends of its lives between them."""
        from comet.runtimes import logs

        if isinstance(tail, bool) or not isinstance(tail, int) or tail < 0:
            raise UserError(f"logs: tail: {shown(tail)} is not usable (allowed: a whole number from 0)")
        kinds = {row.name: row.kind for row in self._snapshot().replicas}
        logs.require_known(self._running, str(name), kinds)
        pieces = logs.pieces(self._running, name, kinds.get(name, "process"), tail, follow=False)
        return b"".join(pieces).decode(errors="replace")

    # Tools.

    @property
    def _running(self) -> Cluster:
        if self._cluster is None:
            raise UserError("comet.cluster: it does not run; use it in a with statement, or call start()")
        return self._cluster

    @property
    def _running_config(self) -> Config:
        self._running  # noqa: B018 - raises where nothing runs
        assert self._config is not None
        return self._config

    @property
    def _log(self) -> EventLog:
        self._running  # noqa: B018 - raises where nothing runs
        assert self._events is not None
        return self._events

    def _mark(self) -> None:
        self._log.mark()

    def _snapshot(self) -> FleetSnapshot:
        return from_dict(self._call("picture"))

    def _call(self, command: str, fields: Mapping[str, Any] | None = None, timeout: float = QUICK_TIMEOUT) -> Any:
        cluster, request = self._running, dict(fields or {})
        for name, field in COMMANDS[command].fields.items() if command in COMMANDS else ():
            if field.schema is not None and (field.required or request.get(name) is not None):
                try:
                    request[name] = field.check(request.get(name))
                except ValueError as error:
                    raise UserError(f"{command}: {name}: {error}") from None
        return ask(cluster, self._process, command, request, timeout)

    def _take_addresses(self, ready: Message) -> None:
        balancers = [each for each in ready["replicas"] if each["name"].startswith("lb-")]
        self._urls = tuple("/".join(each["url"].split("/", 3)[:3]) for each in balancers)
        self._dashboard = None if ready["admin"] is None else str(ready["admin"]).rstrip("/")

    def _learn_addresses(self) -> None:
        host = self._urls[0].rpartition(":")[0]
        rows = [row for row in self._snapshot().replicas if row.role == "lb"]
        self._urls = tuple(f"{host}:{row.port}" for row in rows)
