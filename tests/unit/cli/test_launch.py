"""`run --detach` names the cause of the start that it made: not the last line of a log, which may be of another one."""

import asyncio
import itertools

import pytest

from comet.api.background import ended_early
from comet.cli.launch import cause

EARLY = "the supervisor ended before the cluster was ready"
TRACE = """\
Traceback (most recent call last):
  File "run.py", line 3, in f
    raise ValueError("first")
ValueError: first

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "run.py", line 9, in g
    await task
asyncio.exceptions.CancelledError
"""


@pytest.mark.parametrize(
    ("code", "printed", "said"),
    [
        (-9, "an old line\n", "the supervisor was ended by SIGKILL before the cluster was ready; see LOG"),
        (-70, "", "the supervisor was ended by signal 70 before the cluster was ready; see LOG"),
        (0, "stopping\n", "the supervisor was stopped before the cluster was ready; see LOG"),
        (1, "", f"{EARLY} (exit code 1): it printed nothing; see LOG"),
        (2, "config.yaml:1: pool: no\n\n", f"{EARLY} (exit code 2): config.yaml:1: pool: no; see LOG"),
        (1, TRACE, f"{EARLY} (exit code 1): ValueError: first; see LOG"),
        (1, f"warning\n{TRACE}late: word\n", f"{EARLY} (exit code 1): ValueError: first; see LOG"),
        (1, TRACE[TRACE.rindex("Traceback") :], f"{EARLY} (exit code 1): it was interrupted; see LOG"),
    ],
)  # fmt: skip
def test_the_cause_is_that_of_this_start(code: int, printed: str, said: str) -> None:
    assert ended_early(code, printed, "LOG") == said


def test_the_first_error_of_a_chain_is_the_cause() -> None:
    def raised(*errors: BaseException) -> BaseException:
        for former, error in itertools.pairwise(errors):
            error.__context__ = former
        return errors[-1]

    assert (
        cause(raised(OSError(28, "No space left on device", "/x/y"), asyncio.CancelledError()))
        == "/x/y: No space left on device"
    )
    assert (
        cause(raised(ValueError("first"), KeyError("second")))
        == "internal error: ValueError('first'); see .comet/logs/supervisor.log"
    )
    assert cause(raised(KeyboardInterrupt(), asyncio.CancelledError())) == "it was interrupted"
    assert "ulimit -u" in cause(raised(RuntimeError("can't start new thread"), asyncio.CancelledError()))
    assert "ulimit -v" in cause(raised(MemoryError()))
