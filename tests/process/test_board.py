"""The board on a real terminal, with real clusters of processes; and its lines at every size."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from tests.support.cluster import TestCluster
from tests.support.terminal import COLOUR, Terminal, terminal
from tests.support.waiting import wait_until

NARROW = 60


def in_shell(cluster: TestCluster, *arguments: str) -> list[str]:
    """A command between two looks at the terminal's settings, in a shell that outlives Ctrl-C; the second one after a
    key.
    """
    command = " ".join([*cluster.command, *arguments])
    return [
        "sh",
        "-c",
        f"trap : INT; stty -g > before; {command}; echo code $?; read key; stty -g > after; echo over; read key",
    ]


def assert_given_back(shown: Terminal, cluster: TestCluster) -> None:
    shown.type("\r")
    shown.shows("over")
    assert (cluster.folder / "after").read_text() == (cluster.folder / "before").read_text()
    assert shown.output.rfind(b"\x1b[?1049l") > shown.output.rfind(b"\x1b[?1049h") >= 0
    assert shown.output.rfind(b"\x1b[?25h") > shown.output.rfind(b"\x1b[?25l")


def child_with(parent: int, word: str) -> psutil.Process:
    """The child that has this word on its command line; others may be about to end."""
    for process in psutil.Process(parent).children():
        with contextlib.suppress(psutil.Error):
            if word in process.cmdline():
                return process
    raise AssertionError(word)


def board_of(cluster: TestCluster) -> psutil.Process | None:
    """The process of the board, from its first moment on."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "--feed-fd" in words and words[-1].startswith(f"{cluster.folder}/"):
                return process
    return None


def rows_of(text: str) -> list[str]:
    return re.findall(r"^((?:supervisor|lb-\d+|worker-\d+) +.*(?:ready|starting|backoff).*)$", text, re.MULTILINE)


def test_a_run_on_a_terminal_is_a_board_until_ctrl_c(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(runtime="process")
    with terminal(in_shell(cluster), cluster.folder) as shown:
        text = shown.shows(lambda text: "LAST EVENTS" in text and len(rows_of(text)) == 5)
        assert "✓" not in text
        assert cluster.comet("kill", "worker-0").returncode == 0
        shown.shows(lambda text: re.search(r"worker-0 .* ready .* 1  SIGKILL", text))
        shown.type("?")
        shown.shows("Ctrl-C     drains, stops and removes the cluster")
        shown.type("x")
        shown.shows("LAST EVENTS")
        shown.type("q")
        shown.shows("Leave the board?")
        shown.type("\x1b")
        shown.resize(NARROW, 24)
        shown.shows(
            lambda text: (
                "IN FLIGHT" not in text
                and "REQ/S" in text
                and "q leave" in text.splitlines()[-1]
                and len(rows_of(text)) == 5
            )
        )
        # A terminal that stands still holds nothing up.
        shown.type("\x13")
        cluster.comet("kill", "lb-0")
        wait_until(lambda: len(cluster.events("replica_ready", "lb-0")) == 2, 30, "lb-0 is back")
        shown.type("\x11")
        shown.shows(lambda text: re.search(r"lb-0 .* ready .* 1  SIGKILL", text))
        shown.type("\x03")
        shown.shows("supervisor stopped")
        shown.shows("code 0")
        assert_given_back(shown, cluster)
    cluster.assert_nothing_left()


def test_leaving_an_attached_board_keeps_the_cluster_running(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(runtime="process")
    cluster.start()
    with terminal(in_shell(cluster, "ps", "--watch"), cluster.folder, NO_COLOR="1") as shown:
        shown.shows("LAST EVENTS")
        assert not COLOUR.search(shown.output.decode(errors="replace"))
        shown.type("q")
        shown.shows("code 0")
        assert_given_back(shown, cluster)
    with terminal(in_shell(cluster, "ps", "--watch"), cluster.folder) as shown:
        shown.shows("LAST EVENTS")
        assert COLOUR.search(shown.output.decode(errors="replace"))
        shown.type("j")
        shown.shows("lb-0: x kill · r restart · d drain · l log")
        shown.type("l")
        shown.shows(lambda text: "Log of lb-0" in text and "accepts on port" in text)
        shown.type("q")
        shown.shows("LAST EVENTS")
        shown.type("jj")
        shown.shows("worker-0: x kill")
        shown.type("x")
        shown.shows("kill worker-0?")
        shown.type("y")
        shown.shows("kill worker-0: done")
        shown.shows(lambda text: re.search(r"worker-0 .* ready .* 1  SIGKILL", text))
        for key, order in (("d", "drain"), ("d", "undrain"), ("r", "restart")):
            shown.shows(
                lambda text, order=order: ("drained" in text.partition("LAST EVENTS")[0]) == (order == "undrain")
            )
            before = cluster.replicas()["worker-0"]
            shown.type(key)
            shown.shows(f"{order} worker-0?")
            shown.type("y")
            shown.shows(f"{order} worker-0: done")
            after = cluster.replicas()["worker-0"]
            assert after["drained"] is (order == "drain")
            assert (after["pid"] != before["pid"]) is (order == "restart")
        for order in ("pause", "resume"):
            shown.type("p")
            shown.shows(f"{order} all requests?")
            shown.type("y")
            shown.shows(f"{order}: done")
            assert cluster.ps()["total"]["paused"] is (order == "pause")
            shown.shows(lambda text, order=order: ("paused: requests wait\n" in text) == (order == "pause"))
        os.kill(cluster.replicas()["lb-0"]["pid"], signal.SIGKILL)
        killed = time.monotonic()
        shown.shows(lambda text: re.search(r"lb-0 +crashed: SIGKILL", text))
        print(f"seen on the board {1000 * (time.monotonic() - killed):.0f} ms after the kill")
        shown.shows(lambda text: re.search(r"lb-0 .* SIGKILL ", text.partition("LAST EVENTS")[0]))
        child_with(shown.pid, "--watch").terminate()
        shown.shows("code 143")
        assert_given_back(shown, cluster)
    assert cluster.ps()["supervisor"]["running"]
    piped = cluster.comet("ps").stdout
    assert "\x1b" not in piped
    assert len(rows_of(piped)) == 5
    cluster.stop()


def test_in_the_background_the_board_leaves_the_terminal(
    make_cluster: Callable[..., TestCluster],
) -> None:
    cluster = make_cluster(runtime="process", worker=1, pool=1)
    with terminal(["bash", "--norc", "-i"], cluster.folder) as shown:
        shown.type(" ".join(cluster.command) + "\n")
        shown.shows("LAST EVENTS")
        shown.type("\x1a")
        shown.shows("Stopped")
        shown.type("clear; bg\n")
        shown.shows(" &")
        assert cluster.comet("kill", "worker-0").returncode == 0  # Something to draw.
        shown.type("echo $((6 * 7)); jobs\n")
        text = shown.shows("Running")
        assert "42" in text
        assert "LAST EVENTS" not in text
        shown.type("fg\n")
        shown.shows("LAST EVENTS")
        shown.type("?")
        shown.shows("drains, stops and removes the cluster")
        shown.type("\x03")
        shown.shows("supervisor stopped")
    cluster.assert_nothing_left()


def test_ctrl_c_while_the_board_starts_leaves_no_traceback(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(runtime="process", worker=1, pool=1)
    with terminal(in_shell(cluster), cluster.folder) as shown:
        wait_until(lambda: board_of(cluster)).send_signal(signal.SIGINT)
        text = shown.shows("LAST EVENTS")
        assert "Traceback" not in text
        assert "the board has ended" not in text
        shown.type("\x03")
        shown.shows("code 0")


def test_killed_boards_and_supervisors_restore_the_terminal(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(runtime="process", worker=1, pool=1)
    with terminal(in_shell(cluster), cluster.folder) as shown:
        shown.shows("LAST EVENTS")
        child_with(cluster.supervisor_pid(), "--feed-fd").kill()
        shown.shows("the board has ended; the cluster keeps running")
        cluster.comet("kill", "lb-0")
        shown.shows("lb-0 ready ")
        shown.type("\x03")
        shown.shows("supervisor stopped")
        shown.shows("code 0")
        shown.type("\r")
        shown.shows("over")
        assert (cluster.folder / "after").read_text() == (cluster.folder / "before").read_text()
    with terminal(in_shell(cluster), cluster.folder) as shown:
        shown.shows("LAST EVENTS")
        os.kill(cluster.supervisor_pid(), signal.SIGKILL)
        shown.shows("the supervisor died; its replicas keep serving")
        assert_given_back(shown, cluster)
    listed = cluster.comet("ps").stdout
    assert listed.count("(orphan)") == 2
    cluster.stop()


@pytest.mark.docker
def test_a_followed_log_continues_after_a_container_restart(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1)
    cluster.start()
    with terminal([*cluster.command, "logs", "worker-0", "--follow", "--json"], cluster.folder, 200) as shown:
        lives = r'"replica": "worker-0"'
        first = len(re.findall(lives, shown.shows(lives)))
        cluster.comet("kill", "worker-0")
        assert shown.shows(lambda text: len(re.findall(lives, text)) > first)
        shown.type("\x03")
    cluster.stop()
