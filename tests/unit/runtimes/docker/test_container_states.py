"""What a look at a container says, whatever events there were."""

from typing import Any

import pytest

from comet.runtimes.docker.container_states import Verdict, compare, is_earlier

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
