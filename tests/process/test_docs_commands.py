"""The commands on the pages, typed as they stand there. Only ports and the places of the project's files are the test's
own.

`sh` blocks are commands; `console` blocks hold commands after a `$ ` and, below each, what it prints. A block that
names a test file next to its language is run there. A line of output has to occur in what the command prints; words
with digits (times, ids) may differ.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from comet.state.directory import Cluster
from comet.state.lock import Lock
from tests.support.cluster import TestCluster
from tests.support.pages import ROOT
from tests.support.waiting import PATIENCE, wait_until
from tests.unit.docs.test_commands import PAGES, typed

UNTIL_READ = 1.0
"""Seconds for which a command that follows something is let run."""


def shape(line: str) -> str:
    return " ".join(re.sub(r"[\w.:-]*\d[\w.:-]*", "#", line).split())


class Shell:
    """A user who types commands in the folder of a cluster."""

    def __init__(self, cluster: TestCluster) -> None:
        self.cluster = cluster
        first = cluster.config["load-balancer-port"]
        ports = {
            "5050": first,
            "5051": first + 1,
            "6000": first + 10,
            "6001": first + 11,
            "5040": cluster.config["admin-port"],
        }
        more = {"8080": first + 30, "5150": first + 31, "6100": first + 34, "5140": first + 38}
        self._ports = {name: str(port) for name, port in (ports | more).items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "HOME": str(cluster.folder), "BROWSER": "true"}

    def translated(self, command: str) -> str:
        command = re.sub(r"(?<![\w/.])(supervisor\.py|scripts/\w+\.sh)", rf"{ROOT}/\1", command)
        command = re.sub(r"(?<=[:\s])(\d{4})(?=\b)", lambda found: self._ports.get(found[1], found[1]), command)
        return re.sub(r" \| jq .*", "", command)

    def type(self, command: str, expected: list[str]) -> None:
        """Run a command and compare what it prints; a command that only reads is repeated until it prints that."""
        if self._goes_on(command):
            self._interrupt(command)
            return

        reads = "curl" in command or "supervisor.py events" in command

        def complete() -> bool:
            nonlocal printed
            done = self._run(command)
            printed = done.stdout + done.stderr
            if reads and done.returncode:  # Whom it asks may be about to start.
                return False
            assert done.returncode == 0, f"{command}: {done.returncode}\n{printed}"
            shapes = {shape(line) for line in printed.splitlines()}
            return all(shape(line) in shapes for line in expected)

        printed = ""
        if not complete():
            assert reads, f"{command} prints\n{printed}\nand not\n" + "\n".join(expected)
            wait_until(complete, 30, f"{command} prints " + "\n".join(expected))

    def _run(self, command: str) -> "subprocess.CompletedProcess[str]":
        plain = re.fullmatch(r"python supervisor\.py ([^|&;<>$~']+)", command)
        if plain and not re.search("scenario|--open", command):
            return self.cluster.comet(*plain[1].split())
        return subprocess.run(
            ["bash", "-c", self.translated(command)], cwd=self.cluster.folder, env=self.environment,
            capture_output=True, text=True,
            timeout=180 * PATIENCE, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def prepare(self, command: str) -> None:
        """Have the cluster up, or down for a command that starts or cleans it."""
        up = Lock(Cluster(self.cluster.folder)).holder() is not None
        if (
            re.match(r"python supervisor\.py( run\b.*| clean| --.*)?$", command)
            and "second" not in command
            and "other" not in command
        ):
            if up:
                self.cluster.stop()
        elif not up and not re.search("completion|check|doctor|help", command):
            self.cluster.start()

    def _goes_on(self, command: str) -> bool:
        starts = re.match(r"python supervisor\.py( run\b.*)?$", command) and "--detach" not in command
        return bool(starts or re.search(r"--follow|--watch|python -m lb", command))

    def _interrupt(self, command: str) -> None:
        """Run it until it shows that it works, then press Ctrl-C."""
        with subprocess.Popen(
            ["bash", "-c", f"exec {self.translated(command)}"], cwd=self.cluster.folder, env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                if "-m lb" in command:
                    address = f"http://127.0.0.1:{self._ports['8080']}/healthz"
                    wait_until(lambda: _answers(address), 30, command)
                elif re.search("--follow|--watch", command):
                    with pytest.raises(subprocess.TimeoutExpired):
                        process.wait(UNTIL_READ)
                else:
                    wait_until(
                        lambda: all(row["state"] == "ready" for row in self.cluster.ps()["replicas"]) and self._is_up(),
                        60,
                        command,
                    )
                os.killpg(process.pid, signal.SIGINT)
                printed, _ = process.communicate(timeout=60 * PATIENCE)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert process.returncode in (0, 130, -signal.SIGINT), f"{command}: {process.returncode}\n{printed}"

    def _is_up(self) -> bool:
        snapshot = self.cluster.ps()
        return bool(snapshot["supervisor"]["running"] and snapshot["replicas"])


def _answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5 * PATIENCE).status_code == 200
    except requests.RequestException:
        return False


@pytest.fixture
def make_shell(tmp_path: Path) -> Iterator[Callable[..., Shell]]:
    """A shell in the folder of a new cluster, with the other folders and files that the pages speak of."""
    made: list[TestCluster] = []

    def make(**config: Any) -> Shell:
        mine = TestCluster(tmp_path, **config)
        mine.write(admin_port=mine.config["load-balancer-port"] + 40)
        made.append(mine)
        (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
        (tmp_path / "my.yaml").write_text("clients: 1\nsteps:\n  - for: 1s\n")
        (tmp_path / "other").mkdir()
        other = TestCluster(tmp_path / "other", runtime="process", worker=1, pool=1)
        made.append(other)
        made.append(TestCluster.__new__(TestCluster))
        made[-1].__dict__.update(other.__dict__ | {"folder": tmp_path / "second"})
        return Shell(mine)

    try:
        yield make
    finally:
        for each in made:
            each.destroy()


@pytest.mark.docker
def test_the_commands_of_the_readme(make_shell: Callable[..., Shell]) -> None:
    shell = make_shell(worker=3, avg_delay=50, failure=40)
    for command, expected in typed("README.md"):
        shell.type(command, expected)
    shell.cluster.stop()
    shell.cluster.assert_nothing_left()


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page(page: str, make_shell: Callable[..., Shell]) -> None:
    shell = make_shell(runtime="process", avg_delay=5, failure=0)
    for command, expected in typed(page):
        shell.prepare(command)
        shell.type(command, expected)
