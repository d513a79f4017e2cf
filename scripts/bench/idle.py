"""`bench.sh idle`: what idle connections cost an LB in memory, and what an idle LB costs in CPU time.

Memory is private memory (Private_* of /proc/PID/smaps_rollup) of the proxy's processes before and with the connections held; what the
kernel keeps for each socket is the same for all and not in it. The rivals run the configuration of `bench.sh lb`.
"""

import argparse
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from scripts.bench import machine
from scripts.bench.chart import Chart
from scripts.bench.lb import Arena
from scripts.bench.proc import BenchError, tree, tree_cpu
from scripts.bench.report import ROOT, Report, Samples, finish, say
from scripts.bench.rivals import contestants
from scripts.bench.table import Table

ALLOWED = 4096  # bytes per idle connection that we ask of ourselves
RIVALS_LIMIT = 7000  # within the maxconn of HAProxy's configuration, which needs 2.5 files each
KINDS = {"never asked": False, "after one request": True}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connections", type=int, default=10000, metavar="N", help="default 10000")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="how long CPU at idle is watched; default 4")


def private_bytes(pid: int) -> int:
    """Memory that would be given back if the processes ended."""
    total = 0
    for each in tree(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith("Private_"):
                    total += int(line.split()[1]) * 1024
    return total


def cpu_share(pid: int, seconds: float) -> float:
    """Percent of one core over the next `seconds`."""
    before, began = tree_cpu(pid), time.monotonic()
    time.sleep(seconds)
    return (tree_cpu(pid) - before) / (time.monotonic() - began) * 100


def held(pid: int, port: int, count: int, ask: bool, seconds: float) -> tuple[float, float, int, int]:
    """Hold connections; bytes each, CPU percent meanwhile, how many the proxy kept open, private memory after they are gone."""
    before = private_bytes(pid)
    command = [sys.executable, "-m", "scripts.bench.holder", str(port), str(count), str(int(ask))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as helper:
        try:
            assert helper.stdout is not None
            assert helper.stdin is not None
            if helper.stdout.readline().strip() != f"held {count}":
                raise BenchError(f"could not hold {count} connections: is `ulimit -n` below that?")
            time.sleep(0.5)
            grown = private_bytes(pid) - before
            share = cpu_share(pid, seconds)
            helper.stdin.write("\n")
            helper.stdin.flush()
            still = int(helper.stdout.readline().split()[1])
        finally:
            helper.kill()
    time.sleep(0.7)
    return grown / count, share, still, private_bytes(pid)


def run(options: argparse.Namespace) -> int:
    report = Report("idle")
    rivals = contestants()
    columns = ["proxy", "connections", "held", "bytes each", "still open", "CPU % with them", "CPU % without", "MiB before", "MiB after"]
    table = Table("Idle client connections", columns)
    names = [rival.name for rival in rivals]
    bytes_each: list[list[float]] = []
    for rival in rivals:
        count = options.connections if rival.name == "comet" else min(options.connections, RIVALS_LIMIT)
        say(f"{rival.name}: {count} connections")
        bytes_each.append([])
        for kind, ask in KINDS.items():
            with ExitStack() as stack:  # Each kind meets a fresh process: memory once grown is not given back.
                arena = Arena(stack, [rival])
                pid, port = arena.pid[rival.name], arena.port[rival.name]
                held(pid, port, 200, True, 0.1)  # What is made once is not a connection's cost.
                without = cpu_share(pid, options.seconds)
                before = private_bytes(pid)
                each, share, still, after = held(pid, port, count, ask, options.seconds)
            bytes_each[-1].append(each)
            table.rows.append([rival.name, count, kind, each, still, share, without, before / (1 << 20), after / (1 << 20)])
    report.versions = {rival.name: rival.version for rival in rivals}
    report.settings = {"connections": options.connections, "goal": f"Comet under {ALLOWED} bytes each"} | {
        r.name: r.setting for r in rivals
    }
    report.tables.append(table)
    report.passed = max(bytes_each[0]) < ALLOWED
    report.notes.append(f"goal {'met' if report.passed else 'MISSED'}: {max(bytes_each[0]):.0f} of {ALLOWED} bytes per idle connection")
    report.data = {"bytes_each": dict(zip(names, bytes_each, strict=True)), "kinds": list(KINDS)}
    listed = zip(names, bytes_each, strict=True)
    report.samples = {f"{name}, {kind}": Samples("bytes each", "less", [of[n]]) for name, of in listed for n, kind in enumerate(KINDS)}
    groups = [f"{name}, {kind}" for name in names for kind in KINDS]
    values = [[value] for of in bytes_each for value in of]
    chart = Chart(
        "Private memory per idle connection, bytes",
        f"comet holds {options.connections:,} connections, its rivals {min(options.connections, RIVALS_LIMIT):,}",
        ["bytes"],
        groups,
        values,
    )
    report.charts.append(chart)
    report.versions["kernel"] = str(machine.describe()["kernel"])
    return finish(report, options.json)
