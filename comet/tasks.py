"""What the list of a service's tasks says of the replicas that they stand for. Pure.

A swarm counts the places of a service in slots; whatever happens to the task in a slot, the swarm makes another one for it, on any
node. A replica sits in a slot (`Seat`): it is the task that serves there. So a death is two readings that differ, never an order of ours:

    its task failed                          Exited; the replica waits, and its next task is Started
    its task was stopped by design           Replaced where the next one serves already (an update), else Exited (a drained node)
    its node is down                         Unheard, then Replaced as soon as the next one serves
    a task failed before it served           StartFailed, with the swarm's own words

A node is down when its manager has not heard of it for a while. It may be dead; it may as well be cut off from the manager only, or the
manager has been away itself. Whether its tasks answer the load balancers see for themselves: what does not is dead soon
(`comet.reactions`), what answers keeps its seat until another one serves there.

Which slots go when a service shrinks is the swarm's choice, while replicas go by number. So those that stay move over into the slots of
those that leave (`seated`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from comet.exits import of_container
from comet.observation import Endpoint, Exit, Exited, Observation, Replaced, Started, StartFailed, Unheard
from comet.wallclock import parse

ENDED = ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")
BY_DESIGN = ("shutdown", "remove")
GONE = ""
"""In place of a task's id: there was one, and nobody knows it any more."""

SHORT_ID = 12
"""Digits of a container's id as `docker ps` shows it; also its host name."""


@dataclass(frozen=True)
class Node:
    """One machine of the swarm. `up` as the manager sees it; `address` is where others reach it."""

    id: str
    name: str
    address: str
    up: bool
    said: str = ""


@dataclass(frozen=True)
class Task:
    """One life of a container in a slot. `created` is in seconds since the epoch, `error` the swarm's word on it, `at` the wall time of its
    last change."""

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
        """It does not run any more, or its manager does not hear of it."""
        return self.state in ENDED or (self.node is not None and not self.node.up)

    @property
    def unheard(self) -> bool:
        """It ran when its node was last heard of, and may run still."""
        return self.ended and self.state == "running" and self.endpoint is not None

    @property
    def failed(self) -> bool:
        return self.ended and self.state not in BY_DESIGN and not self.unheard

    @property
    def serves(self) -> bool:
        return self.state == "running" and self.desired == "running" and not self.ended and self.endpoint is not None

    @property
    def wanted(self) -> bool:
        """Whether the swarm means its slot to be filled."""
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
class Seat:
    """A replica's place. `task` is the one that serves in it; while there is none the replica is `waiting` for one or does not want
    any. What was created until `since` is no news; nor, once `unheard`, that the node of its task is down."""

    name: str
    instance: int
    task: str | None = None
    slot: int | None = None
    waiting: bool = False
    leaving: bool = False
    unheard: bool = False
    since: float = 0.0


Ports = Mapping[str, int]
"""Published ports by container id. An engine's manager that was started again may have forgotten them (Docker 20.10 does), so who reads it
remembers."""


def reading(service: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]], ports: Ports) -> Reading:
    """The engine API's objects, as far as they concern us."""
    known = {node["ID"]: _node(node) for node in nodes}
    made = sorted((_task(task, known, ports) for task in tasks), key=lambda task: task.created)
    return Reading(service, tuple(made), tuple(known.values()))


def _node(node: Mapping[str, Any]) -> Node:
    status, manager = node.get("Status") or {}, node.get("ManagerStatus") or {}
    address = str(status.get("Addr") or "")
    if address in ("", "0.0.0.0", "127.0.0.1"):
        # A manager may not know under which address others see it; what they dial it by is right.
        address = str(manager.get("Addr") or address).rpartition(":")[0].strip("[]") or address
    name = str((node.get("Description") or {}).get("Hostname") or node["ID"])
    # A manager that has just begun to lead calls every node unknown until it has heard of it.
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
        node=nodes.get(task["NodeID"], Node(task["NodeID"], task["NodeID"][:SHORT_ID], "", False)) if task.get("NodeID") else None,
        container=identity,
        port=next((int(port["PublishedPort"]) for port in ports if port.get("PublishedPort")), known.get(identity)),
        code=None if code is None else int(code),
        error=str(status.get("Err") or "").removeprefix("task: "),
        at=str(status.get("Timestamp") or ""),
    )


def seated(seats: Iterable[Seat], tasks: Sequence[Task]) -> list[Seat]:
    """The seats with their slots: each keeps the one it has while the swarm wants that filled. A replica that stays and has none takes a
    free one, else it changes places with one that leaves."""
    by_id = {task.id: task for task in tasks}
    wanted = {task.slot for task in tasks if task.wanted}
    placed = [replace(seat, slot=by_id[seat.task].slot) if seat.task in by_id else seat for seat in seats]
    free = sorted(wanted - {seat.slot for seat in placed})
    for index, seat in enumerate(placed):
        if seat.leaving or seat.slot in wanted:
            continue
        if free:
            # A task that was stopped in the former slot stays known: what serves in the next one replaces it.
            placed[index] = replace(seat, slot=free.pop(0))
            continue
        other = next((at for at in reversed(range(len(placed))) if placed[at].leaving and placed[at].slot in wanted), None)
        if other is not None:
            leaver = placed[other]
            placed[index] = replace(seat, slot=leaver.slot)
            placed[other] = replace(leaver, slot=seat.slot, task=seat.task or GONE)
    return placed


def judged(seat: Seat, tasks: Sequence[Task], wall: float, checked: bool = False) -> tuple[Seat, Observation | None]:
    """The seat after a look at the tasks, and what is news about its replica. `wall` is the wall time now, `checked`
    says that the swarm calls a task running when it has answered, not when it was started."""
    present = next((task for task in tasks if task.id == seat.task), None)
    if seat.leaving:
        gone = seat.task is not None and (present is None or present.ended)
        return (replace(seat, task=None), Exited(_exit(present, wall))) if gone else (seat, None)
    here = [task for task in tasks if task.slot == seat.slot]
    heir = next((task for task in reversed(here) if task.serves), None)
    if seat.task is not None:
        if seat.unheard and present is not None and not present.ended:
            return replace(seat, unheard=False), Unheard()
        if heir is not None and heir.id == seat.task:
            return seat, None
        if present is not None and present.unheard and heir is None:
            return replace(seat, unheard=True), None if seat.unheard else Unheard(down(present))
        if present is None or present.failed or (present.ended and heir is None):
            since = max(seat.since, present.created if present is not None else 0.0)
            return replace(seat, task=None, since=since, unheard=False), Exited(_exit(present, wall))
        if heir is not None and heir.endpoint is not None:
            return replace(seat, task=heir.id, unheard=False), Replaced(heir.container, heir.endpoint, checked)
        return seat, None
    if not seat.waiting:
        return seat, None
    if heir is not None and heir.endpoint is not None:
        return replace(seat, task=heir.id, waiting=False), Started(None, heir.container, heir.endpoint)
    lost = next((task for task in here if task.failed and task.created > seat.since), None)
    if lost is None:
        return seat, None
    return replace(seat, since=lost.created, waiting=False), StartFailed(told(lost, tasks))


def told(task: Task, tasks: Iterable[Task]) -> str:
    """Why a task failed, in one line. What is wrong on several nodes is told with all of their names."""
    words = task.error or f"its task is {task.state}"
    where = sorted({each.node.name for each in tasks if each.node is not None and each.failed and each.error == task.error})
    hint = "; load it there, or name a registry" if "No such image" in words else ""
    return f"{words} (on {', '.join(where)}{hint})" if where and task.node is not None else words


def pending(seat: Seat, tasks: Sequence[Task]) -> str:
    """Why a replica is not there yet, in the swarm's words; empty where it says nothing."""
    last = next((task for task in reversed(tasks) if task.slot == seat.slot and task.wanted), None)
    if last is None:
        return "the swarm has made no task for it"
    if last.serves and last.endpoint is not None:
        return f"{last.endpoint.host}:{last.endpoint.port} on {last.endpoint.node} does not answer from here"
    if last.unheard:
        return down(last)
    if last.state == "running" and last.port is None:
        return "its task runs, and the swarm has forgotten on which port (restart worker gives it another)"
    return f"its task is {last.state}" + (f": {last.error}" if last.error else "")


def down(task: Task) -> str:
    """Why nobody hears of it."""
    if task.node is None:
        return ""
    return f"its node {task.node.name} is down" + (f": {task.node.said}" if task.node.said else "")


def _exit(task: Task | None, wall: float) -> Exit:
    if task is None or (task.node is not None and not task.node.up):
        return Exit()
    return of_container(task.code, task.at, wall)
