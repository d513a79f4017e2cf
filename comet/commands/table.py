"""Declares every command, in the order of the help. This is the only place that lists them.

Pure. A command that acts on a running cluster needs nothing but its declaration and what its handler calls.
"""

from typing import Any

from comet.commands import field_checks, forms, result_text
from comet.commands.command import (
    ANYTHING,
    Argument,
    Command,
    Field,
    argument,
    between,
    count,
    file_path,
    positive,
    seconds,
    several,
    switch,
    value,
    words_field,
)
from comet.compare import QUESTIONS
from comet.config.fault_settings import FRONT_SETTINGS, SETTINGS
from comet.config.keys import KEYS
from comet.scenario import CHAOS

SIGNALS = "KILL TERM STOP CONT SEGV HUP INT USR1"

MAX_LOAD_RATE = 100
MAX_LOAD_SECONDS = 300
"""Bounds of the load that the admin server itself sends: requests a second, and seconds."""

CONFIG = value("--config", "FILE", "the config file (config.yaml); its folder is the cluster", read=file_path)
"""An option of every command."""

JSON = switch("--json", help="print JSON")
QUIET = switch("--quiet", "-q", help="print errors only")
REPORT = switch("--json", help="print the report as JSON")
WORKER = value("name", "NAME", "a worker, such as worker-0", replicas=True)
REPLICAS = value("names", "NAME", "replicas, such as worker-0 or lb-1", nargs="+", replicas=True)


def _fault_arguments() -> list[Argument]:
    found = []
    for name, key in (SETTINGS | FRONT_SETTINGS | SETTINGS).items():
        help = f"{'' if name in SETTINGS else 'front: '}{key.meaning} ({key.allowed})"
        if isinstance(key.default, bool):
            found.append(argument(f"--{name}", action="store_const", const=True, help=help))
        else:
            more: dict[str, Any] = {"action": "append"} if isinstance(key.default, list) else {}
            found.append(argument(f"--{name}", metavar="X", help=help, words=" ".join(key.choices), **more))
    return found


DECLARED = (
    Command(
        "run", "run the cluster in the foreground (the default)",
        ("", "run --detach", "run --log-format json > cluster.log", "run --quiet --detach --config other/config.yaml"),
        (
            switch("--detach", "-d", help="return once all replicas are ready"),
            QUIET,
            argument("--log-format", choices=("text", "json"), help="print lines, or JSON lines, also on a terminal"),
            argument("--notify-fd", type=int),
            argument("--owner-pid", type=int),
        ),
        run="cli.commands:run",
    ),
    Command(
        "ps", "list supervisor, load balancers and workers",
        ("ps", "ps --watch", "ps --tree", "ps --json | jq '.replicas[] | select(.state != \"ready\")'"),
        (
            JSON,
            switch("--watch", "-w", help="on a terminal a live board (q leaves it), elsewhere one listing a second"),
            switch("--tree", help="list processes and containers as one tree, from PID 1 on"),
            argument("--feed-fd", type=int),
        ),
        run="cli.read_commands:ps",
    ),
    Command(
        "stop", "drain, stop and remove everything, with or without a running supervisor",
        ("stop", "stop --quiet"),
        (QUIET,),
        run="cli.commands:stop", over_http=True, form=forms.STOP,
    ),
    Command(
        "stats", "show the request statistics of the workers",
        ("stats", "stats --all", "stats --json", "stats --reset"),
        (
            switch("--json", help="print the JSON of /worker/stats"),
            switch("--all", "-a", help="a row for each life of a worker, by its id"),
            switch("--reset", help="set the statistics back to zero"),
        ),
        run="cli.read_commands:stats",
    ),
    Command(
        "events", "show what has happened",
        (
            "events --follow", "events worker-0 --tail 5",
            "events --follow --json | jq -c 'select(.event == \"replica_exited\")'",
        ),
        (
            value("names", "NAME", "only the events of these replicas", nargs="*", replicas=True),
            switch("--follow", "-f", help="keep printing new events"),
            switch("--json", help="print the events as JSON lines"),
            value("--tail", "N", "number of past events to show first (50)", read=count, default=50),
        ),
        run="cli.read_commands:events",
    ),
    Command(
        "logs", "show what replicas printed",
        ("logs worker-0", "logs --follow", "logs worker-0 lb-1 --follow", "logs worker-0 --tail 0 --follow"),
        (
            value("names", "NAME", "replicas, such as worker-0 or lb-1; none: all of them", nargs="*", replicas=True),
            switch("--json", help="print each line as a JSON object"),
            switch("--follow", "-f", help="keep printing new output"),
            value("--tail", "N", "number of past lines of each to show first (100)", read=count, default=100),
        ),
        run="cli.read_commands:show_logs",
    ),
    Command(
        "inspect", "show what the kernel and the engine know of replicas, side by side",
        (
            "inspect worker-0", "inspect lb-0 worker-0",
            "inspect worker-0 worker-1 --json | jq '.rows[] | select(.differs) | .heading'",
        ),
        (REPLICAS, JSON),
        run="cli.read_commands:inspect",
    ),
    Command(
        "kill", "kill replicas as a crash would, for experiments",
        ("kill lb-0", "kill worker-0 worker-1", "kill worker-1 --signal STOP", "kill worker-1 --signal CONT"),
        (
            REPLICAS,
            value("--signal", "SIGNAL", "KILL, TERM, STOP, CONT, SEGV, … (KILL)", default="KILL", words=SIGNALS),
            JSON,
        ),
        run="cli.acting:kill",
        fields={
            "name": words_field("a replica's name", input=forms.REPLICA),
            "signal": Field(
                {"type": ["string", "integer"], "default": "KILL"}, str, field_checks.signal, default="KILL",
                input=forms.SIGNAL,
            ),
        },
        handler=lambda operations, request: operations.kill(request["name"], request["signal"]), over_http=True,
        form=forms.KILL,
    ),
    Command(
        "wait", "wait until replicas are ready, or gone",
        ("wait all --for=ready", "wait worker-0 lb-1 --for=ready --timeout 10s", "wait worker-4 --for=gone"),
        (
            value("names", "NAME|all", "which replicas", nargs="+", words="all", replicas=True),
            argument(
                "--for", dest="goal", choices=("ready", "gone"), required=True,
                help="ready: they serve; gone: they are no longer part of the cluster",
            ),
            value("--timeout", "SECONDS", "how long to wait (30); then exit with 1", read=seconds, default=30.0),
        ),
        run="cli.waiting:wait",
    ),
    Command(
        "scale", "change the number of replicas without dropping a request",
        ("scale worker=5", "scale worker=2 pool=3", "scale lb=1"),
        (
            value(
                "numbers", "worker=N|pool=M", "number of workers, of load balancers (pool=M or lb=M)", nargs="+",
                words="worker= pool= lb=",
            ),
            JSON,
        ),
        run="cli.acting:scale",
        fields={
            "worker": Field(
                {"type": "integer", "minimum": 0, "maximum": 200}, int | None, field_checks.scaled(KEYS["worker"]),
                input=forms.WORKERS,
            ),
            "pool": Field(
                {"type": "integer", "minimum": 1, "maximum": 64}, int | None, field_checks.scaled(KEYS["pool"]),
                input=forms.BALANCERS,
            ),
        },
        handler=lambda operations, request: operations.scale(request.get("worker"), request.get("pool")),
        text=result_text.scale, over_http=True, form=forms.SCALE, check=field_checks.require_a_number, minimum=1,
    ),
    Command(
        "restart", "replace replicas one by one, without reducing capacity",
        ("restart worker-0 worker-1", "restart lb", "restart all"),
        (
            value("targets", "NAME|worker|lb|all", "which replicas", nargs="+", words="worker lb all", replicas=True),
            JSON,
        ),
        run="cli.acting:restart",
        fields={"target": words_field("a replica's name, worker, lb or all", input=forms.TARGET)},
        handler=lambda operations, request: operations.restart(request["target"]), over_http=True, form=forms.RESTART,
    ),
    Command(
        "drain", "send a worker no new requests; those in flight finish",
        ("drain worker-1", "drain worker-1 && python supervisor.py restart worker-1"),
        (WORKER, JSON),
        fields={"name": words_field("a worker's name", input=forms.WORKER)},
        handler=lambda operations, request: operations.drain(request["name"]), text=result_text.drain, over_http=True,
        form=forms.DRAIN, when_complete=True,
    ),
    Command(
        "undrain", "send requests to a drained worker again",
        ("undrain worker-1",),
        (WORKER, JSON),
        fields={"name": words_field("a worker's name", input=forms.WORKER)},
        handler=lambda operations, request: operations.undrain(request["name"]), text=result_text.drain, over_http=True,
        form=forms.UNDRAIN, when_complete=True,
    ),
    Command(
        "pause", "let requests wait in the load balancers",
        ("pause --for 30s", "pause && python supervisor.py restart worker; python supervisor.py resume"),
        (value("--for", "TIME", "go on by itself after this time: 500ms, 30s, 5m, 1h"), JSON),
        fields={"for": Field({"type": ["number", "string", "null"]}, check=field_checks.pause, input=forms.TIME)},
        handler=lambda operations, request: operations.pause(request.get("for")), text=result_text.pause,
        over_http=True, form=forms.PAUSE, when_complete=True,
    ),
    Command(
        "resume", "end a pause: the requests that wait go on",
        ("resume",),
        (JSON,),
        handler=lambda operations, request: operations.resume(), text=result_text.resume, over_http=True,
        form=forms.RESUME, when_complete=True,
    ),
    Command(
        "faults", "show or change the injected faults of running workers",
        (
            "faults", "faults worker-1 --failure 50 --for 30s", "faults all --avg-delay 20 --count 100",
            "faults front --reset 10% --for 5s", "faults --clear",
        ),
        (
            value(
                "name", "NAME|all|front",
                "which workers (all), or what clients meet at the front; without options: show their faults", nargs="?",
                words="all front", replicas=True,
            ),
            *_fault_arguments(),
            value("--for", "TIME", "apply the faults only for this time: 500ms, 30s, 5m, 1h", dest="seconds"),
            value("--count", "N", "apply the faults only to the next N requests of each worker"),
            switch("--clear", help="first return to the settings of config.yaml"),
            JSON,
        ),
        run="cli.acting:faults",
        fields={
            "target": Field(
                {"type": "string", "default": "all"}, str | None, field_checks.target, default="all", input=forms.FAULTY
            ),
            "owner": Field(shape=str | None),
            **{name: Field(field_checks.setting_schema(key)) for name, key in (FRONT_SETTINGS | SETTINGS).items()},
            "for": Field({"type": ["number", "string"]}),
            "count": Field({"type": ["integer", "string"]}),
            "clear": Field({"type": "boolean"}),
        },
        handler=lambda operations, request: operations.faults(request), over_http=True, form=forms.FAULTS,
        check=field_checks.faults,
    ),
    Command(
        "dashboard", "print a one-time link to the dashboard, with the right to change the cluster",
        ("dashboard", "dashboard --open", "dashboard --json | jq -r .link"),
        (switch("--open", "-o", help="open the dashboard in this user's browser instead"), JSON),
        run="cli.acting:dashboard",
    ),
    Command(
        "scenario", "play timed steps of faults, kills and load, and judge the result",
        (
            "scenario scenarios/slow-worker.yaml", "scenario my.yaml --json",
            "scenario my.yaml --junit report.xml -- sh -c 'curl -sS $COMET_URL/api/v1/hello'",
        ),
        (
            value("file", "FILE", "a YAML file; scenarios/ has examples", read=file_path),
            REPORT,
            value("--junit", "FILE", "write the expectations as a JUnit report", read=file_path),
        ),
        run="cli.scenario_command:scenario",
    ),
    Command(
        "chaos", "kill and freeze replicas at random under load, and account for every request",
        ("chaos --for 5s", "chaos --for 5s --seed 7 --kinds worker,lb --json | jq .passed"),
        (
            value("--for", "TIME", "how long (60s)", dest="seconds", read=seconds, default=60.0),
            value("--seed", "N", "repeat the choices of an earlier run", read=count),
            value(
                "--kinds", "KIND,…", f"what is done: {', '.join(CHAOS)} (worker,lb,freeze)",
                read=several(*CHAOS), default=("worker", "lb", "freeze"), words=" ".join(CHAOS),
            ),
            value("--rate", "N", "requests a second (50)", read=positive, default=50),
            REPORT,
        ),
        run="cli.chaos_command:chaos",
    ),
    Command(
        "race", "kill a worker as process and one as container at once, again and again",
        ("race", "race --rounds 20", "race --json | jq .difference"),
        (value("--rounds", "N", "number of rounds (6), each of a few seconds", read=positive, default=6), JSON),
        run="cli.commands:race",
    ),
    Command(
        "compare", "measure the costs and benefits of containers compared with processes",
        ("compare", "compare --rounds 3 --html report.html", "compare --question start"),
        (
            value(
                "--rounds", "N", "number of rounds, each with all measurements (6); 3 rounds take at most 8 minutes",
                read=positive, default=6,
            ),
            value("--question", "NAME", f"ask one question alone: {', '.join(QUESTIONS)}", choices=QUESTIONS),
            value("--json", "FILE", "write all results as JSON, raw and computed", read=file_path),
            value("--html", "FILE", "write a report with plots, one self-contained page", read=file_path),
        ),
        run="compare.command:compare",
    ),
    Command(
        "reload", "read the config again and apply it to the running cluster",
        ("reload",),
        (JSON,),
        handler=lambda operations, request: operations.reload(), text=result_text.reload, over_http=True,
        form=forms.RELOAD,
    ),
    Command(
        "check", "check the config and start nothing",
        ("check", "check --config other/config.yaml"),
        (JSON,),
        run="cli.commands:check",
    ),
    Command(
        "init", "write a config.yaml with all keys and their meanings",
        ("init --config new.yaml",),
        run="cli.commands:init",
    ),
    Command(
        "doctor", "check what Comet needs on this machine, as text for a bug report",
        ("doctor", "doctor --config other/config.yaml", "doctor --json | jq '.findings[] | select(.state == \"bad\")'"),
        (JSON,),
        run="cli.commands:doctor",
    ),
    Command(
        "clean", "remove images and state of this cluster while it is down",
        ("stop && python supervisor.py clean",),
        run="cli.commands:clean_up",
    ),
    Command(
        "completion", "print the shell completion of commands, options and names",
        ("completion bash > ~/.comet-completion && source ~/.comet-completion",),
        (
            argument(
                "shell", choices=("bash", "zsh", "names"),
                help="the shell; names: the names of the replicas, one a line", words="bash zsh",
            ),
        ),
        run="cli.read_commands:completion",
    ),
    Command(
        "help", "show how a command is used",
        ("help", "help scale"),
        (value("about", "COMMAND", "the command; without: all commands", nargs="?"),),
        run="cli.commands:show_help",
    ),
    Command(
        "load",
        run="",
        fields={
            "rate": Field(
                {"type": "number", "minimum": 0, "maximum": MAX_LOAD_RATE},
                check=between(0, MAX_LOAD_RATE, f"requests a second, from 0 (none) to {MAX_LOAD_RATE}"), required=True,
            ),
            "for": Field(
                {"type": "number", "minimum": 1, "maximum": MAX_LOAD_SECONDS, "default": MAX_LOAD_SECONDS},
                check=between(1, MAX_LOAD_SECONDS, f"seconds, from 1 to {MAX_LOAD_SECONDS}"), default=MAX_LOAD_SECONDS,
            ),
        },
        over_http=True, form=forms.HIDDEN,
    ),
    Command("demo", run="", over_http=True, form=forms.DEMO),
)  # fmt: skip

COMMANDS: dict[str, Command] = {command.name: command for command in DECLARED}
"""Every command by its name."""


def on_command_line() -> dict[str, Command]:
    return {name: command for name, command in COMMANDS.items() if command.run}


def over_http() -> dict[str, Command]:
    """Return the commands that are paths of the API."""
    return {name: command for name, command in COMMANDS.items() if command.over_http}


def shapes() -> dict[str, dict[str, Any]]:
    """Return the types of the fields of each command over the control socket."""
    return {
        name: {field: each.shape for field, each in command.fields.items() if each.shape is not ANYTHING}
        for name, command in COMMANDS.items()
    }
