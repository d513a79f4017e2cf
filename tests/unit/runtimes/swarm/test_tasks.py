"""What a swarm's list of tasks means for replicas: made-up readings, no swarm."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import docker
import pytest

from comet.reconcile.observations import Endpoint, Exited, Ready, Replaced, Started, StartFailed, Unreachable
from comet.reconcile.replica import Replica, ReplicaSpec, State, Wanted
from comet.reconcile.transitions import Now, react
from comet.runtimes.swarm.manager import Manager
from comet.runtimes.swarm.service_spec import ServiceLaunch, resized, service
from comet.runtimes.swarm.tasks import (
    Node,
    SlotAssignment,
    Task,
    assign_slots,
    pending_reason,
    reading,
    update_assignment,
)

H1, H2 = Node("n1", "h1", "10.0.0.1", True), Node("n2", "h2", "10.0.0.2", True)
GONE = replace(H2, up=False, message="heartbeat failure")


def task(name: str, slot: int = 1, created: float = 1.0, **more: Any) -> Task:
    known: dict[str, Any] = {
        "state": "running",
        "desired": "running",
        "node": H1,
        "container": f"c-{name}",
        "port": 32768,
    }
    return Task(name, slot, created, **(known | more))


def test_a_task_that_runs_is_started_where_it_runs() -> None:
    assignment, news = update_assignment(SlotAssignment("worker-0", 1, slot=1, waiting=True), [task("a")], 100.0)
    assert news == Started(None, "c-a", Endpoint("10.0.0.1", 32768, "h1"))
    assert (assignment.task, assignment.waiting) == ("a", False)
    assert update_assignment(assignment, [task("a")], 101.0)[1] is None


def test_a_failed_task_is_an_exit_and_its_successor_a_start() -> None:
    dead = task("a", state="failed", desired="shutdown", code=137, at="2026-11-24T10:00:00.5Z")
    assignment, news = update_assignment(SlotAssignment("worker-0", 1, "a", 1), [dead, task("b", created=2.0)], 100.0)
    assert isinstance(news, Exited)
    assert (news.exit.code, news.exit.signal) == (137, "SIGKILL")
    _, news = update_assignment(replace(assignment, waiting=True), [dead, task("b", created=2.0)], 100.0)
    assert isinstance(news, Started)


def test_a_task_on_a_down_node_keeps_its_slot_until_replaced() -> None:
    """The manager has not heard of the node; the load balancers know better than it whether its tasks answer."""
    kept, news = update_assignment(
        SlotAssignment("worker-0", 1, "a", 1), [task("a", node=GONE, desired="shutdown")], 100.0
    )
    assert (kept.task, news) == ("a", Unreachable("its node h2 is down: heartbeat failure"))
    tasks = [task("a", node=GONE, desired="shutdown"), task("b", created=2.0, state="starting")]
    assert update_assignment(kept, tasks, 101.0) == (kept, None)
    assignment, news = update_assignment(kept, [tasks[0], task("b", created=2.0)], 102.0, checked=True)
    assert news == Replaced("c-b", Endpoint("10.0.0.1", 32768, "h1"), True)
    assert (assignment.task, assignment.unreachable) == ("b", False)


def test_a_returning_node_ends_tasks_replaced_meanwhile() -> None:
    kept = SlotAssignment("worker-0", 1, "a", 1, unreachable=True)
    coming = task("b", created=2.0, state="starting")
    assignment, news = update_assignment(kept, [task("a", desired="shutdown"), coming], 100.0)
    assert (assignment, news) == (replace(kept, unreachable=False), Unreachable())
    assert update_assignment(assignment, [task("a", desired="shutdown"), coming], 100.5) == (assignment, None)
    assignment, news = update_assignment(
        assignment, [task("a", state="shutdown", desired="shutdown", code=0), coming], 101.0
    )
    assert isinstance(news, Exited)
    assert update_assignment(replace(assignment, waiting=True), [coming], 102.0)[1] is None


def test_a_node_that_is_heard_of_again_in_time_changes_nothing() -> None:
    kept = SlotAssignment("worker-0", 1, "a", 1, unreachable=True)
    assert update_assignment(kept, [task("a")], 100.0) == (replace(kept, unreachable=False), Unreachable())


def test_a_node_that_is_down_is_no_failure_to_start() -> None:
    waits = SlotAssignment("worker-0", 1, slot=1, waiting=True)
    assert update_assignment(waits, [task("a", node=GONE)], 101.0)[1] is None
    assert pending_reason(waits, [task("a", node=GONE)]) == "its node h2 is down: heartbeat failure"
    # If the node comes back in time, it is the task that serves.
    assert isinstance(update_assignment(waits, [task("a")], 102.0)[1], Started)


def test_what_fails_in_the_place_of_the_dead_is_told() -> None:
    waits = SlotAssignment("worker-0", 1, slot=1, waiting=True)
    refused = task("b", created=2.0, state="rejected", desired="shutdown", error="No such image: x:1", port=None)
    _, news = update_assignment(waits, [task("a", node=GONE, desired="shutdown"), refused], 101.0)
    assert isinstance(news, StartFailed)
    assert news.reason.startswith("No such image: x:1 (on h1;")


def test_a_node_removed_from_the_swarm_never_returns() -> None:
    removed = replace(GONE, address="")
    assert update_assignment(SlotAssignment("worker-0", 1, "a", 1), [task("a", node=removed)], 100.0)[1] == Exited()


def test_one_that_leaves_a_node_that_is_down_has_left() -> None:
    assert isinstance(
        update_assignment(SlotAssignment("worker-0", 1, "a", 1, leaving=True), [task("a", node=GONE)], 100.0)[1], Exited
    )


@pytest.mark.parametrize("former", [{"desired": "shutdown"}, {"state": "shutdown", "desired": "shutdown"}, {}])
def test_an_update_replaces_and_is_no_crash(former: dict[str, Any]) -> None:
    assignment, news = update_assignment(
        SlotAssignment("worker-0", 1, "a", 1),
        [task("a", **former), task("b", created=2.0, node=H2)],
        100.0,
        checked=True,
    )
    assert news == Replaced("c-b", Endpoint("10.0.0.2", 32768, "h2"), True)
    assert assignment.task == "b"


def test_a_task_stopped_before_its_successor_serves_is_missed() -> None:
    assignment = SlotAssignment("worker-0", 1, "a", 1)
    coming = task("b", created=2.0, state="starting")
    assert update_assignment(assignment, [task("a", desired="shutdown"), coming], 100.0)[1] is None
    assert isinstance(
        update_assignment(assignment, [task("a", state="shutdown", desired="shutdown"), coming], 100.0)[1], Exited
    )


def test_a_start_that_fails_is_told_once_with_the_nodes() -> None:
    words = {"state": "rejected", "desired": "shutdown", "error": "No such image: x:1", "port": None}
    tasks = [task("a", **words), task("b", slot=2, node=H2, **words)]
    assignment, news = update_assignment(SlotAssignment("worker-0", 1, slot=1, waiting=True), tasks, 100.0)
    assert news == StartFailed("No such image: x:1 (on h1, h2; load it there, or name a registry)")
    assert update_assignment(replace(assignment, waiting=True), tasks, 101.0)[1] is None


def test_whoever_stays_takes_the_slot_of_one_that_leaves() -> None:
    """A swarm that is to be smaller ends whichever tasks it likes: here it keeps slot 3 of 3."""
    assignments = [
        SlotAssignment("worker-0", 1, "a", 1),
        SlotAssignment("worker-1", 1, "b", 2, leaving=True),
        SlotAssignment("worker-2", 1, "c", 3, leaving=True),
    ]
    tasks = [task("a", 1, desired="remove"), task("b", 2, desired="remove"), task("c", 3)]
    placed = assign_slots(assignments, tasks)
    assert [(assignment.name, assignment.slot) for assignment in placed] == [
        ("worker-0", 3),
        ("worker-1", 2),
        ("worker-2", 1),
    ]
    assignment, news = update_assignment(placed[0], tasks, 100.0)
    assert news == Replaced("c-c", Endpoint("10.0.0.1", 32768, "h1"))
    # worker-2 is now what ends in slot 1.
    assert update_assignment(placed[2], tasks, 100.0)[1] is None
    ended = [task("a", 1, state="shutdown", desired="remove", code=0)]
    assert isinstance(update_assignment(placed[2], ended, 101.0)[1], Exited)
    assert assignment.task == "c"


def test_a_task_that_never_served_is_dead_after_reassignment() -> None:
    assignments = [
        SlotAssignment("worker-0", 1, None, 1, waiting=True),
        SlotAssignment("worker-1", 1, "b", 2, leaving=True),
    ]
    placed = assign_slots(assignments, [task("b", 2)])
    assert placed[0].slot == 2
    assert isinstance(update_assignment(placed[1], [task("b", 2)], 100.0)[1], Exited)


def test_new_ones_take_free_slots_in_order() -> None:
    assignments = [
        SlotAssignment("worker-0", 1, "a", 1),
        SlotAssignment("worker-1", 1, waiting=True),
        SlotAssignment("worker-2", 1, waiting=True),
    ]
    placed = assign_slots(assignments, [task("a"), task("b", 2), task("c", 3)])
    assert [assignment.slot for assignment in placed] == [1, 2, 3]


def test_the_engines_objects_are_read() -> None:
    nodes = [
        {
            "ID": "n1",
            "Description": {"Hostname": "h1"},
            "Status": {"State": "ready", "Addr": "0.0.0.0"},
            "ManagerStatus": {"Addr": "10.0.0.1:2377"},
        },
        {"ID": "n2", "Description": {"Hostname": "h2"}, "Status": {"State": "unknown", "Addr": "10.0.0.2"}},
    ]
    status = {
        "State": "running",
        "ContainerStatus": {"ContainerID": "0123456789abcdef"},
        "PortStatus": {"Ports": [{"PublishedPort": 32770}, {"PublishedPort": 32770}]},
    }
    made = {
        "ID": "t1",
        "Slot": 2,
        "CreatedAt": "2026-11-24T10:00:00.123456789Z",
        "DesiredState": "running",
        "NodeID": "n1",
        "Status": status,
    }
    now = reading({}, [made, {**made, "ID": "t2", "NodeID": "gone"}], nodes, {})
    assert now.tasks[0].endpoint == Endpoint("10.0.0.1", 32770, "h1")
    assert (now.tasks[0].container, now.tasks[0].slot, now.tasks[0].serves) == ("0123456789ab", 2, True)
    assert now.tasks[1].ended
    assert [node.up for node in now.nodes] == [True, True]


def test_a_port_that_the_manager_has_forgotten_is_remembered() -> None:
    made = {"ID": "t1", "Slot": 1, "DesiredState": "running", "NodeID": "n1", "Status": {"State": "running",
            "PortStatus": {},
            "ContainerStatus": {"ContainerID": "0123456789abcdef"}}}  # fmt: skip
    nodes = [{"ID": "n1", "Status": {"State": "ready", "Addr": "10.0.0.1"}}]
    assert reading({}, [made], nodes, {"0123456789ab": 32771}).tasks[0].endpoint == Endpoint("10.0.0.1", 32771, "n1")
    forgotten = reading({}, [made], nodes, {}).tasks
    assert not forgotten[0].serves
    assert "forgotten on which port" in pending_reason(SlotAssignment("worker-0", 1, slot=1, waiting=True), forgotten)


def test_why_a_task_waits_is_told_in_the_swarms_words() -> None:
    waits = task(
        "a", state="pending", node=None, port=None, error="no suitable node (insufficient resources on 3 nodes)"
    )
    assert (
        pending_reason(SlotAssignment("worker-0", 1, slot=1, waiting=True), [waits])
        == "its task is pending: no suitable node (insufficient resources on 3 nodes)"
    )


LAUNCH = ServiceLaunch(
    image="app:1", arguments=("serve",), environment={"A": "1"}, user="1:1", port=80, mounts=(("/srv", "/srv", True),),
    memory=64 << 20,
    pids=50, grace=10.0, fingerprint="f", secret="s",
)  # fmt: skip


def test_the_service_publishes_on_ports_of_the_nodes_choice() -> None:
    made = service("c1", LAUNCH, 8, "secret-id", checked=False)
    assert made["EndpointSpec"]["Ports"] == [{"Protocol": "tcp", "TargetPort": 80, "PublishMode": "host"}]
    assert made["UpdateConfig"]["Parallelism"] == 2
    assert made["UpdateConfig"]["Monitor"] == made["UpdateConfig"]["Delay"] > 0
    assert made["TaskTemplate"]["ContainerSpec"]["Secrets"][0]["SecretID"] == "secret-id"
    assert service("c1", LAUNCH, 8, "secret-id", checked=True)["UpdateConfig"]["Delay"] == 0
    assert "'s'" not in repr(LAUNCH)


def test_a_change_of_size_changes_nothing_else() -> None:
    made = service("c1", LAUNCH, 3, None, checked=True)
    assert resized(made, 5) == {**made, "Mode": {"Replicated": {"Replicas": 5}}}


def replica(**more: Any) -> Replica:
    spec = ReplicaSpec("worker-0", "worker", "task", "swarm", 6000, 0)
    return replace(Replica(spec, instance=1, started=90.0), **more)


def test_a_replica_moves_without_a_crash() -> None:
    there, here = Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 2, "h2")
    before = replica(state=State.READY, id="a", endpoint=there, remote=True, was_ready=True)
    after, (event,) = react(before, Replaced("b", here, checked=True), Now(100.0))
    assert (after.state, after.id, after.endpoint, after.restarts, after.alive) == (State.READY, "b", here, 0, True)
    assert (event.name, event.fields["node"]) == ("replica_moved", "h2")
    unseen, _ = react(before, Replaced("b", here), Now(100.0))
    assert unseen.state is State.STARTING
    assert react(unseen, Ready(), Now(101.0))[0].state is State.READY


def test_one_without_a_process_here_can_be_drained() -> None:
    started, _ = react(replica(state=State.STARTING), Started(None, "a", Endpoint("10.0.0.1", 1)), Now(100.0))
    assert started.alive
    ended, _ = react(replace(started, state=State.STOPPING, wanted=Wanted.DOWN), Exited(), Now(101.0))
    assert not ended.alive


def test_a_service_removed_between_two_calls_is_absent() -> None:
    class Api:
        def inspect_service(self, name: str) -> dict[str, Any]:
            return {"ID": "s1", "Spec": {}}

        def tasks(self, filters: dict[str, Any]) -> list[Any]:
            raise docker.errors.NotFound("service s1 not found")

        def nodes(self) -> list[Any]:
            return []

    found = Manager(SimpleNamespace(api=Api()), "c1").read({})  # type: ignore[arg-type]
    assert (found.service, found.tasks) == ({}, ())
