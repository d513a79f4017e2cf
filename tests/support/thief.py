"""A service that is asked over HTTP to read files, to look around and to signal others, and says what came of it."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from tests.support.cluster import PYTHON, TestCluster, open_cluster

USER = 23456
"""An ordinary user who runs a cluster; numbers need no entry in /etc/passwd."""
THIEF = r"""
import ctypes, json, os, socket, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def read(path):
    if os.path.isdir(path):
        return " ".join(sorted(os.listdir(path)))
    with open(path, "rb") as file:
        return file.read(65536).decode(errors="replace")

def kill(pid):
    os.kill(int(pid), 0)

def trace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, int(pid), None, None) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")

def link(target):
    path = f"/tmp/thief-{os.getpid()}"
    os.symlink(target, path)
    try:
        return read(path)
    finally:
        os.unlink(path)

def execute(*argv):
    return subprocess.run(argv, capture_output=True, text=True).stdout

def reopen(path):
    with open(path, "a") as file:
        file.write("reopened\n")

def second_name(path):
    other = f"/tmp/thief-{os.getpid()}.log"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.linkat(-100, path.encode(), -100, other.encode(), 0x400) == -1:  # AT_FDCWD, AT_SYMLINK_FOLLOW
        raise OSError(ctypes.get_errno(), "linkat")
    os.unlink(other)

def open_up(path):
    os.chmod(path, 0o666)

def look():
    status = dict(line.split(":\t", 1) for line in read("/proc/self/status").splitlines() if ":\t" in line)
    fds = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            fds[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            pass
    return {"status": status, "fds": fds, "environ": dict(os.environ), "ppid": os.getppid(), "cwd": os.getcwd()}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer("ok")
    def do_POST(self):
        name, *arguments = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self.answer(globals()[name](*arguments))
        except OSError as error:
            self.answer({"errno": error.errno})
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

held = os.environ.get("LISTEN_FDS")
address = ("127.0.0.1", 0 if held else int(sys.argv[1]))
server = ThreadingHTTPServer(address, Handler, bind_and_activate=not held)
if held:
    server.socket.close()
    server.socket = socket.socket(fileno=3)
server.serve_forever()
"""


class Thief:
    """A running service that does what it is asked."""

    def __init__(self, cluster: TestCluster) -> None:
        self.cluster = cluster
        self.pid = int(cluster.replicas()["worker-0"]["pid"])

    def asked(self, name: str, *arguments: Any) -> Any:
        return requests.post(self.cluster.worker(), data=json.dumps([name, *arguments]), timeout=20).json()

    def is_refused(self, name: str, *arguments: Any) -> bool:
        return self.asked(name, *arguments) in ({"errno": 13}, {"errno": 1})


def service(folder: Path, user: int | None = None, **config: Any) -> contextlib.AbstractContextManager[TestCluster]:
    (folder / "thief.py").write_text(THIEF)
    own = {
        "runtime": "process",
        "worker_command": f"{PYTHON} thief.py {{port}}",
        "worker_user": None,
        "avg_delay": None,
        "failure": None,
    }
    made = open_cluster(folder, worker=1, pool=1, health_path="/", shutdown_grace=1, **(own | config))
    return made if user is None else as_user(folder, user, made)


@contextlib.contextmanager
def as_user(folder: Path, user: int, made: contextlib.AbstractContextManager[TestCluster]) -> Iterator[TestCluster]:
    """The cluster as this user's. That user may read everything, as the tests' interpreter may lie in root's home: a
    right that workers must not inherit.
    """
    with made as cluster:
        for path in (folder, *folder.iterdir()):
            os.chown(path, user, user)
        ids = (
            f"--reuid={user}",
            f"--regid={user}",
            "--clear-groups",
            "--inh-caps=+dac_read_search",
            "--ambient-caps=+dac_read_search",
        )
        cluster.command = ("setpriv", *ids, *cluster.command)
        yield cluster


def no_rights(status: dict[str, str]) -> bool:
    none = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
    return all(int(status[name], 16) == 0 for name in none) and status["NoNewPrivs"].strip() == "1"


def status_of(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
