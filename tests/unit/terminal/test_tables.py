"""The listing of `faults`: one line per setting, with where it comes from and how long it holds."""

from typing import Any

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


def test_a_recovery_is_no_bad_news_because_of_its_backoff() -> None:
    def red(record: dict[str, Any]) -> str:
        line = tables.event({"at": "2026-12-01T09:24:40.124Z", "replica": "lb-0", "kind": "process", **record})
        return "".join(line.plain[span.start : span.end] for span in line.spans if span.style == "red")

    steps = {"died": 0.0, "noticed": 4.2, "backoff": 196.0, "listening": 202.0, "ready": 203.0}
    assert red({"event": "replica_ready", "timeline_ms": steps}) == ""
    assert red({"event": "backoff_entered", "delay_ms": 208.0, "attempt": 3}) == "backoff of 208 ms before attempt 3"
