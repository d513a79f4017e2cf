"""Decides what the list of a service's tasks says about the replicas. Pure.

A swarm counts the places of a service in slots. Whatever happens to the task in a slot, the swarm makes another one for
that slot, on any node. A replica is assigned to a slot (`SlotAssignment`): it is the task that serves there. So a death
is the difference between two readings, never the result of an order of ours:

    its task failed                  Exited; the replica waits, and its next task is Started
    its task was stopped by design   Replaced where the next one serves already (an update),
                                     else Exited (a drained node)
    its node is down                 Unreachable, then Replaced as soon as the next one serves
    a task failed before it served   StartFailed, with the swarm's own error

A node is down when its manager has received nothing from it for a while. It may be dead. It may also be cut off from
the manager only, or the manager itself has been unreachable. The load balancers see for themselves whether its tasks
answer: a replica that does not answer is soon dead (`comet.reconcile.transitions`), one that answers keeps its slot
until another task serves there.

When a service shrinks, the swarm chooses the slots that go, while replicas go by number. So the replicas that stay move
into the slots of those that leave (`assign_slots`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from comet.common.clock import parse
from comet.engine.exit_status import of_container
from comet.reconcile.observations import (
    Endpoint,
    Exit,
    Exited,
    Observation,
    Replaced,
    Started,
    StartFailed,
    Unreachable,
)

ENDED = ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")
BY_DESIGN = ("shutdown", "remove")
UNKNOWN_TASK = ""
"""Stands for a task's id where there was a task, and it is not known any more."""

SHORT_ID = 12
"""Digits of a container's id as `docker ps` shows it, which is also its host name."""


@dataclass(frozen=True)
class Node:
    """One machine of the swarm.

    `up` is what the manager says; `address` is where others reach the node.
    """

    id: str
    name: str
    address: str
    up: bool
    message: str = ""


@dataclass(frozen=True)
class Task:
    """One life of a container in a slot.

    `created` is in seconds since the epoch, `error` the swarm's message about the task, `at` the wall time of its last
    change.
    """

    id: str
    slot: int
    created: float
    state: str
    desired: str
    node: Node | None
    container: str = ""
    port: int | None = None
    code: int | None = None
    error: str = ""
    at: str = ""

    @property
    def ended(self) -> bool:
        """Whether the task does not run any more, or its manager receives nothing from its node."""
        return self.state in ENDED or (self.node is not None and not self.node.up)

    @property
    def unreachable(self) -> bool:
        """Whether the task ran when its node was last reachable: it may run still."""
        return self.ended and self.state == "running" and self.endpoint is not None

    @property
    def failed(self) -> bool:
        return self.ended and self.state not in BY_DESIGN and not self.unreachable

    @property
    def serves(self) -> bool:
        return self.state == "running" and self.desired == "running" and not self.ended and self.endpoint is not None

    @property
    def wanted(self) -> bool:
        """Whether the swarm wants its slot to be filled."""
        return self.desired not in BY_DESIGN

    @property
    def endpoint(self) -> Endpoint | None:
        if self.node is None or self.port is None or not self.node.address:
            return None
        return Endpoint(self.node.address, self.port, self.node.name)


@dataclass(frozen=True)
class Reading:
    """What the manager said at one time; `service` is empty where there is none."""

    service: Mapping[str, Any]
    tasks: tuple[Task, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class SlotAssignment:
    """The slot of a replica, and the task that serves in it.

    While there is no `task`, the replica is `waiting` for one or wants none. Tasks created until `since` are not
    reported again; nor, once `unreachable`, that the node of its task is down.
    """

    name: str
    instance: int
    task: str | None = None
    slot: int | None = None
    waiting: bool = False
    leaving: bool = False
    unreachable: bool = False
    since: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether nothing is expected to change: its task serves, and is to go on."""
        return self.task is not None and not (self.leaving or self.waiting or self.unreachable)


Ports = Mapping[str, int]
"""Published ports by container id.

The engine of a manager that was restarted may have forgotten them (Docker 20.10 does), so the caller keeps them.
"""


def reading(
    service: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]], ports: Ports
) -> Reading:
    """Return the relevant part of the engine API's objects."""
    known = {node["ID"]: _node(node) for node in nodes}
    made = sorted((_task(task, known, ports) for task in tasks), key=lambda task: task.created)
    return Reading(service, tuple(made), tuple(known.values()))


def _node(node: Mapping[str, Any]) -> Node:
    status, manager = node.get("Status") or {}, node.get("ManagerStatus") or {}
    address = str(status.get("Addr") or "")
    if address in ("", "0.0.0.0", "127.0.0.1"):
        # A manager may not know the address under which others see it; the one that they dial is right.
        address = str(manager.get("Addr") or address).rpartition(":")[0].strip("[]") or address
    name = str((node.get("Description") or {}).get("Hostname") or node["ID"])
    # A manager that has just become leader calls every node unknown until the node reports.
    return Node(node["ID"], name, address, status.get("State") != "down", str(status.get("Message") or ""))


def _task(task: Mapping[str, Any], nodes: Mapping[str, Node], known: Ports) -> Task:
    status = task.get("Status") or {}
    container = status.get("ContainerStatus") or {}
    ports = (status.get("PortStatus") or {}).get("Ports") or []
    code, identity = container.get("ExitCode"), str(container.get("ContainerID") or "")[:SHORT_ID]
    return Task(
        id=str(task["ID"]),
        slot=int(task.get("Slot") or 0),
        created=parse(str(task.get("CreatedAt") or "")) or 0.0,
        state=str(status.get("State") or ""),
        desired=str(task.get("DesiredState") or ""),
        # A node that was removed from the swarm is down for good.
        node=nodes.get(task["NodeID"], Node(task["NodeID"], task["NodeID"][:SHORT_ID], "", False))
        if task.get("NodeID")
        else None,
        container=identity,
        port=next((int(port["PublishedPort"]) for port in ports if port.get("PublishedPort")), known.get(identity)),
        code=None if code is None else int(code),
        error=str(status.get("Err") or "").removeprefix("task: "),
        at=str(status.get("Timestamp") or ""),
    )


def assign_slots(assignments: Iterable[SlotAssignment], tasks: Sequence[Task]) -> list[SlotAssignment]:
    """Return the assignments with their slots: each keeps its slot while the swarm wants that filled.

    A replica that stays and has no slot takes a free one, else it swaps slots with a replica that leaves.
    """
    by_id = {task.id: task for task in tasks}
    wanted = {task.slot for task in tasks if task.wanted}
    placed = [
        replace(assignment, slot=by_id[assignment.task].slot) if assignment.task in by_id else assignment
        for assignment in assignments
    ]
    free = sorted(wanted - {assignment.slot for assignment in placed})
    for index, assignment in enumerate(placed):
        if assignment.leaving or assignment.slot in wanted:
            continue
        if free:
            # A task that was stopped in the previous slot stays known: what serves in the new one replaces it.
            placed[index] = replace(assignment, slot=free.pop(0))
            continue
        other = next(
            (at for at in reversed(range(len(placed))) if placed[at].leaving and placed[at].slot in wanted), None
        )
        if other is not None:
            leaver = placed[other]
            placed[index] = replace(assignment, slot=leaver.slot)
            placed[other] = replace(leaver, slot=assignment.slot, task=assignment.task or UNKNOWN_TASK)
    return placed


def update_assignment(
    assignment: SlotAssignment, tasks: Sequence[Task], wall_time: float, checked: bool = False
) -> tuple[SlotAssignment, Observation | None]:
    """Return the assignment updated from the tasks, and the new observation of its replica, if any.

    `wall_time` is the present wall time. `checked` says that the swarm calls a task running when it has answered, not
    when it was started.
    """
    present = next((task for task in tasks if task.id == assignment.task), None)
    if assignment.leaving:
        gone = assignment.task is not None and (present is None or present.ended)
        return (replace(assignment, task=None), Exited(_exit(present, wall_time))) if gone else (assignment, None)
    here = [task for task in tasks if task.slot == assignment.slot]
    successor = next((task for task in reversed(here) if task.serves), None)
    if assignment.task is not None:
        if assignment.unreachable and present is not None and not present.ended:
            return replace(assignment, unreachable=False), Unreachable()
        if successor is not None and successor.id == assignment.task:
            return assignment, None
        if present is not None and present.unreachable and successor is None:
            return replace(assignment, unreachable=True), None if assignment.unreachable else Unreachable(
                down_reason(present)
            )
        if present is None or present.failed or (present.ended and successor is None):
            since = max(assignment.since, present.created if present is not None else 0.0)
            return replace(assignment, task=None, since=since, unreachable=False), Exited(_exit(present, wall_time))
        if successor is not None and successor.endpoint is not None:
            return replace(assignment, task=successor.id, unreachable=False), Replaced(
                successor.container, successor.endpoint, checked
            )
        return assignment, None
    if not assignment.waiting:
        return assignment, None
    if successor is not None and successor.endpoint is not None:
        return replace(assignment, task=successor.id, waiting=False), Started(
            None, successor.container, successor.endpoint
        )
    lost = next((task for task in here if task.failed and task.created > assignment.since), None)
    if lost is None:
        return assignment, None
    return replace(assignment, since=lost.created, waiting=False), StartFailed(failure_reason(lost, tasks))


def failure_reason(task: Task, tasks: Iterable[Task]) -> str:
    """Return in one line why a task failed, with the names of all nodes where the same error occurred."""
    words = task.error or f"its task is {task.state}"
    where = sorted(
        {each.node.name for each in tasks if each.node is not None and each.failed and each.error == task.error}
    )
    hint = "; load it there, or name a registry" if "No such image" in words else ""
    return f"{words} (on {', '.join(where)}{hint})" if where and task.node is not None else words


def pending_reason(assignment: SlotAssignment, tasks: Sequence[Task]) -> str:
    """Return why a replica is not ready yet, as far as the swarm says."""
    last = next((task for task in reversed(tasks) if task.slot == assignment.slot and task.wanted), None)
    if last is None:
        return "the swarm has made no task for it"
    if last.serves and last.endpoint is not None:
        return f"{last.endpoint.host}:{last.endpoint.port} on {last.endpoint.node} does not answer from here"
    if last.unreachable:
        return down_reason(last)
    if last.state == "running" and last.port is None:
        return "its task runs, and the swarm has forgotten on which port (restart worker gives it another)"
    return f"its task is {last.state}" + (f": {last.error}" if last.error else "")


def down_reason(task: Task) -> str:
    """Return why nothing is received from the task."""
    if task.node is None:
        return ""
    return f"its node {task.node.name} is down" + (f": {task.node.message}" if task.node.message else "")


def _exit(task: Task | None, wall_time: float) -> Exit:
    if task is None or (task.node is not None and not task.node.up):
        return Exit()
    return of_container(task.code, task.at, wall_time)
