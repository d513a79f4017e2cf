"""Runs a program as a process and in a container like the worker's, whatever is put around it."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comet.common.errors import UserError
from comet.compare.layers import program
from comet.engine.connection import connect
from comet.host.checkout import SOURCES

SOURCE = Path(program.__file__).read_text()
LIMIT = 120
"""Seconds after which a program is ended."""

Worker = Mapping[str, Any]
"""What the engine says of the worker's container (`docker inspect`), whose image and settings the others share."""


def timed(argv: Sequence[str]) -> float:
    """Return the milliseconds from the start of a program to its end; UserError where it fails."""
    began = time.perf_counter()
    done = subprocess.run(argv, cwd=SOURCES, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=LIMIT, check=False)  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise UserError(f"{argv[0]}: {reason}")
    return (time.perf_counter() - began) * 1000


@contextlib.contextmanager
def container(
    worker: Worker,
    argv: Sequence[str],
    labels: Mapping[str, str],
    user: str | None = None,
    engine: Any = None,
    **settings: Any,
) -> Iterator[tuple[str, float]]:
    """Create and start a container that runs `argv`; yield its id and when it began.

    It is made like the worker's, but for its user, if one is given, and for `settings` of the host's part; `engine` is
    the API of another engine than the user's.
    """
    api = engine or connect().api
    host = worker["HostConfig"] | {"PortBindings": {}} | settings
    began = time.perf_counter()
    made = api.create_container(
        worker["Config"]["Image"],
        entrypoint=[argv[0]],
        command=list(argv[1:]),
        environment=worker["Config"]["Env"],
        user=worker["Config"]["User"] if user is None else user,
        labels=dict(labels),
        ports=[tuple(port.split("/")) for port in host["PortBindings"]],
        host_config=host,
    )["Id"]
    try:
        api.start(made)
        yield made, began
    finally:
        api.remove_container(made, force=True, v=True)


def timed_in_container(worker: Worker, argv: Sequence[str], labels: Mapping[str, str], **settings: Any) -> float:
    """Return the milliseconds from the creation of a container to the end of its program."""
    with container(worker, argv, labels, **settings) as (made, began):
        code = connect().api.wait(made, timeout=LIMIT)["StatusCode"]
        if code:
            raise UserError(f"{argv[0]} in a container: exit {code}")
        return (time.perf_counter() - began) * 1000


def measured(
    arguments: Sequence[str], prepare: Callable[[int], object] | None = None, inside: Sequence[str] = ()
) -> dict[str, float]:
    """Run the measuring program as a process, by the command `inside`; `prepare` gets its PID before it begins."""
    hold = "import sys; sys.stdin.readline()\n"
    argv = [*inside, sys.executable, "-c", hold + SOURCE, *arguments]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", text=True) as process:
        try:
            if prepare is not None:
                prepare(process.pid)
            output, _ = process.communicate("\n", timeout=LIMIT)
        except subprocess.TimeoutExpired:
            raise UserError(f"the measuring program did not end within {LIMIT} s") from None
        finally:
            process.kill()
    return _result(output)


def measured_in_container(
    worker: Worker, arguments: Sequence[str], labels: Mapping[str, str], **settings: Any
) -> dict[str, float]:
    """Run the measuring program in a container."""
    with container(worker, ["python3", "-c", SOURCE, *arguments], labels, **settings) as (made, _):
        api = connect().api
        api.wait(made, timeout=LIMIT)
        return _result(api.logs(made, stdout=True, stderr=False).decode(errors="replace"))


def _result(output: str) -> dict[str, float]:
    try:
        result: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise UserError("the measuring program ended without a result") from None
    return result
