"""`run`: one life of a cluster, from the config to the last container removed.

Whatever happens on the way (a signal during the build, a worker that never becomes ready, an error of our own), the way out is the
same: everything that was started is stopped and removed. What outlives us is left only by our death.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import docker

from comet import __version__, database, engine, expand, farewells, faultfiles, lastwords, orphans, reach, scalefile, secretfiles
from comet.admin.desk import Desk
from comet.cluster import Cluster, worker_owner
from comet.config import PORT_KEYS, Config, port_ranges
from comet.control import ControlServer, Handler
from comet.display import Display, Message
from comet.drivers.manager import require_manager
from comet.errors import Busy, UserError
from comet.events import Event
from comet.fleet import Fleet
from comet.image import ensure_image, foreign_image, named, pushed
from comet.interruptible import Interruptible, Stopped
from comet.journal import Journal
from comet.listeners import require_free
from comet.observation import Endpoint
from comet.operations import Operations
from comet.replica import Replica, State, Wanted
from comet.succession import Succession
from comet.supervise import HERE, Enlisted, located
from comet.way import Way

HOPELESS_AFTER = 3
"""So many failed starts in a row of a replica that was never ready end the start of the whole cluster."""

ENGINE_PATIENCE = 20.0
"""Seconds that a stop waits for an engine that does not answer."""


HURRIED_PATIENCE = 5.0
"""Seconds that a stop at once waits for kills and removals."""


ENGINES = {"docker": engine.connect, "swarm": engine.connect_manager}
"""How the runtimes that need an engine come by it."""


BUSY_PAUSE = 0.2
"""Seconds after which a reload that waits its turn tries again."""


class Run:
    """Everything between the lock and its release."""

    def __init__(self, config: Config, cluster: Cluster, display: Display, former: int | None = None) -> None:
        """`former`: PID of a supervisor before us that died without a farewell."""
        self._file = config
        self._former = former
        self._config = scalefile.apply(cluster, config)
        self._cluster = cluster
        self._display: Display | None = display
        self._had_terminal = _has_terminal()
        self._journal = Journal(cluster.path("events.jsonl"))
        self._journal.listeners.append(lambda record: self._show({"kind": "event", "record": record}))
        self._journal.listeners.append(lambda record: farewells.note(cluster, record))
        self._loop = asyncio.get_running_loop()
        self._fleet = Fleet(self._loop, cluster, config, self._tell)
        self._control = ControlServer(cluster, self._handlers())
        self._wait = Interruptible(self._loop)
        self._operations: Operations | None = None
        self._engine_lost = False
        self._hurried_at: float | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._way = Way(cluster, self._config, self._wait, self._tell)
        self._desk = Desk(cluster, self._fleet, self._journal, self._in_force, lambda: self._operations is not None)

    async def serve(self) -> int:
        """Bring the cluster up, keep it, take it down; the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._signalled, number)
        self._tell(Event("supervisor_started", None, {"pid": os.getpid(), "version": __version__}))
        if self._former is not None:
            self._tell(Event("stale_lock", None, {"pid": self._former}))
        code = 0
        try:
            await self._control.open()
            await self._come_up()
            await self._wait.stop.wait()
        except Stopped:
            self._step("stopping before all was ready")
        except UserError as error:
            self._show({"kind": "failed", "text": error.message, "exit_code": error.exit_code})
            code = error.exit_code
        finally:
            code = max(code, await self._go_down())
        return code

    # Up.

    async def _come_up(self) -> None:
        config, cluster, fleet = self._config, self._cluster, self._fleet
        where = database.place(config, cluster)
        client = await self._wait.blocking(ENGINES[config.runtime]) if config.runtime in ENGINES else None
        here = await self._wait.blocking(lambda: require_manager(client)) if client is not None and config.runtime == "swarm" else None
        found = await self._wait.blocking(lambda: orphans.find(cluster, client))
        in_containers = client is not None and here is None and not config.own_service
        relayed = await self._wait.blocking(lambda: reach.relayed(where)) if in_containers else None
        if relayed is not None:
            found = [orphan for orphan in found if not orphan.is_relay]
        self._require_ports(found)
        fleet.launcher.prepare()
        admin = await self._open_admin(found)
        if not config.own_service:
            for line in await self._wait.blocking(lambda: database.prepare(where, worker_owner())):
                self._step(line)
            fleet.lookout.database = where.file if isinstance(where, database.Place) else None
        image = await self._build(client, config) if client is not None and (config.worker or relayed) else None
        access = database.Access({}) if config.own_service else await self._way.open(where, client, image, relayed)
        around = expand.Surroundings(cluster, access, worker_owner(), image)
        members = self._members(around)
        if client is not None and here is not None:
            fleet.use_swarm(client, here)
        elif client is not None:
            fleet.use_engine(client)
        self._write_faults(members)
        succession = Succession(fleet, cluster, config, self._wait, self._step)
        fresh = await succession.begin(found, members, client)
        fleet.listen(config, fresh)
        if fresh:
            self._step(f"starting {', '.join(member.spec.name for member in fresh)}")
        fleet.enlist(fresh)
        fleet.meter.begin_anew()  # Load balancers made anew go on with the counts of those before them.
        fleet.supervisor.tick()
        await self._until_ready()
        build = partial(self._build_again, client)
        self._operations = Operations(fleet, cluster, config, self._file, around, build)
        await succession.complete(self._operations, client)
        self._show({"kind": "ready", "replicas": self._urls(), "admin": admin})

    async def _open_admin(self, found: list[orphans.Orphan]) -> str | None:
        """Start the admin server, and look at the traffic; its URL, None where it is turned off."""
        self._fleet.faults_of = lambda names: faultfiles.in_force(self._cluster, self._in_force(), names)
        self._fleet.watch()
        port = self._config.admin_port
        if not port:
            return None
        former = [orphan for orphan in found if orphan.name is None and orphan.port == port]
        await self._wait.blocking(lambda: list(orphans.end(self._cluster, former, None, 0)))
        return await self._desk.open(port, self._tell)

    def _in_force(self) -> Config:
        return self._config if self._operations is None else self._operations.config

    def _members(self, around: expand.Surroundings) -> list[Enlisted]:
        return [*expand.workers(self._config, around), *expand.load_balancers(self._config, self._cluster)]

    def _require_ports(self, found: list[orphans.Orphan]) -> None:
        """Every port that we shall take is free, or held by what an earlier supervisor of this cluster left."""
        held = {orphan.port for orphan in found}
        config = self._config
        hosts = {"load-balancer-port": config.load_balancer_host, "worker-port": config.worker_host, "admin-port": "127.0.0.1"}
        values = {key: getattr(config, key.replace("-", "_")) for key in (*PORT_KEYS, "pool", "worker")}
        wanted = [(key, hosts[key], port) for key, first, count in port_ranges(values) for port in range(first, first + count)]
        require_free(config.path.name, [each for each in wanted if each[2] not in held], dict(config.lines))

    async def _build(self, client: docker.DockerClient, config: Config) -> str:
        wanted, registry = config.worker_image, config.registry
        if registry is not None:
            image = await self._build(client, replace(config, registry=None, runtime="docker"))
            return await self._wait.blocking(lambda: pushed(client, image, wanted, registry, self._step_from_thread, self._wait.cancelled))
        if wanted is not None and config.runtime == "swarm":
            # The nodes have it or pull it, each for itself.
            return named(wanted)
        if wanted is not None:
            return await self._wait.blocking(lambda: foreign_image(client, wanted, self._step_from_thread, self._wait.cancelled))
        self._step("looking for the worker image")
        return await self._wait.blocking(lambda: ensure_image(client, self._cluster.folder, self._step_from_thread, self._wait.cancelled))

    def _write_faults(self, members: list[Enlisted]) -> None:
        names = [member.spec.name for member in members if member.spec.role == "worker"]
        try:
            faultfiles.write(self._cluster, self._config, names)
        except OSError as error:
            raise UserError(f"{self._cluster.path('faults')}: cannot be written: {error.strerror}; free some space") from None

    async def _until_ready(self) -> None:
        def settled(replicas: Mapping[str, Replica]) -> bool:
            return all(replica.was_ready for replica in replicas.values()) or _hopeless(replicas) is not None

        await self._wait.outcome(self._fleet.supervisor.until(settled))
        lost = _hopeless(self._fleet.supervisor.replicas)
        if lost is not None:
            raise UserError(await self._wait.blocking(lambda: self._why(lost)))

    def _why(self, replica: Replica) -> str:
        return f"{replica.name} does not become ready: {lastwords.of(self._cluster, replica)}"

    def _urls(self) -> list[dict[str, Any]]:
        shown = sorted(self._fleet.supervisor.replicas.values(), key=lambda replica: (replica.spec.rank, replica.spec.port))
        config = self._config
        path = config.front_path
        hosts = {"lb": expand.reachable(config.load_balancer_host), "worker": expand.reachable(config.worker_host)}
        places = {
            name: (each.endpoint or Endpoint(hosts[each.spec.role], each.spec.port))
            for name, each in self._fleet.supervisor.replicas.items()
        }
        return [
            {
                "name": replica.name,
                "kind": replica.spec.kind,
                "id": replica.id,
                "url": located(f"http://{HERE}", places[replica.name]) + (path if replica.spec.role == "lb" else ""),
            }
            for replica in shown
        ]

    # Down.

    async def _go_down(self) -> int:
        """Stop and remove everything; 1 where something could not be removed."""
        supervisor = self._fleet.supervisor
        names = list(supervisor.replicas)
        if names and not self._quiet_end():
            self._step("stopping: requests in flight may finish")
        supervisor.want(names, Wanted.DOWN)
        stuck = await self._await_stopped()
        await self._way.close(ENGINE_PATIENCE if self._hurried_at is None else HURRIED_PATIENCE)
        self._control.close()
        self._desk.close()
        self._fleet.close()
        if not stuck:
            self._fleet.state.remove()
            scalefile.forget(self._cluster)
            faultfiles.forget(self._cluster)
            secretfiles.forget(self._cluster)
            self._cluster.clear_run()
        else:
            left = ", ".join(stuck)
            self._step(f"the Docker engine does not answer: {left} may be left; `python supervisor.py stop` removes them when it is back")
        self._tell(Event("supervisor_stopped"))
        self._journal.close()
        return 1 if stuck else 0

    def _quiet_end(self) -> bool:
        return all(replica.state is State.STOPPED for replica in self._fleet.supervisor.replicas.values())

    async def _await_stopped(self) -> list[str]:
        """Wait until all have stopped; the names of those that a lost engine, or one that hangs at a hurried stop, keeps from it."""
        lost_since: float | None = None
        while True:
            done = self._fleet.supervisor.until(lambda replicas: all(each.state is State.STOPPED for each in replicas.values()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done, 0.5)
                return []
            lost_since = (lost_since or time.monotonic()) if self._engine_lost else None
            lost = lost_since is not None and time.monotonic() - lost_since > ENGINE_PATIENCE
            hurried = self._hurried_at is not None and time.monotonic() - self._hurried_at > HURRIED_PATIENCE
            if lost or hurried:
                return [name for name, each in self._fleet.supervisor.replicas.items() if each.state is not State.STOPPED]

    # Asked from outside.

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP and not (self._had_terminal and not _has_terminal()):
            self._reloading = self._loop.create_task(self._reload_on_signal())
            return
        if self._wait.stop.is_set():
            self._step("stopping at once")
            self._hurried_at = self._hurried_at or time.monotonic()
            self._fleet.supervisor.stop_now()
        self._wait.request_stop()

    def _handlers(self) -> dict[str, Handler]:
        async def kill(request: dict[str, Any]) -> Any:
            return self._asked.kill(request["name"], request["signal"])

        async def scale(request: dict[str, Any]) -> Any:
            return await self._wait.outcome(self._asked.scale(request.get("worker"), request.get("pool")))

        async def restart(request: dict[str, Any]) -> Any:
            return await self._wait.outcome(self._asked.restart(request["target"]))

        async def reload(request: dict[str, Any]) -> Any:
            return await self._wait.outcome(self._asked.reload())

        async def faults(request: dict[str, Any]) -> Any:
            return self._asked.faults(request)

        return {
            "ps": self._ps,
            "picture": self._picture,
            "stop": self._stop_asked,
            "kill": kill,
            "scale": scale,
            "restart": restart,
            "reload": reload,
            "faults": faults,
        }

    @property
    def _asked(self) -> Operations:
        if self._operations is None or self._wait.stop.is_set():
            raise Busy("the cluster is starting or stopping; try again when it is ready")
        return self._operations

    async def _build_again(self, client: docker.DockerClient | None, config: Config) -> str | None:
        return await self._build(client, config) if client is not None else None

    async def _reload_on_signal(self) -> None:
        """What SIGHUP asks for; it waits its turn. A refusal is told as an event."""
        with contextlib.suppress(UserError, Stopped):
            while True:
                with contextlib.suppress(Busy):
                    await self._wait.outcome(self._asked.reload())
                    return
                await self._wait.outcome(asyncio.sleep(BUSY_PAUSE))

    async def _ps(self, request: dict[str, Any]) -> dict[str, Any]:
        return (await self._fleet.snapshot()).as_dict()

    async def _picture(self, request: dict[str, Any]) -> dict[str, Any]:
        """For those who watch, and read CPU and memory themselves."""
        return self._fleet.picture().as_dict()

    async def _stop_asked(self, request: dict[str, Any]) -> dict[str, Any]:
        self._wait.request_stop()
        return {"pid": os.getpid()}

    # Tools.

    def _tell(self, event: Event) -> None:
        if event.name in ("engine_lost", "engine_back"):
            self._engine_lost = event.name == "engine_lost"
        self._journal.write(event)

    def _step(self, text: str) -> None:
        self._show({"kind": "step", "text": text})

    def _show(self, message: Message) -> None:
        """A display whose reader is gone (a closed terminal, `| head`) is done without; nothing else is."""
        if self._display is not None:
            try:
                self._display.show(message)
            except (OSError, ValueError):
                self._display = None

    def _step_from_thread(self, text: str) -> None:
        self._loop.call_soon_threadsafe(self._step, text)


def _has_terminal() -> bool:
    """Whether we have a controlling terminal. Once it is closed SIGHUP means its end, not a wish to reload."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _hopeless(replicas: Mapping[str, Replica]) -> Replica | None:
    """A replica that was never ready, and about which there is no more hope."""
    for replica in replicas.values():
        if not replica.was_ready and (replica.failures >= HOPELESS_AFTER or replica.reason.startswith("not ready within")):
            return replica
    return None
