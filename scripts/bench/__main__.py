"""The command line of the benches: `scripts/bench.sh [MODE] [options]`."""

import argparse
import importlib
import signal
import sys
from pathlib import Path

from comet.common.errors import UserError
from scripts.bench.modes import BENCHES, DEFAULT, MODES
from scripts.bench.proc import BenchError
from scripts.bench.report import say


def main(arguments: list[str]) -> int:
    """Run one mode; return the exit code: 0 done, 1 failed or a threshold missed, 2 bad usage."""
    asks_help = bool(arguments) and arguments[0] in ("-h", "--help")
    if not asks_help and (not arguments or arguments[0].startswith("-")):
        arguments = [DEFAULT, *arguments]
    parser = argparse.ArgumentParser(
        prog="scripts/bench.sh", description="Benches of Comet; each ends by itself and cleans up."
    )
    modes = parser.add_subparsers(title="modes", metavar="MODE", dest="mode")
    for name, each in MODES.items():
        child = modes.add_parser(name, help=each.help, description=each.help)
        if each in BENCHES:
            where = f"where the result goes; default .comet/bench/TIME-{name}.json, pictures and page next to it"
            child.add_argument("--json", type=Path, metavar="FILE", help=where)
        if name == arguments[0]:
            importlib.import_module(f"scripts.bench.{each.module}").add_options(child)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return int(importlib.import_module(f"scripts.bench.{MODES[options.mode].module}").run(options))
    except (BenchError, UserError) as error:
        say("; ".join([*str(error).splitlines(), *getattr(error, "__notes__", [])]))
        return 1
    except KeyboardInterrupt:
        say("interrupted; everything that it started has ended")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
