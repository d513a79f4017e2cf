"""What a supervisor orders over the control connection, and what a load balancer reports."""

import contextlib
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lb.interface import messages
from lb.interface.messages import Message
from lb.interface.settings import Settings, UpstreamSpec
from tests.support.lb import Worker, WorkerConnection, response
from tests.support.lb_behaviours import GET, POST, Supervisor, after, hang, once, silent, supervised
from tests.support.waiting import wait_until


def test_a_new_supervisor_gets_ready_and_worker_health() -> None:
    with supervised(None, None) as (lb, _, _, supervisor):
        ready = supervisor.receive("ready")
        assert (ready["name"], ready["port"]) == ("lb-0", lb.port)
        assert [supervisor.receive("health")["upstream"] for _ in range(2)] == ["worker-0", "worker-1"]


def test_ping_and_status() -> None:
    with supervised(None, max_in_flight=9) as (_, _, specs, supervisor):
        supervisor.send(messages.ping(42))
        assert supervisor.receive("pong")["id"] == 42
        supervisor.send({"type": "of tomorrow"})
        supervisor.send(messages.status())
        status = supervisor.receive("status")
        assert status["version"] == messages.VERSION
        assert status["settings"]["max_in_flight"] == 9
        (upstream,) = status["upstreams"]
        expected = {"name": "worker-0", "host": "127.0.0.1", "port": specs[0].port, "state": "up", "healthy": True}
        expected |= {"health_path": None, "health_host": None, "ejected": ""}
        assert upstream == expected


def test_a_pong_counts_requests_on_draining_workers() -> None:
    with supervised(hang, None, half_close_grace=0.1) as (lb, workers, specs, supervisor):
        with lb.connect() as waiting:
            waiting.send(GET)
            wait_until(lambda: workers[0].requests)
            supervisor.send(messages.ping(1))
            assert {**supervisor.receive("pong"), "checks": {}} == {"type": "pong", "id": 1, "checks": {}}
            supervisor.send(messages.upstreams([replace(specs[0], state="draining")]))
            supervisor.send(messages.ping(2))
            assert supervisor.receive("pong")["busy"] == {"worker-0": 1}

        def idle() -> bool:
            supervisor.send(messages.ping(3))
            return "busy" not in supervisor.receive("pong")

        wait_until(idle)


def test_a_pong_has_the_durations_of_health_checks() -> None:
    with supervised(None, health_interval=0.1, health_timeout=30.0) as (_, _, _, supervisor):

        def checked() -> float | None:
            supervisor.send(messages.ping(1))
            return supervisor.receive("pong").get("checks", {}).get("worker-0")

        assert 0 < wait_until(checked) < 30_000


def test_health_changes_are_reported() -> None:
    with supervised(None, None) as (lb, workers, _, supervisor):
        workers[0].stop_listening()
        lb.ask()
        while (edge := supervisor.receive("health"))["healthy"]:
            pass
        assert (edge["upstream"], edge["reason"]) == ("worker-0", "connection refused")


@pytest.mark.parametrize("heals", [True, False])
def test_a_disputed_worker_gets_no_request_before_a_good_check(heals: bool) -> None:
    status = {"now": 500}
    hung = Worker("worker-2", health=lambda: status["now"])
    with supervised(None, None, health_interval=0.2) as (lb, _, specs, supervisor), contextlib.closing(hung):
        new = UpstreamSpec("worker-2", "127.0.0.1", hung.port, objection="no answer in 2 s")
        supervisor.send(messages.upstreams([*specs, new]))
        while (told := supervisor.receive("health"))["upstream"] != "worker-2":
            pass
        assert (told["healthy"], told["reason"]) == (False, "no answer in 2 s")
        assert {lb.ask()["X-Comet-Worker"] for _ in range(6)} == {"worker-0", "worker-1"}
        wait_until(lambda: hung.probes >= 2)
        if heals:
            status["now"] = 200
            assert supervisor.receive("health")["healthy"]
            assert {lb.ask()["X-Comet-Worker"] for _ in range(6)} == {"worker-0", "worker-1", "worker-2"}
        else:
            assert not hung.requests


def test_requests_on_a_worker_marked_down_are_retried_if_safe() -> None:
    with supervised(hang, None) as (lb, workers, specs, supervisor), lb.connect() as waiting, lb.connect() as unsafe:
        waiting.send(GET)
        wait_until(lambda: workers[0].requests)
        lb.ask()
        unsafe.send(POST)
        wait_until(lambda: len(workers[0].requests) == 2)
        supervisor.send(messages.upstreams([UpstreamSpec("worker-0", "127.0.0.1", specs[0].port, "down"), specs[1]]))
        assert waiting.answer()["X-Comet-Worker"] == "worker-1"
        assert lb.upstream("worker-0").in_flight == 1
        assert len(workers[1].requests) == 2


def test_a_draining_or_removed_worker_finishes_what_it_has() -> None:
    with supervised(after(0.3), None) as (lb, workers, specs, supervisor), lb.connect() as client:
        for last in (False, True):
            client.send(GET)
            wait_until(lambda last=last: len(workers[0].requests) == 1 + last)
            supervisor.send(
                messages.upstreams(
                    [specs[1]] if last else [UpstreamSpec("worker-0", "127.0.0.1", specs[0].port, "draining"), specs[1]]
                )
            )
            supervisor.send(messages.ping(1))
            supervisor.receive("pong")
            assert {lb.ask()["X-Comet-Worker"] for _ in range(3)} == {"worker-1"}
            assert client.answer()["X-Comet-Worker"] == "worker-0"
            supervisor.send(messages.upstreams(specs))
            supervisor.send(messages.ping(1))
            supervisor.receive("pong")
            lb.proxy.pool._cursor = 0
        wait_until(lambda: lb.count("in_flight") == 0)


def test_requests_on_a_removed_worker_are_retried_if_safe() -> None:
    """A process that ends closes its connections, a machine that is gone does not: those who wait would wait until
    their time is up.
    """
    with (
        supervised(silent(), None, health_timeout=0.2) as (lb, workers, specs, supervisor),
        lb.connect() as waiting,
        lb.connect() as unsafe,
    ):
        waiting.send(GET)
        wait_until(lambda: workers[0].requests)
        lb.ask()
        unsafe.send(POST)
        wait_until(lambda: len(workers[0].requests) == 2)
        former = lb.upstream("worker-0")
        supervisor.send(messages.upstreams([specs[1]]))
        assert waiting.answer()["X-Comet-Worker"] == "worker-1"
        # It may have been done: whether it was nobody can tell yet.
        lb.settle()
        assert former.in_flight == 1


def test_unsafe_requests_on_a_removed_worker_continue() -> None:
    """It may be busy with this very request."""
    with (
        supervised(silent(), None, health_timeout=0.1, health_fall=1, retries=0) as (lb, workers, specs, supervisor),
        lb.connect() as waiting,
    ):
        waiting.send(GET)
        former = lb.upstream("worker-0")
        wait_until(lambda: workers[0].requests)
        supervisor.send(messages.upstreams([specs[1]]))
        wait_until(lambda: workers[0].probes >= 2)
        workers[0].connections[0].send(response(b"late"))
        assert waiting.answer().body == b"late"
        lb.settle()
        assert former.in_flight == 0


def test_a_removed_worker_is_checked_only_while_it_drains() -> None:
    go_on = threading.Event()
    with supervised(once(go_on), None) as (lb, workers, specs, supervisor), lb.connect() as client:
        client.send(GET)
        wait_until(lambda: workers[0].requests)
        former = lb.upstream("worker-0")
        supervisor.send(messages.upstreams([specs[1]]))
        wait_until(lambda: workers[0].probes)
        go_on.set()
        assert client.answer()["X-Comet-Worker"] == "worker-0"
        wait_until(lambda: former not in lb.server._health._loops)
        assert former not in lb.server._health._removed


def test_a_suspicion_of_the_supervisor_is_checked_at_once() -> None:
    with supervised(silent(), None, health_timeout=4.0) as (lb, workers, _, supervisor), lb.connect() as waiting:
        waiting.send(GET)
        wait_until(lambda: workers[0].requests)
        supervisor.send(messages.suspect("worker-0", "its node h2 is down"))
        supervisor.send(messages.suspect("worker-1", "its node h3 is down"))
        assert waiting.answer()["X-Comet-Worker"] == "worker-1"
        edge = supervisor.receive("health")
        while edge["healthy"]:
            edge = supervisor.receive("health")
        assert edge["upstream"] == "worker-0"
        # The other one answers, so the supervisor's word is nothing against it.
        assert workers[1].probes == 1
        wait_until(lambda: lb.upstream("worker-1").ready and not lb.upstream("worker-1").suspect)


def test_new_workers_and_limits_take_effect_at_once() -> None:
    late = Worker("late")
    with supervised() as (lb, _, _, supervisor):
        assert lb.ask().status == 503
        supervisor.send(messages.upstreams([UpstreamSpec("worker-9", "127.0.0.1", late.port)], 3))
        supervisor.send(messages.settings({"retries": 0}))
        supervisor.send(messages.ping(1))
        supervisor.receive("pong")
        assert lb.ask()["X-Comet-Worker"] == "worker-9"
        assert lb.proxy.pool.limit == 3
        assert lb.proxy.settings.retries == 0
    late.close()


def test_the_listening_socket_is_handed_over() -> None:
    """SCM_RIGHTS: after the LB's end the receiver still holds a listening socket on the same port."""
    with supervised(None) as (lb, _, _, supervisor):
        supervisor.receive("health")
        supervisor.send(messages.listener())
        data, fds, _, _ = socket.recv_fds(supervisor.sock, 1000, 1)
        assert messages.decode(data)["type"] == "listener"
        port = lb.port
    with socket.socket(fileno=fds[0]) as held:
        assert held.getsockname()[1] == port
        socket.create_connection(("127.0.0.1", port), 2).close()


def test_an_lb_survives_a_broken_or_dead_supervisor() -> None:
    with supervised(None) as (lb, _, _, supervisor):
        supervisor.send({"type": "upstreams", "upstreams": "nonsense"})
        with pytest.raises(EOFError):
            supervisor.receive("never")
        assert lb.ask().status == 200
    with supervised(None) as (lb, _, _, supervisor):
        supervisor.sock.close()
        assert lb.ask().status == 200


def test_bad_settings_are_refused_whole_and_the_peer_stays() -> None:
    with supervised(None) as (lb, _, _, supervisor):
        for partial in (
            {"head_timeout": "soon", "retries": 9},
            {"max_head": None},
            {"health_interval": 0},
            ["retries"],
            "x",
            1,
        ):
            supervisor.send({"type": "settings", "settings": partial})
        supervisor.send(messages.ping(1))
        supervisor.receive("pong")
        assert lb.proxy.settings == Settings(health_interval=60.0)
        assert lb.ask().status == 200


@pytest.mark.parametrize(
    "message",
    [
        {"type": "drain", "grace": float("nan")},
        {"type": "drain", "grace": -1},
        {"type": "drain", "grace": "soon"},
        {"type": "drain"},
        {"type": "drain", "grace": 1, "unused": 3},
        {"type": "drain", "grace": 1, "unused": -1},
        {"type": "upstreams", "upstreams": [{"name": "w", "host": "h", "port": 70000}]},
        {"type": "upstreams", "upstreams": [{"name": "w", "host": "h", "port": float("inf")}]},
        {"type": "upstreams", "upstreams": [], "max_in_flight": 0},
    ],
)
def test_a_malformed_control_message_drops_the_peer(message: Message) -> None:
    with supervised(None) as (lb, _, _, supervisor):
        supervisor.send(message)
        with pytest.raises(EOFError):
            supervisor.receive("never")
        assert not lb.proxy.draining
        assert lb.ask().status == 200


def test_a_worker_with_an_invalid_host_is_skipped() -> None:
    with supervised(None) as (lb, workers, specs, supervisor):
        odd = UpstreamSpec("odd", "x" * 64 + ".invalid", 80)
        supervisor.send(messages.upstreams([odd, specs[0]]))
        supervisor.send(messages.ping(1))
        supervisor.receive("pong")
        assert lb.ask(POST)["X-Comet-Worker"] == "worker-0"
        assert len(workers[0].requests) == 1


def test_a_drain_finishes_requests_and_sends_close() -> None:
    """RFC 9112 section 9.6; DESIGN section 8: idle clients are not cut while they may be sending."""
    go_on = threading.Event()

    def second_waits(connection: WorkerConnection, request: bytes) -> None:
        assert len(connection.worker.requests) == 1 or go_on.wait(60)
        connection.send(response())

    with supervised(second_waits) as (lb, _, _, supervisor), lb.connect() as busy, lb.connect() as idle:
        idle.ask(GET)
        busy.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        supervisor.send(messages.drain(60.0))
        wait_until(lambda: lb.proxy.draining)
        go_on.set()
        answer = busy.answer()
        assert (answer.status, answer["Connection"]) == (200, "close")
        assert idle.ask(GET)["Connection"] == "close"
        supervisor.receive("drained")
        wait_until(lambda: not lb._thread.is_alive())


def test_a_drain_ends_with_its_grace() -> None:
    with supervised(hang) as (lb, _, _, supervisor), lb.connect() as busy, lb.connect() as idle:
        busy.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        supervisor.send(messages.drain(0.3))
        supervisor.receive("drained")
        assert idle.closed()
        wait_until(lambda: not lb._thread.is_alive())


def test_a_drain_without_a_successor_refuses_connections() -> None:
    """The supervisor holds the socket, too: the kernel would go on to accept, and nobody would answer."""
    with supervised(None) as (lb, _, _, supervisor), lb.connect() as idle:
        idle.ask(GET)
        supervisor.send(messages.drain(60.0, unused=1))
        wait_until(lambda: lb.proxy.draining)
        with pytest.raises(ConnectionRefusedError):
            lb.connect()
        assert idle.ask(GET)["Connection"] == "close"
        supervisor.receive("drained")


def test_a_drain_without_a_successor_answers_those_who_wait() -> None:
    """Clients whose connections the kernel accepted, and the load balancer not yet."""
    with supervised(None) as (lb, _, _, supervisor), contextlib.ExitStack() as stack:
        (admission,) = lb.server._admissions

        def accept_no_more() -> None:
            """Also not at the next check of the limit, which begins again."""
            assert admission._timer is not None
            admission._timer.cancel()
            admission._stop_accepting()

        lb.call(accept_no_more)
        lb.settle()
        waiting = [stack.enter_context(lb.connect()) for _ in range(20)]
        for client in waiting:
            client.send(GET)
        supervisor.send(messages.drain(60.0, unused=1))
        for client in waiting:
            answer = client.answer()
            assert (answer.status, answer["Connection"]) == (200, "close")
        supervisor.receive("drained")


def test_a_drain_with_a_successor_leaves_its_socket_listening() -> None:
    with supervised(None) as (lb, _, _, supervisor), lb.connect() as idle:
        idle.ask(GET)
        supervisor.send(messages.drain(60.0))
        wait_until(lambda: lb.proxy.draining)
        with lb.connect() as next_client, lb.server._listeners[0].dup() as successor:
            successor.setblocking(True)
            accepted, address = successor.accept()
            accepted.close()
            assert address == next_client.sock.getsockname()
        assert idle.ask(GET)["Connection"] == "close"


def test_later_supervisors_connect_to_the_control_socket(tmp_path: Path) -> None:
    with supervised(None) as (lb, _, _, _):
        path = str(tmp_path / "c")
        with socket.socket(socket.AF_UNIX) as control:
            control.bind(path)
            control.listen()
            lb.call(lb.server._hub.listen, control.dup())
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                supervisor = Supervisor(sock)
                assert supervisor.receive("ready")["port"] == lb.port


def test_a_supervisor_that_does_not_read_is_dropped() -> None:
    with supervised(None) as (lb, _, _, supervisor):
        supervisor.receive("ready")
        for _ in range(3):
            with contextlib.suppress(OSError):
                supervisor.sock.settimeout(0.2)
                supervisor.sock.sendall(messages.encode(messages.status()) * 5000)
        wait_until(lambda: not lb.server._hub.peers)
        assert lb.ask().status == 200


def test_a_second_drain_message_changes_nothing() -> None:
    with supervised(after(0.3)) as (lb, _, _, supervisor), lb.connect() as client:
        client.send(GET)
        wait_until(lambda: lb.count("in_flight") == 1)
        supervisor.send(messages.drain(5.0))
        supervisor.send(messages.drain(0.0))
        assert client.answer().status == 200
        supervisor.receive("drained")
