"""Config -> the flat list of replicas it asks for."""

import functools
import hashlib
import json
import sys
from dataclasses import asdict, dataclass, replace

from comet import service
from comet.backoff import RestartPolicy
from comet.cluster import WORKER_UID, Cluster, Owner
from comet.config import Config
from comet.database import SOURCES, Access, worker_environment
from comet.drivers.container import ContainerLaunch
from comet.drivers.execute import ExecLaunch
from comet.drivers.forkserver import LbLaunch
from comet.faultfiles import POINTS
from comet.observation import Endpoint
from comet.replica import ReplicaSpec
from comet.servicespec import TASK_NAME, ServiceLaunch
from comet.supervise import HERE, Enlisted
from lb.settings import Settings

KINDS = {"docker": ("container", "container"), "process": ("process", "worker-process"), "swarm": ("task", "swarm")}
"""Of each runtime: the kind of its workers, and their driver."""

CONTAINER_PORT = 8080
CHECK = r"""import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as peer:
    peer.sendall(f"GET {sys.argv[2]} HTTP/1.0\r\n\r\n".encode())
    sys.exit(not peer.recv(64).split()[1].startswith((b"2", b"3")))"""
"""What a node's engine runs within a task to see whether it is well: no more of Python than that takes."""

LINGER = 1.5
"""Seconds for which a task that the swarm stops goes on accepting: until then the manager was read, and the load balancers know."""

NEVER = 1_000_000
"""So many failed checks in a row nobody sees."""

CHECK_TIME = 5.0
"""Seconds that such a check may take: unlike the load balancers', it starts a process, on a machine that may be busy."""

WORKER_PIDS = 2100
"""Processes and threads of a container: the most threads that `worker-threads` allows, and room for what surrounds them."""

AUTO_CAPACITY = 4000
"""Requests in flight that a worker with `worker-threads: auto` takes; it refuses more (503 with `worker is full`)."""

BARRIER_GRACE = 2.0
"""Seconds that the load balancers may take to apply a table before a draining worker is told to end all the same."""


@dataclass(frozen=True)
class Surroundings:
    """What the replicas are placed into."""

    cluster: Cluster
    database: Access
    owner: Owner
    image: str | None = None


def workers(config: Config, around: Surroundings) -> list[Enlisted]:
    return [worker(config, around, index) for index in range(config.worker)]


def load_balancers(config: Config, cluster: Cluster) -> list[Enlisted]:
    return [load_balancer(config, cluster, index) for index in range(config.pool)]


def worker(config: Config, around: Surroundings, index: int) -> Enlisted:
    name, port = f"worker-{index}", config.worker_port + index
    launch = _launch(config, around, name, port)
    kind, driver = KINDS[config.runtime]
    swarm = config.runtime == "swarm"
    sick = max(0, config.health_restart - config.health_fall) * config.health_interval if config.health_restart else None
    spec = ReplicaSpec(
        name=name,
        role="worker",
        kind=kind,
        driver=driver,
        port=port,
        rank=0,
        start_timeout=config.start_timeout,
        # A service of one's own may end at once when it is told to: what is in flight on it is waited for before.
        drain_grace=max(BARRIER_GRACE, config.shutdown_grace) if config.own_service else BARRIER_GRACE,
        # The worker itself ends within the grace; what is beyond it is for a hung one.
        terminate_grace=config.shutdown_grace + 2,
        # A swarm's own checks and restarts see to its tasks: here they are only waited for.
        unhealthy_grace=None if swarm else sick,
        restart=RestartPolicy(first=0.0, maximum=0.0, stable=config.restart_stable) if swarm else _policy(config),
        launch=launch,
    )
    if swarm:
        return Enlisted(spec, probe=f"http://{HERE}{config.health_path}")
    address = reachable(config.worker_host)
    host = f"[{address}]" if ":" in address else address
    endpoint = Endpoint(address, port, health_path=config.health_path)
    return Enlisted(spec, probe=f"http://{host}:{port}{config.health_path}", endpoint=endpoint)


def load_balancer(config: Config, cluster: Cluster, index: int) -> Enlisted:
    name = f"lb-{index}"
    settings = Settings(
        name=name,
        balance=config.balance,
        health_path=config.health_path,
        health_interval=config.health_interval,
        health_timeout=config.health_timeout,
        health_fall=config.health_fall,
        health_rise=config.health_rise,
        request_timeout=config.request_timeout,
        queue_timeout=config.queue_timeout,
        connect_timeout=config.connect_timeout,
        head_timeout=config.head_timeout,
        body_timeout=config.body_timeout,
        idle_timeout=config.idle_timeout,
        retries=config.retries,
        max_body=config.max_body,
        max_request_line=config.max_request_line,
        max_head=config.max_head,
        max_fields=config.max_fields,
        shutdown_grace=config.shutdown_grace,
        access_log=str(cluster.path("logs", f"{name}.access.log")) if config.access_log else None,
        faults=str(cluster.path(POINTS["lb"])) if config.fault_point == "lb" else None,
    )
    spec = ReplicaSpec(
        name=name,
        role="lb",
        kind="process",
        driver="lb",
        port=config.load_balancer_port + index,
        rank=1,
        start_timeout=config.start_timeout,
        drain_grace=config.shutdown_grace + 1,
        terminate_grace=1.0,
        restart=_policy(config),
        launch=LbLaunch(settings, counters=f"{name}.a.counters", fingerprint=_code("lb")),
    )
    return Enlisted(spec)


def in_flight_share(config: Config) -> int:
    """How many requests each load balancer may have in flight on one worker: together no more than a worker takes, unless there are more
    load balancers than that, of which each may have one (the worker then says that it is full)."""
    capacity = config.worker_threads if config.worker_threads is not None else AUTO_CAPACITY
    return max(1, capacity // config.pool)


def reachable(host: str) -> str:
    """Where to connect to what listens on `host`: an unspecified address is reached through loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _policy(config: Config) -> RestartPolicy:
    return RestartPolicy(maximum=config.restart_backoff_max, stable=config.restart_stable)


def _arguments(config: Config, name: str, listen: str, identity: str, faults: str | None = None) -> tuple[str, ...]:
    # Workers with one seed would all fail the same request of their turn: each has the next number.
    seed = () if config.seed is None else ("--seed", str(config.seed + int(name.rpartition("-")[2])))
    threads = "auto" if config.worker_threads is None else str(config.worker_threads)
    file = () if faults is None else ("--faults", faults)
    ledger = ("--request-ledger",) if config.request_ledger else ()
    return (
        "--listen", listen, "--name", name, "--identity", identity, "--threads", threads, *file, *seed, *ledger,
        "--grace", f"{config.shutdown_grace:g}",
    )  # fmt: skip


def _launch(config: Config, around: Surroundings, name: str, port: int) -> ContainerLaunch | ExecLaunch | ServiceLaunch:
    launch: ContainerLaunch | ExecLaunch | ServiceLaunch
    if config.runtime == "swarm":
        assert around.image is not None
        port = 0  # All workers are made alike.
        launch = service.placed(config, around.image) if config.own_service else _placed(config, around, around.image)
    elif config.runtime == "docker":
        assert around.image is not None
        own = config.own_service
        launch = service.contained(config, around.image, name, config.folder) if own else _contained(config, around, around.image, name)
    elif config.own_service:
        launch = service.executed(config, name, port, around.owner)
    else:
        launch = _executed(config, around, name, port)
    made_of = "" if config.runtime != "process" or config.own_service else _code("worker_app")
    content = json.dumps([port, asdict(launch), made_of], sort_keys=True)
    return replace(launch, fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16])


@functools.cache
def _code(package: str) -> str:
    """A hash of a package's sources and of the Python that runs them: a process made of others is replaced at the next `run`."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted((SOURCES / package).glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _contained(config: Config, around: Surroundings, image: str, name: str) -> ContainerLaunch:
    return ContainerLaunch(
        image=image,
        arguments=_arguments(config, name, f"0.0.0.0:{CONTAINER_PORT}", "container", f"/faults/{name}.json"),
        environment={**around.database.environment, "COMET_REPLICA": name},
        user=f"{around.owner.uid}:{around.owner.gid}",
        host=config.worker_host,
        container_port=CONTAINER_PORT,
        mounts=(*around.database.mounts, (str(around.cluster.path("faults")), "/faults", True)),
        memory=config.worker_memory,
        pids=WORKER_PIDS,
        fingerprint="",
    )


def _placed(config: Config, around: Surroundings, image: str) -> ServiceLaunch:
    return ServiceLaunch(
        image=image,
        arguments=(*_arguments(config, "worker", f"0.0.0.0:{CONTAINER_PORT}", "container"), "--no-faults", "--linger", f"{LINGER:g}"),
        environment={**around.database.environment, "COMET_REPLICA": TASK_NAME},
        user=f"{WORKER_UID}:{WORKER_UID}",
        port=CONTAINER_PORT,
        mounts=(),
        memory=config.worker_memory,
        pids=WORKER_PIDS,
        grace=config.shutdown_grace + LINGER,
        fingerprint="",
        health=("python3", "-I", "-S", "-c", CHECK, str(CONTAINER_PORT), config.health_path),
        health_interval=config.health_interval,
        health_timeout=max(config.health_timeout, CHECK_TIME),
        health_retries=config.health_restart or NEVER,
        start_timeout=config.start_timeout,
        constraints=config.worker_constraints,
        secret=around.database.secret,
    )


def _executed(config: Config, around: Surroundings, name: str, port: int) -> ExecLaunch:
    host = f"[{config.worker_host}]" if ":" in config.worker_host else config.worker_host
    arguments = _arguments(config, name, f"{host}:{port}", "process", str(around.cluster.path("faults", f"{name}.json")))
    return ExecLaunch(
        argv=(sys.executable, "-m", "worker_app", *arguments, "--memory", str(config.worker_memory)),
        environment=worker_environment(around.database.environment),
        owner=around.owner,
        cwd="/",
        fingerprint="",
    )
