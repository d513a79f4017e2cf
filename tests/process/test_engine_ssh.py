"""Engines reached by ssh: the command that is run for an address, what the SDK does through it, and its troubles in one
line each.

The ssh command here is a script that stands in its place on PATH; a real one is in tests/swarm/test_remote_manager.py.
"""

import contextlib
import gc
import http.server
import os
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from comet.engine import ssh
from comet.engine.connection import connect_manager
from comet.engine.engine_error import EngineError
from tests.support.waiting import wait_until

RELAY = f"""#!{sys.executable}
import os, socket, sys, threading
engine = socket.socket(socket.AF_UNIX)
engine.connect(os.environ["FAKE_ENGINE"])
def up():
    while piece := os.read(0, 65536):
        engine.sendall(piece)
    engine.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while piece := engine.recv(65536):
    os.write(1, piece)
"""


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "silent" in self.path:
            time.sleep(3)
        body = b'{"ApiVersion": "1.41", "asked": "%s"}' % self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is the ssh command while the test lasts."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "ssh"


def script(place: Path, content: str) -> None:
    place.write_text(content)
    place.chmod(0o755)


@pytest.fixture
def engine(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    script(place, RELAY)
    monkeypatch.setenv("FAKE_ENGINE", str(tmp_path / "sock"))
    with Server(str(tmp_path / "sock"), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "rest"),
    [
        ("ssh://h1", ["--", "h1", "docker system dial-stdio"]),
        ("ssh://me@H1.example:2222", ["-l", "me", "-p", "2222", "--", "H1.example", "docker system dial-stdio"]),
        ("ssh://me@[fd00::1]:22", ["-l", "me", "-p", "22", "--", "fd00::1", "docker system dial-stdio"]),
        ("ssh://h1/run/my docker.sock", ["--", "h1", "docker --host unix://'/run/my docker.sock' system dial-stdio"]),
        (
            "ssh://DOM%5Cme@h1/my%20docker.sock",
            ["-l", "DOM\\me", "--", "h1", "docker --host unix://'/my docker.sock' system dial-stdio"],
        ),
        ("ssh://-oProxyCommand=x", ["--", "-oProxyCommand=x", "docker system dial-stdio"]),
    ],
)
def test_the_command_of_an_address(address: str, rest: list[str]) -> None:
    words = ssh.command(address, 15)
    assert words[0] == "ssh"
    assert words[-len(rest) :] == rest
    assert {"BatchMode=yes", "ConnectTimeout=15"} <= set(words)


@pytest.mark.parametrize(
    "address",
    [
        "ssh://",
        "ssh://me@",
        "ssh://me:secret@h1",
        "ssh://h1:port",
        "ssh://h1:0",
        "ssh://h1?x=1",
        "ssh://[fd00::1",
        "ssh://[x]:22",
        "ssh://h1\nfoo",
    ],
)
def test_what_is_no_address_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(EngineError, match=r"ssh://\[user@\]host") as refused:
        ssh.command(address, 15)
    assert "secret" not in refused.value.message
    assert "\n" not in refused.value.message


def test_the_sdk_speaks_through_it_and_leaves_no_process(engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://h1")
    with contextlib.closing(connect_manager()) as client:
        assert client.api.api_version == "1.41"
        for _ in range(3):
            assert client.info()["asked"] == "/v1.41/info"
        assert len(ours()) == 1, "one connection serves request after request"
    wait_until(lambda: not ours(), 10, "their end")


def ours() -> list[psutil.Process]:
    found = []
    for each in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # It has ended meanwhile.
            if each.status() != psutil.STATUS_ZOMBIE and "docker system dial-stdio" in each.cmdline():
                found.append(each)
    return found


def test_an_answer_that_does_not_come_ends_the_wait(engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine the first answer takes longer than this wait.
    monkeypatch.setattr(ssh, "_version", lambda *_: "1.41")
    client = ssh.connect("ssh://h1", 1, 2)
    with contextlib.closing(client), pytest.raises(Exception, match="timed out"):
        client.api.inspect_container("silent")


def test_threads_that_reconnect_at_once_share_no_connection(engine: None) -> None:
    commands = ssh.Commands(["true"])
    barrier = threading.Barrier(4)
    errors: list[BaseException] = []

    def connect() -> None:
        try:
            for _ in range(30):
                barrier.wait(60)
                commands.add().socket.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=connect) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    commands.close()
    assert errors == []


def test_an_ssh_that_outlives_its_connection_is_killed(place: Path) -> None:
    script(place, "#!/bin/sh\nsleep 61 & sleep 60\n")
    commands = ssh.Commands(["ssh", "docker system dial-stdio"])

    gc.collect()
    open_before = psutil.Process().num_fds()
    for _ in range(3):
        commands.add().socket.close()
        time.sleep(ssh.EXIT_TIMEOUT / 2)
    first = commands.add()
    time.sleep(ssh.EXIT_TIMEOUT * 1.2)
    commands.add().socket.close()
    # A process has no command line for a moment, while it becomes the program (execve(2)).
    wait_until(lambda: len(ours()) == 2, what="who is still connected, and the last one")
    first.socket.close()
    commands.close()
    assert ours() == []
    assert psutil.Process().num_fds() <= open_before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "#!/bin/sh\necho 'me@h1: Permission denied (publickey).' >&2\nexit 255\n",
            "me@h1: Permission denied (publickey).",
        ),
        ("#!/bin/sh\nprintf 'warning\\n\\nsh: docker: not found\\n' >&2\nexit 127\n", "sh: docker: not found"),
        ("#!/bin/sh\nsleep 60\n", "no answer within 1 s"),
        (
            "#!/bin/sh\nprintf 'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}'\nsleep 3\n",
            "what answers there is no Docker engine",
        ),
        ("#!/bin/sh\necho hello\nsleep 3\n", "what answers there is no Docker engine"),
    ],
)
def test_troubles_are_one_line_with_the_commands_own_words(place: Path, content: str, words: str) -> None:
    script(place, content)
    silent = words == "no answer within 1 s"
    with pytest.raises(EngineError) as trouble:
        ssh.connect("ssh://me@h1", 1 if silent else 60, 2)
    assert trouble.value.message == f"the Docker engine at ssh://me@h1 cannot be used: {words}"


def test_without_an_ssh_command_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="apt-get install openssh-client"):
        ssh.connect("ssh://h1", 1, 2)
