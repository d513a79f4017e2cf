"""What follows from an order of faults: pure, without clock or files."""

import json
from typing import Any

import pytest

from comet.common.errors import UserError
from comet.config.fault_settings import NETWORK, SETTINGS
from comet.faults.orders import (
    MAX_COUNTED_LEASES,
    BootTime,
    Change,
    Ordered,
    apply,
    change,
    document,
    from_dict,
    listing,
    span,
    to_dict,
)
from worker_app.faults.plan import parse
from worker_app.faults.sampling import FaultSampler

NOW = BootTime(1000.0, "this-boot")
BASE: dict[str, Any] = {"avg-delay": 500.0, "failure": 12.0, "hang": 0.0}


def ordered(*changes: dict[str, Any], before: Ordered | None = None, now: BootTime = NOW) -> Ordered:
    present = before or Ordered()
    for number, request in enumerate(changes):
        present = apply(present, change(request), now, f"id-{number}")
    return present


def in_force(present: Ordered, now: float = 1000.0, started: float = 0.0) -> dict[str, Any]:
    """What a worker makes of it: the settings that are in force at `now`."""
    faults = FaultSampler(parse(json.dumps(document(BASE, present, NOW))), started=started, boot_id="this-boot")
    current = faults.current(now)
    return {name: getattr(current, name.replace("-", "_")) for name in SETTINGS if name not in NETWORK}


def test_a_setting_that_is_not_named_keeps_its_value() -> None:
    present = ordered({"hang": 5}, {"failure": "0.5"}, {"hang": 7})
    assert in_force(present) | {"hang": 7.0, "failure": 0.5, "avg-delay": 500.0} == in_force(present)


def test_clear_returns_to_the_config_and_may_begin_anew() -> None:
    present = ordered({"hang": 5}, {"cpu": 3, "for": "1h"}, {"clear": True})
    assert present == Ordered()
    assert ordered({"hang": 5, "cpu": 1}, {"clear": True, "cpu": 2}) == Ordered({"cpu": 2.0})


def test_a_lease_overrides_and_expires_by_itself() -> None:
    present = ordered({"failure": 30}, {"failure": 100, "hang": 1, "for": "30s"})
    assert in_force(present)["failure"] == 100
    assert in_force(present, now=1029.9)["hang"] == 1
    assert in_force(present, now=1030.0) | {"failure": 30.0, "hang": 0.0} == in_force(present, now=1030.0)


def test_later_leases_lie_on_earlier_ones_and_uncover_them_again() -> None:
    present = ordered({"hang": 50, "for": "60s"}, {"hang": 10, "for": "5s"})
    assert [in_force(present, now=now)["hang"] for now in (1000, 1006, 1061)] == [10, 50, 0]


def test_what_is_set_now_holds_now_also_against_a_lease() -> None:
    present = ordered({"hang": 50, "failure": 90, "for": "60s"}, {"hang": 0})
    assert in_force(present)["hang"] == 0
    assert in_force(present)["failure"] == 90


def test_a_counted_order_is_for_workers_running_at_that_time() -> None:
    present = ordered({"failure": 100, "count": "2"})
    assert in_force(present, started=999.0)["failure"] == 100
    assert in_force(present, started=1000.5)["failure"] == 12
    assert len(ordered(*[{"failure": 100, "count": 1}] * (MAX_COUNTED_LEASES + 5)).leases) == MAX_COUNTED_LEASES


def test_leases_of_an_earlier_boot_are_forgotten() -> None:
    present = ordered({"hang": 5, "for": "1h"}, {"cpu": 1})
    after = apply(present, change({"cpu": 2}), BootTime(5.0, "next-boot"), "x")
    assert after == Ordered({"cpu": 2.0})
    assert "overrides" not in document(BASE, present, BootTime(5.0, "next-boot"))


def test_a_scenario_replaces_and_withdraws_its_own_leases_only() -> None:
    present = ordered({"hang": 5}, {"cpu": 9, "for": 60}, {"failure": 50, "for": 10, "owner": "storm"})
    present = apply(present, Change({"failure": 70}, seconds=10, owner="storm"), NOW, "next")
    assert [lease.settings for lease in present.leases] == [{"cpu": 9.0}, {"failure": 70}]
    present = apply(present, Change(clear=True, owner="storm"), NOW, "last")
    assert present.settings == {"hang": 5.0}
    assert [lease.settings for lease in present.leases] == [{"cpu": 9.0}]


def test_what_is_ordered_survives_being_kept() -> None:
    present = {"worker-0": ordered({"hang": 5}, {"cpu": 9, "for": 60, "count": 3, "owner": "x"}), "worker-1": Ordered()}
    assert from_dict(json.loads(json.dumps(to_dict(present)))) == {"worker-0": present["worker-0"]}


def test_the_listing_says_what_is_in_force_and_why() -> None:
    told = listing("worker-0", BASE, ordered({"hang": 5}, {"cpu": 9, "for": 60}, {"reset": 100, "count": 3}), NOW)
    assert told["settings"] == {"avg-delay": 500.0, "failure": 12.0, "hang": 5.0, "cpu": 9.0}
    assert told["from"] == {"avg-delay": "config", "failure": "config", "hang": "command", "cpu": "lease"}
    assert told["leases"] == [
        {"settings": {"cpu": 9.0}, "left_s": 60.0, "count": None, "count_left": None, "age_s": 0.0, "owner": None},
        {"settings": {"reset": 100.0}, "left_s": None, "count": 3, "count_left": None, "age_s": 0.0, "owner": None},
    ]


def test_the_listing_has_the_rest_of_a_count_until_used_up() -> None:
    present = ordered({"reset": 100, "count": 3}, {"cpu": 9, "count": 5, "for": 60}, {"hang": 1, "count": 2})

    def shown(left: dict[str, int]) -> list[tuple[int, int | None]]:
        told = listing("worker-0", BASE, present, NOW, {("worker-0", key): number for key, number in left.items()})
        return [(lease["count"], lease["count_left"]) for lease in told["leases"]]

    assert shown({}) == [(3, None), (5, None), (2, None)]
    assert shown({"id-0": 1, "id-1": 5}) == [(3, 1), (5, 5), (2, None)]
    assert shown({"id-0": 0, "id-1": 5, "id-2": 0}) == [(5, 5)]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"hang": "101"}, "hang: 101 is out of range (allowed: percent, from 0 to 100)"),
        ({"hang": "-1"}, "hang: -1 is out of range"),
        ({"hang": "nan"}, "hang: 'nan' is not a number"),
        ({"hang": "many"}, "hang: 'many' is not a number"),
        ({"hang": True}, "hang: true is not a number"),
        ({"status": "404"}, "status: 404 is out of range (allowed: a whole number from 500 to 599)"),
        ({"status": "503.5"}, "status: 503.5 is not a whole number"),
        (
            {"delay-distribution": "normal"},
            "delay-distribution: 'normal' is not known (allowed: uniform, constant, exponential or lognormal)",
        ),
        ({"hang": 5, "for": "soon"}, "for: soon is not usable (allowed: a time like 500ms, 30s, 5m or 1h, up to 7d)"),
        ({"hang": 5, "for": "0s"}, "for: 0s is not usable"),
        ({"hang": 5, "for": "8d"}, "for: 8d is not usable"),
        ({"hang": 5, "count": "0"}, "count: 0 is out of range (allowed: a whole number from 1 to 1000000)"),
        ({"hnag": 5}, "hnag: not known (allowed: avg-delay, "),
        ({"for": "30s"}, "no fault is named (see --help)"),
        ({"clear": True, "for": "30s"}, "a limit needs a fault to limit"),
        ({"clear": "yes", "hang": 1}, "clear: neither true nor false"),
        ({}, "no fault is named"),
    ],
)
def test_nonsense_is_refused_in_one_line(request_: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        change(request_)
    assert caught.value.exit_code == 2
    assert caught.value.message.startswith(f"faults: {said}")
    assert caught.value.message.endswith("; nothing was changed")
    assert "\n" not in caught.value.message


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(UserError, match=r"hang: .*; cpu: .*; count: .*; nothing was changed"):
        change({"hang": 101, "cpu": "x", "count": -1})


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), (30, 30), ("30s", 30), ("500ms", 0.5), ("1.5m", 90), ("1h", 3600), ("7d", 604800)]
)
def test_spans(text: str, seconds: float) -> None:
    assert span(text) == seconds


@pytest.mark.parametrize("seconds", [1, 0.1, 1.4984980420003922, 1e-05, 604800])
def test_a_number_is_seconds_however_python_writes_it(seconds: float) -> None:
    assert span(seconds) == seconds


@pytest.mark.parametrize("value", [0, -1, True, 1e9, float("nan"), float("inf"), 10**400, None, [1], "1e3"])
def test_no_span(value: object) -> None:
    with pytest.raises(ValueError, match="not usable"):
        span(value)


def test_the_worker_accepts_every_setting_within_its_limits() -> None:
    neutral = {name: key.check(key.default) for name, key in SETTINGS.items() if name not in NETWORK}
    assert parse(json.dumps(neutral)).unknown == ()
    widest = {
        "avg-delay": 600000,
        "cpu": 600000,
        "slow-body": 1e9,
        "memory": 1e6,
        "status": 599,
        "hang": 100,
        "reset": 100,
        "truncate": 100,
    }
    for name, value in widest.items():
        assert SETTINGS[name].check(value) == value
        assert parse(json.dumps({name: value}))
