"""The end of a lease is reported once."""

from comet.events.event import Event, line
from comet.faults.lease_watch import LeaseWatch
from comet.faults.orders import NOT_KNOWN, BootTime, Change, Ordered, apply

HANG = Change({"hang": 100.0}, seconds=30)
THREE = Change({"failure": 100.0}, count=3)


def test_a_lease_that_has_ended_is_reported_once() -> None:
    told: list[Event] = []
    watch = LeaseWatch(told.append)
    ordered = {name: apply(Ordered(), HANG, BootTime(0.0, "boot"), "a") for name in ("worker-0", "worker-1")}
    ordered["worker-1"] = apply(ordered["worker-1"], Change({"failure": 5.0}, seconds=10), BootTime(0.0, "boot"), "b")
    for now in (1.0, 9.0, 11.0, 29.0, 31.0, 40.0):
        watch.look(ordered, BootTime(now, "boot"), NOT_KNOWN)
    assert [(event.replica, event.fields["workers"]) for event in told] == [
        ("worker-1", ["worker-1"]),
        (None, ["worker-0", "worker-1"]),
    ]
    records = [{"event": event.name, "replica": event.replica, **event.fields} for event in told]
    assert [line(record) for record in records] == [
        "worker-1 faults ended: failure=5",
        "faults of all workers ended: hang=100",
    ]


def test_a_withdrawn_or_older_lease_is_not_reported() -> None:
    told: list[Event] = []
    watch = LeaseWatch(told.append)
    ordered = {"worker-0": apply(Ordered(), HANG, BootTime(0.0, "boot"), "a")}
    watch.look(ordered, BootTime(60.0, "boot"), NOT_KNOWN)
    watch.look({"worker-0": apply(Ordered(), HANG, BootTime(60.0, "boot"), "c")}, BootTime(61.0, "boot"), NOT_KNOWN)
    watch.look({}, BootTime(62.0, "boot"), NOT_KNOWN)
    assert told == []


class Counted:
    """A watch over leases of three requests, ordered at second 5, for each of these workers."""

    def __init__(self, *workers: str, began: float = 0.0, boot: str = "boot") -> None:
        self.told: list[Event] = []
        self.watch = LeaseWatch(self.told.append)
        self.watch.look({}, BootTime(began, boot), NOT_KNOWN)
        self.ordered = {name: apply(Ordered(), THREE, BootTime(5.0, "boot"), "a") for name in workers}

    def ended(self, **left: int | None) -> list[tuple[str | None, list[str]]]:
        """Look with so many requests left (None: not known); return what is reported then."""
        del self.told[:]
        known = {(name.replace("_", "-"), "a"): number for name, number in left.items() if number is not None}
        self.watch.look(self.ordered, BootTime(6.0, "boot"), known)
        assert all(event.fields["settings"] == {"failure": 100.0} for event in self.told)
        return [(event.replica, event.fields["workers"]) for event in self.told]


def test_a_count_ends_for_each_worker_by_itself() -> None:
    counted = Counted("worker-0", "worker-1", "worker-2", "worker-3")
    assert counted.ended(worker_0=3, worker_1=None, worker_2=3, worker_3=1) == []
    assert counted.ended(worker_0=0, worker_1=1, worker_2=3, worker_3=1) == [("worker-0", ["worker-0"])]
    assert counted.ended(worker_0=0, worker_1=1, worker_2=0, worker_3=0) == [
        ("worker-2", ["worker-2"]),
        ("worker-3", ["worker-3"]),
    ]
    assert counted.ended(worker_0=0, worker_1=0, worker_2=0, worker_3=0) == [("worker-1", ["worker-1"])]
    assert counted.ended(worker_0=0, worker_1=0, worker_2=0, worker_3=0) == []


def test_counts_that_end_together_are_one_event() -> None:
    assert Counted("worker-0", "worker-1").ended(worker_0=0, worker_1=0) == [(None, ["worker-0", "worker-1"])]


def test_a_count_that_is_unknown_for_a_while_ends_once() -> None:
    counted = Counted("worker-0")
    steps: list[int | None] = [None, 2, None, 0, None, 0, 1, 0]
    assert [len(counted.ended(worker_0=left)) for left in steps] == [0, 0, 0, 1, 0, 0, 0, 0]


def test_a_successor_reports_the_end_of_what_it_saw_in_effect() -> None:
    assert Counted("worker-0", began=5.5).ended(worker_0=0) == []
    counted = Counted("worker-0", began=5.5)
    assert [len(counted.ended(worker_0=left)) for left in (None, 2, 0, 0)] == [0, 0, 1, 0]
    assert Counted("worker-0", boot="earlier").ended(worker_0=0) == []


def test_a_count_that_is_withdrawn_is_not_reported() -> None:
    counted = Counted("worker-0")
    assert counted.ended(worker_0=3) == []
    counted.ordered = {"worker-0": apply(counted.ordered["worker-0"], Change(clear=True), BootTime(6.0, "boot"), "b")}
    assert counted.ended(worker_0=0) == []


def test_a_lease_with_both_limits_ends_with_the_first() -> None:
    both = Change({"failure": 100.0}, seconds=10, count=3)
    for now, left in ((5.0, 0), (11.0, 2)):
        told: list[Event] = []
        watch = LeaseWatch(told.append)
        ordered = {"front": apply(Ordered(), both, BootTime(0.0, "boot"), "a")}
        watch.look(ordered, BootTime(1.0, "boot"), {("front", "a"): 3})
        for _ in range(2):
            watch.look(ordered, BootTime(now, "boot"), {("front", "a"): left})
        assert [event.replica for event in told] == ["front"]
