"""Measures the ways to a container through the network, each next to a process that is reached without any.

One program answers in a container, and in another one on the host's network; it is asked through a published port by
the engine's proxy, through that port by address translation alone, at the container's own address, and through a UNIX
socket in a mounted folder. All this is on an engine of the comparison's own (`own_engine`), in its network, where the
asking program is, too: addresses of containers are asked nowhere else.

The engine runs only for this question, since it would take time from others: all rounds are asked one after the other.
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from comet.compare.layers.own_engine import OwnEngine, own_engine
from comet.compare.layers.probes import Probe
from comet.compare.layers.running import SOURCE, Worker, container, measured
from comet.compare.results.findings import NETWORK, WAYS, Findings
from comet.engine.connection import connect

ASK_TIME = "0.3"
"""Seconds of questions and answers on each way."""

PORT, HOST_PORT, PUBLISHED = 7000, 7001, 80
"""TCP ports in the engine's network: of a container and of the process, of the container on the host's network, and of
the way to the first from outside. The last is no port of any cluster's worker."""

SHARED = "/shared"


def measure_all(worker: Worker, labels: Mapping[str, str], rounds: int, findings: Findings, state: Path) -> None:
    """Ask every way `rounds` times; a failure is noted and ends nothing else."""
    with (
        findings.excused(NETWORK),
        tempfile.TemporaryDirectory(prefix="comet-compare-", dir=state) as folder,
        own_engine(Path(folder)) as engine,
    ):
        for _ in engine.api.load_image(connect().api.get_image(worker["Config"]["Image"])):
            pass  # What it tells of its progress.
        shared = Path(folder, "shared")
        shared.mkdir()
        shared.chmod(0o777)
        with answering(engine, worker, labels, shared) as addresses:
            for number in range(rounds):
                probe = Probe(worker, labels, number, findings, NETWORK)
                for way, (here, there) in zip(WAYS, addresses, strict=True):
                    for kind, address in (("process", here), ("container", there)):
                        ask = partial(measured, ["ask", address, ASK_TIME], inside=engine.inside)
                        probe.note(kind, f", {way}", ask)


@contextlib.contextmanager
def answering(
    engine: OwnEngine, worker: Worker, labels: Mapping[str, str], shared: Path
) -> Iterator[list[tuple[str, str]]]:
    """Run what answers; yield for each of WAYS the address of the process and that of the container."""
    serve = ["python3", "-c", SOURCE, "serve"]
    own, beside = [*serve, f"0.0.0.0:{PORT}", f"{SHARED}/container"], [*serve, f"127.0.0.1:{HOST_PORT}"]
    process = [*engine.inside, sys.executable, *serve[1:], f"127.0.0.1:{PORT}", f"{shared}/process"]
    bindings = {f"{PORT}/tcp": [{"HostIp": "", "HostPort": f"{PUBLISHED}"}]}
    bridged: dict[str, Any] = {"NetworkMode": "bridge", "PortBindings": bindings, "Binds": [f"{shared}:{SHARED}"]}
    unbridged: dict[str, Any] = {"NetworkMode": "host", "Binds": []}
    with (
        container(worker, own, labels, engine=engine.api, **bridged) as (made, _),
        container(worker, beside, labels, engine=engine.api, **unbridged),
        subprocess.Popen(process, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/") as running,
    ):
        try:
            network = engine.api.inspect_container(made)["NetworkSettings"]["Networks"]["bridge"]
            host = f"127.0.0.1:{PORT}"
            yield [
                (host, f"127.0.0.1:{HOST_PORT}"),
                (host, f"{network['IPAddress']}:{PORT}"),
                # The proxy listens there as well, but the firewall translates the address before: only on loopback it
                # does not.
                (host, f"{network['Gateway']}:{PUBLISHED}"),
                (host, f"127.0.0.1:{PUBLISHED}"),
                (f"{shared}/process", f"{shared}/container"),
            ]
        finally:
            running.kill()
