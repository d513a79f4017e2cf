"""`bench.sh features`: runs each feature at Comet, then at HAProxy or Envoy, and compares what was seen."""

import argparse
import asyncio
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from comet.report.cells import text
from comet.report.model import Cell, Table
from scripts.bench import machine, programs
from scripts.bench.features.cases import Outcome, Stage
from scripts.bench.features.declared import Feature, features
from scripts.bench.features.fronts import Comet, Envoy, Front, Haproxy
from scripts.bench.features.traffic import Worker
from scripts.bench.proc import free_ports
from scripts.bench.report import begin, finish, say

COLUMNS = (
    *("feature", "traffic and orders", "seen", "at Comet", "at the other", "the other"),
    *("errors at both", "after the order at both", "verdict"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=300, metavar="N", help="requests per step; default 300")
    parser.add_argument("--ramp", type=float, default=4.0, metavar="S", help="seconds of the slow start; default 4")
    parser.add_argument(
        "--rival",
        choices=("haproxy", "envoy"),
        help="only the features next to this proxy; default all that can be had",
    )


def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="comet-bench-") as name:
        folder = Path(name)
        certificates(folder)
        versions = {"haproxy": machine.number("haproxy", "-v")} if options.rival != "envoy" else {}
        if options.rival != "haproxy" and programs.find("envoy"):
            versions["envoy"] = programs.version("envoy")
        chosen = [each for each in features(folder, options.requests, options.ramp) if each.rival in versions]
        found = asyncio.run(measure(chosen, folder, options))
    report = begin("features", versions)
    report.settings = {"requests": f"{options.requests} per step, from 1 or 8 clients; 3 workers, loopback"}
    table = Table("The same traffic and the same order at both", COLUMNS)
    for feature, pair in zip(chosen, found, strict=True):
        table.rows.append(row(feature, *pair))
    report.parts.append(table)
    wrong = [str(each[0]) for each in table.rows if str(each[-1]).startswith("NOT ")]
    report.notes.append(f"NOT the same: {', '.join(wrong)}" if wrong else "no feature differs without a reason")
    report.passed = not wrong
    report.data = {
        feature.name: {"comet": vars(own), feature.rival: vars(other)}
        for feature, (own, other) in zip(chosen, found, strict=True)
    }
    return finish(report, options.json)


async def measure(
    chosen: Sequence[Feature], folder: Path, options: argparse.Namespace
) -> list[tuple[Outcome, Outcome]]:
    """Return what was seen at Comet and at the other proxy."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    workers = [Worker(f"worker-{n}", port) for n, port in enumerate(free_ports(3))]
    found: list[tuple[Outcome, Outcome]] = []
    with ExitStack() as stack:
        for each in workers:
            await each.reset()
        ports = [each.port for each in workers]
        comet = await asyncio.to_thread(Comet, stack, ports)
        rivals: dict[str, Front] = {
            each.name: each(stack, folder, port, ports)
            for each, port in zip((Haproxy, Envoy), free_ports(2), strict=True)
        }
        for feature in chosen:
            say(feature.name)
            pair = []
            for front in (comet, rivals[feature.rival]):
                for each in workers:
                    await each.reset()
                shutil.copy(folder / "one.pem", folder / "used.pem")
                await front.use(feature.settings)
                stage = Stage(front, workers, feature.other, options.requests, options.ramp, folder, client)
                pair.append(await feature.run(stage))
            found.append((pair[0], pair[1]))
        await asyncio.to_thread(stack.close)
    return found


def row(feature: Feature, own: Outcome, other: Outcome) -> list[Cell]:
    """Return the row of a feature."""
    seen = ["; ".join(shown(value) for value in each.seen.values()) for each in (own, other)]
    after = "-" if own.after is None else f"{own.after}, {other.after}"
    names = "; ".join(own.seen)
    return [
        *(feature.name, feature.traffic, names, *seen, feature.rival),
        *(f"{own.errors}, {other.errors}", after, verdict(feature, own, other)),
    ]


def verdict(feature: Feature, own: Outcome, other: Outcome) -> str:
    """Say whether both proxies did the same, and why not where that is known."""
    wrong = [
        name for name, value in own.seen.items() if not close(value, other.seen[name], feature.tolerance.get(name, 0.0))
    ]
    wrong += [
        name
        for name in ("errors", "after")
        if not close(getattr(own, name) or 0, getattr(other, name) or 0, feature.tolerance.get(name, 0.0))
    ]
    if not feature.differs.keys() >= set(wrong):
        return "NOT the same"
    reasons = dict.fromkeys(reason for name in wrong if (reason := feature.differs[name]))
    return f"differs: {'; '.join(reasons)}" if reasons else "same"


def close(one: Any, other: Any, tolerance: float) -> bool:
    """Say whether two values, or lists of values, are this near to each other."""
    if isinstance(one, list):
        return len(one) == len(other) and all(close(a, b, tolerance) for a, b in zip(one, other, strict=True))
    return bool(one == other) if isinstance(one, str) else bool(abs(one - other) <= tolerance)


def shown(value: Any) -> str:
    return " / ".join(map(text, value)) if isinstance(value, list) else text(value)


def certificates(folder: Path) -> None:
    """Make two certificates, each in one file with its key."""
    for name in ("one", "two"):
        key, made = folder / f"{name}.key", folder / f"{name}.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", str(key), "-out", str(made), "-days", "2", "-subj", f"/CN={name}.example"]
        subprocess.run(command, check=True, capture_output=True)
        made.write_text(made.read_text() + key.read_text())
