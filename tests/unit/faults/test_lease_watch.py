"""The end of a lease is reported once."""

from comet.events.event import Event, line
from comet.faults.lease_watch import LeaseWatch
from comet.faults.orders import Change, Moment, Ordered, apply

HANG = Change({"hang": 100.0}, seconds=30)


def test_a_lease_that_has_ended_is_reported_once() -> None:
    told: list[Event] = []
    watch = LeaseWatch(told.append)
    ordered = {name: apply(Ordered(), HANG, Moment(0.0, "boot"), "a") for name in ("worker-0", "worker-1")}
    ordered["worker-1"] = apply(ordered["worker-1"], Change({"failure": 5.0}, seconds=10), Moment(0.0, "boot"), "b")
    for now in (1.0, 9.0, 11.0, 29.0, 31.0, 40.0):
        watch.look(ordered, Moment(now, "boot"))
    assert [(event.replica, event.fields["workers"]) for event in told] == [
        ("worker-1", ["worker-1"]),
        (None, ["worker-0", "worker-1"]),
    ]
    records = [{"event": event.name, "replica": event.replica, **event.fields} for event in told]
    assert [line(record) for record in records] == [
        "worker-1 faults ended: failure=5",
        "faults of all workers ended: hang=100",
    ]


def test_a_lease_that_is_withdrawn_or_older_than_the_supervisor_is_not_reported() -> None:
    told: list[Event] = []
    watch = LeaseWatch(told.append)
    ordered = {"worker-0": apply(Ordered(), HANG, Moment(0.0, "boot"), "a")}
    watch.look(ordered, Moment(60.0, "boot"))
    watch.look({"worker-0": apply(Ordered(), HANG, Moment(60.0, "boot"), "c")}, Moment(61.0, "boot"))
    watch.look({}, Moment(62.0, "boot"))
    assert told == []
