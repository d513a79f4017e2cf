"""The command line: arguments in, one exit code out. What a command does stands in `comet.commands`; here is only how it is called.

Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 nothing of this cluster runs.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from comet import __version__, commands, faults
from comet.completion import SIGNALS, Command, script
from comet.errors import UserError

EXAMPLES = """examples:
  python supervisor.py                 run the cluster of ./config.yaml in the foreground
  python supervisor.py run --detach    the same in the background; returns once all are ready
  python supervisor.py ps              supervisor, load balancers and workers, side by side
  python supervisor.py events --follow what happens, as it happens
  python supervisor.py stop            drain, stop and remove everything
"""


EXAMPLES_OF = {
    "run": ("", "run --detach", "run --log-format json > cluster.log", "run --quiet --detach --config other/config.yaml"),
    "ps": ("ps", "ps --watch", "ps --json | jq '.replicas[] | select(.state != \"ready\")'"),
    "stop": ("stop", "stop --quiet"),
    "stats": ("stats", "stats --json", "stats --reset"),
    "events": ("events --follow", "events --tail 5", "events --follow --json | jq -c 'select(.event == \"replica_exited\")'"),
    "logs": ("logs worker-0", "logs lb-1 --follow", "logs worker-0 --tail 0 --follow"),
    "kill": ("kill lb-0", "kill worker-1 --signal STOP", "kill worker-1 --signal CONT"),
    "scale": ("scale worker=5", "scale worker=2 pool=3"),
    "restart": ("restart worker-0", "restart lb", "restart all"),
    "faults": ("faults", "faults worker-1 --failure 50 --for 30s", "faults all --avg-delay 20 --count 100", "faults --clear"),
    "scenario": ("scenario scenarios/slow-worker.yaml", "scenario my.yaml --json"),
    "compare": ("compare", "compare --rounds 3 --html report.html"),
    "reload": ("reload",),
    "check": ("check", "check --config other/config.yaml"),
    "clean": ("stop && python supervisor.py clean",),
    "completion": ("completion bash > ~/.comet-completion && source ~/.comet-completion",),
}
"""What follows `python supervisor.py` in the help of each command."""


class Parser(argparse.ArgumentParser):
    """argparse in Comet's manner: one line on stderr for bad usage, exit code 2; options by their whole names, for `--delay` is not
    meant to be `--delay-distribution`, and an option more must not change what a script says."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="supervisor.py",
        description="A mini-cluster in one command: workers in containers, load balancers as processes, one supervisor.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"comet {__version__}")
    _add_config(top, default=None)
    _add_run_options(top)
    below = top.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    run = _add(below, "run", "run the cluster in the foreground (the default)")
    _add_run_options(run, suppress=True)
    ps = _add(below, "ps", "list supervisor, load balancers and workers")
    ps.add_argument("--json", action="store_true", help="print JSON")
    ps.add_argument("--watch", "-w", action="store_true", help="a live board on a terminal (q leaves it), a listing a second elsewhere")
    ps.add_argument("--feed-fd", type=int, help=argparse.SUPPRESS)
    stop = _add(below, "stop", "drain, stop and remove everything, with or without a running supervisor")
    stop.add_argument("--quiet", "-q", action="store_true", help="print nothing but what goes wrong")
    stats = _add(below, "stats", "show the request statistics of the workers")
    stats.add_argument("--json", action="store_true", help="print the JSON of /worker/stats")
    stats.add_argument("--reset", action="store_true", help="begin the statistics anew")
    events = _add(below, "events", "show what has happened")
    events.add_argument("--follow", "-f", action="store_true", help="go on with what happens")
    events.add_argument("--json", action="store_true", help="print the JSON lines as they are kept")
    events.add_argument("--tail", type=int, default=50, metavar="N", help="how many past events to show first (50)")
    logs = _add(below, "logs", "show what a replica printed")
    logs.add_argument("name", metavar="NAME", help="worker-0, lb-1, …")
    logs.add_argument("--json", action="store_true", help="print each line as a JSON object")
    logs.add_argument("--follow", "-f", action="store_true", help="go on with what it prints")
    logs.add_argument("--tail", type=int, default=100, metavar="N", help="how many past lines to show first (100)")
    kill = _add(below, "kill", "kill a replica as a crash would, for experiments")
    kill.add_argument("name", metavar="NAME", help="worker-0, lb-1, …")
    kill.add_argument("--signal", default="KILL", metavar="SIGNAL", help="KILL, TERM, STOP, CONT, SEGV, … (KILL)")
    scale = _add(below, "scale", "change the number of replicas without dropping a request")
    scale.add_argument("numbers", nargs="+", metavar="worker=N|pool=M", help="how many workers, how many load balancers")
    restart = _add(below, "restart", "replace replicas one by one, with capacity never below what is wanted")
    restart.add_argument("target", metavar="NAME|worker|lb|all", help="which ones")
    _add_faults(_add(below, "faults", "show or change what goes wrong with the workers, live"))
    scenario = _add(below, "scenario", "play timed steps of faults and kills, with clients that report what they saw")
    scenario.add_argument("file", type=Path, metavar="FILE", help="a YAML file; scenarios/ has examples")
    scenario.add_argument("--json", action="store_true", help="print the report as JSON")
    compare = _add(below, "compare", "measure what a container costs over a process, and what it buys")
    compare.add_argument(
        "--rounds", type=int, default=6, metavar="N", help="how often each question is put to both (6); 3 take some 6 minutes"
    )
    compare.add_argument("--json", type=Path, metavar="FILE", help="write all figures, raw and made of them")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write a report with plots, one self-contained page")
    reload = _add(below, "reload", "read the config anew and make the cluster as it says")
    check = _add(below, "check", "check the config and start nothing")
    _add(below, "clean", "remove images and state of this cluster while it is down")
    complete = _add(below, "completion", "print what completes commands, options and names in a shell")
    complete.add_argument("shell", choices=("bash", "zsh", "names"), help="for which shell; names: of the replicas, a line each")
    for command in (kill, scale, restart, reload, check):
        command.add_argument("--json", action="store_true", help="print JSON")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    made = parser()
    options = made.parse_args(command_first(list(sys.argv[1:] if arguments is None else arguments)))
    try:
        if options.command == "completion" and options.shell != "names":
            print(script(options.shell, described(made)))
            return 0
        return commands.COMMANDS[options.command or "run"](options)
    except UserError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has enough (`| head`); Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def command_first(arguments: list[str]) -> list[str]:
    """The arguments with the command in front: a command's options may stand before it as well as after it."""
    skip = False
    for index, word in enumerate(arguments):
        if skip or word.startswith("-"):
            skip = not skip and word in ("--config", "--notify-fd", "--feed-fd", "--log-format")
        elif word in commands.COMMANDS:
            return [word, *arguments[:index], *arguments[index + 1 :]]
        else:
            break
    return arguments


def described(top: argparse.ArgumentParser) -> dict[str, Command]:
    """The command line as completion needs it; under "" what stands before any command."""
    below = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    about = {action.dest: action.help or "" for action in below._choices_actions}
    return {"": _described(top, ""), **{name: _described(command, about[name]) for name, command in below.choices.items()}}


def _described(command: argparse.ArgumentParser, about: str) -> Command:
    options = [action for action in command._actions if action.option_strings and action.help != argparse.SUPPRESS]
    flags = [flag for action in options for flag in action.option_strings if flag.startswith("--")]
    valued = {flag: _values(action) for action in options if action.nargs != 0 for flag in action.option_strings}
    return Command(about, flags, valued)


def _values(action: argparse.Action) -> str | None:
    if action.type is Path:
        return None
    return SIGNALS if "--signal" in action.option_strings else " ".join(action.choices or ())


def _add(below: "argparse._SubParsersAction[Parser]", name: str, help: str) -> argparse.ArgumentParser:
    examples = "".join(f"  python supervisor.py {example}".rstrip() + "\n" for example in EXAMPLES_OF[name])
    command = below.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"examples:\n{examples}".replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config(command, default=argparse.SUPPRESS)
    return command


def _add_faults(to: argparse.ArgumentParser) -> None:
    to.add_argument("name", nargs="?", metavar="NAME|all", help="which workers (all); without options: show theirs")
    for name, key in faults.SETTINGS.items():
        # A percent sign is argparse's own in help texts.
        to.add_argument(f"--{name}", metavar="X", help=f"{key.meaning} ({key.allowed})".replace("%", "%%"))
    to.add_argument("--for", dest="seconds", metavar="TIME", help="only for so long: 500ms, 30s, 5m, 1h; it ends by itself")
    to.add_argument("--count", metavar="N", help="only for the next N requests of each worker")
    to.add_argument("--clear", action="store_true", help="first go back to what config.yaml says")
    to.add_argument("--json", action="store_true", help="print JSON")


def _add_config(to: argparse.ArgumentParser, default: str | None) -> None:
    """Before or after the command: the subparser's option sets nothing where it is not given."""
    to.add_argument("--config", type=Path, default=default, metavar="FILE",
                    help="the config file (config.yaml); its folder is the cluster")  # fmt: skip


def _add_run_options(to: argparse.ArgumentParser, suppress: bool = False) -> None:
    default = argparse.SUPPRESS if suppress else False
    to.add_argument("--detach", "-d", action="store_true", default=default, help="return once all replicas are ready")
    to.add_argument("--quiet", "-q", action="store_true", default=default, help="print nothing but what goes wrong")
    to.add_argument("--log-format", choices=("text", "json"), default=argparse.SUPPRESS if suppress else None,
                    help="print lines, or JSON lines, also on a terminal")  # fmt: skip
    to.add_argument("--notify-fd", type=int, default=argparse.SUPPRESS if suppress else None, help=argparse.SUPPRESS)
