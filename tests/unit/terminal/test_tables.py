"""The listing of `faults`: one line per setting, with where it comes from and how long it holds."""

from comet.terminal import tables


def test_a_count_is_shown_with_what_is_left_of_it() -> None:
    lease = {"left_s": None, "count": 3, "age_s": 1.5, "owner": None}
    leases = [
        {**lease, "settings": {"reset": 100.0}, "count_left": 2},
        {**lease, "settings": {"hang": 5.0}, "count_left": None},
        {**lease, "settings": {"cpu": 9.0}, "count_left": 1, "left_s": 20.0},
    ]
    worker = {"name": "worker-0", "settings": {}, "from": {}, "leases": leases}
    shown = [" ".join(line.plain.split()) for line in tables.faults([worker]).lines(None)]
    assert shown == [
        "WORKER SETTING VALUE FROM",
        "worker-0 reset 100 % 2 of 3 requests left",
        "worker-0 hang 5 % the first 3 requests since 1.5 s ago",
        "worker-0 cpu 9 ms 1 of 3 requests left, 20 s left",
    ]
