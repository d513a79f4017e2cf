"""What a look at a container says, whatever events there were."""

from typing import Any

import pytest

from comet.common.clock import parse
from comet.runtimes.docker.container_states import Verdict, compare, ended, is_earlier

EARLY, LATE = "2026-11-25T10:00:00.25Z", "2026-11-25T10:00:07.123456789Z"
UP: dict[str, Any] = {"Running": True, "Restarting": False, "StartedAt": LATE}


@pytest.mark.parametrize(
    ("running", "life", "state", "verdict"),
    [
        (True, LATE, UP, Verdict.SAME),
        (True, LATE, UP | {"Paused": True}, Verdict.SAME),
        (True, "", UP, Verdict.SAME),  # Adopted: nobody knows when it began.
        (True, EARLY, UP, Verdict.REPLACED),
        (True, EARLY, UP | {"StartedAt": None}, Verdict.SAME),
        (True, EARLY, UP | {"Restarting": True}, Verdict.DIED),
        (True, EARLY, {"Running": False, "ExitCode": 1}, Verdict.DIED),
        (True, EARLY, {}, Verdict.DIED),
        (False, EARLY, UP, Verdict.RUNS),
        (False, LATE, UP, Verdict.RUNS),
        (False, EARLY, UP | {"Restarting": True}, Verdict.DEAD),
        (False, EARLY, {}, Verdict.DEAD),
    ],
)
def test_a_look_compares_lives(running: bool, life: str, state: dict[str, Any], verdict: Verdict) -> None:
    assert compare(running, life, state) is verdict


@pytest.mark.parametrize(
    ("record", "life", "earlier"),
    [
        ({"timeNano": 1795600800_100000000}, "2026-11-25T10:00:00.25Z", True),
        ({"timeNano": 1795600800_300000000}, "2026-11-25T10:00:00.25Z", False),
        ({"timeNano": 1795600800_100000000}, "", False),
        ({"timeNano": 1795600800_100000000}, "0001-01-01T00:00:00Z", False),
        ({"timeNano": None}, EARLY, False),
        ({}, EARLY, False),
    ],
)
def test_an_event_is_about_the_life_in_which_it_happened(record: dict[str, Any], life: str, earlier: bool) -> None:
    assert is_earlier(record, life) is earlier


@pytest.mark.parametrize(
    ("code", "flag", "killed_before", "oom"),
    [
        (137, True, None, True),  # An engine that reports no event, or a kill that was not seen.
        (137, False, None, False),
        (137, False, 0.2, True),  # The event comes before the engine's own flag.
        (137, True, 0.2, True),
        (137, True, 60.0, False),  # A child was killed that the container has survived.
        (137, True, -0.2, True),
        (143, True, 0.2, False),
        (0, True, None, False),
        (1, True, None, False),
        (None, True, None, False),
    ],
)
def test_out_of_memory_is_what_memory_has_ended(
    code: int | None, flag: bool, killed_before: float | None, oom: bool
) -> None:
    end = parse(LATE) or 0.0
    state = {"ExitCode": code, "OOMKilled": flag, "FinishedAt": LATE}
    killed_at = None if killed_before is None else end - killed_before
    assert ended(state, killed_at, end + 30).oom is oom
