"""The command line of the benches: `scripts/bench.sh [MODE] [options]`."""

import argparse
import importlib
import signal
import sys
from pathlib import Path
from types import ModuleType

from scripts.bench.proc import BenchError
from scripts.bench.report import say

MODES = {
    "load": "load-test the running cluster, or one of its own; the mode when none is named",
    "lb": "cost of a request in Comet's LB next to HAProxy and nginx",
    "idle": "memory per idle connection, CPU at idle",
    "recovery": "time from kill to the next answer, next to supervisord, circus, docker, systemd",
    "chaos": "random kills under load, with a ledger of every request",
    "stats": "cost of exact statistics next to none, 1 to 500 in flight, and the kill -9 ledger",
    "inflight": "clients x workers at a delay of 500 ms: throughput, latency, CPU per request, and what limited each",
    "swarm": "a node of a Docker Swarm powered off under load: requests lost, failover beside the swarm's own",
    "page": "write docs/benchmarks.md from the latest results",
}
MODULES = {"stats": "worker_stats"}  # where the module's name is not the mode's


def _module(mode: str) -> ModuleType:
    return importlib.import_module(f"scripts.bench.{MODULES.get(mode, mode)}")


def main(arguments: list[str]) -> int:
    """Run one mode. Exit codes: 0 done, 1 failed or a threshold missed, 2 bad usage."""
    mode = next((word for word in arguments if word in MODES), "load")
    parser = argparse.ArgumentParser(prog="scripts/bench.sh", description="Benches of Comet; each ends by itself and cleans up.")
    modes = parser.add_subparsers(title="modes", metavar="MODE", dest="mode")
    for name, told in MODES.items():
        child = modes.add_parser(name, help=told, description=told)
        child.add_argument(
            "--json", type=Path, metavar="FILE", help=f"where the result goes; default .comet/bench/{name}.json, the picture beside it"
        )
        if name == mode:
            _module(name).add_options(child)
    asks_help = any(word in ("-h", "--help") for word in arguments)
    if not any(word in MODES for word in arguments) and not asks_help:
        arguments = [mode, *arguments]
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return int(_module(mode).run(options))
    except BenchError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; everything it had started is ended")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
