"""What a program that reads our output gets: `run --log-format json`, `events --follow`, in pipes and files."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from comet.common.clock import parse
from tests.support.cluster import ROOT, TestCluster
from tests.support.waiting import PATIENCE, wait_until


class Stream:
    """A command that goes on for ever, with what it has printed so far."""

    def __init__(self, process: "subprocess.Popen[str]", out: Path, wrong: Path) -> None:
        self.process = process
        self._out, self._wrong = out, wrong

    @property
    def lines(self) -> list[str]:
        """Whole lines only."""
        return [line.decode() for line in self._out.read_bytes().split(b"\n")[:-1]]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def stderr(self) -> str:
        return self._wrong.read_text()

    def names(self) -> list[tuple[str, str | None]]:
        return [(record["event"], record.get("replica")) for record in self.records]


@contextmanager
def streaming(cluster: TestCluster, *arguments: str) -> Iterator[Stream]:
    name = f"{'-'.join(arguments)}-{uuid.uuid4()}"  # The same command may stream twice.
    out, wrong = cluster.folder / f"{name}.out", cluster.folder / f"{name}.err"
    with out.open("x") as stdout, wrong.open("x") as stderr:
        process = subprocess.Popen(
            [*cluster.command, *arguments], cwd=cluster.folder, stdout=stdout, stderr=stderr, start_new_session=True
        )
    try:
        yield Stream(process, out, wrong)
    finally:
        process.kill()
        process.wait()


def test_run_log_format_json_is_an_object_a_line(
    make_cluster: Callable[..., TestCluster],
) -> None:
    cluster = make_cluster(runtime="process", worker=1, pool=1)
    with streaming(cluster, "run", "--log-format", "json") as told:
        wait_until(lambda: any(name == "ready" for name, _ in told.names()), 60, "it says that all is ready")
        ready = next(record for record in told.records if record["event"] == "ready")
        assert [(each["name"], each["kind"]) for each in ready["replicas"]] == [
            ("worker-0", "process"),
            ("lb-0", "process"),
        ]
        assert all(each["url"].startswith("http://127.0.0.1:") for each in ready["replicas"])
        assert cluster.comet("kill", "lb-0").returncode == 0
        wait_until(lambda: told.names().count(("replica_ready", "lb-0")) == 2, 30, "the death and the return")
        exited = next(record for record in told.records if record["event"] == "replica_exited")
        assert (exited["replica"], exited["signal"], exited["code"]) == ("lb-0", "SIGKILL", -9)
        told.process.send_signal(signal.SIGTERM)
        assert told.process.wait(60) == 0
    assert told.stderr == ""
    assert all(parse(record["at"]) for record in told.records)
    assert {name for name, _ in told.names()} >= {
        "step",
        "supervisor_started",
        "replica_starting",
        "ready",
        "supervisor_stopped",
    }
    events = [record for record in told.records if "number" in record]
    assert events == cluster.events()


def test_a_failed_start_told_as_json_is_an_object_too(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(
        runtime="process", worker=1, pool=1, worker_command="sh -c 'exit 3'", avg_delay=None, failure=None
    )
    done = cluster.comet("run", "--log-format", "json")
    assert done.returncode == 1
    (failed,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (failed["event"], failed["exit_code"]) == ("failed", 1)
    assert failed["text"].startswith("worker-0 does not become ready")
    assert all("event" in json.loads(line) for line in done.stdout.splitlines())


def test_followed_events_survive_deaths_of_supervisors(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(runtime="process", worker=1, pool=1)
    cluster.start()
    with (
        streaming(cluster, "events", "--follow", "--json", "--tail", "1") as told,
        streaming(cluster, "events", "--follow") as text,
    ):
        wait_until(lambda: told.lines and text.lines, 30, "the past")
        with streaming(cluster, "events", "--follow") as left:
            wait_until(lambda: left.lines, 30, "the past")
            left.process.send_signal(signal.SIGINT)
            assert (left.process.wait(30 * PATIENCE), left.stderr) == (130, "")
        assert len(told.lines) == 1
        assert cluster.comet("kill", "worker-0").returncode == 0
        wait_until(lambda: ("replica_ready", "worker-0") in told.names()[1:], 30, "the kill and the return")
        supervisor = psutil.Process(cluster.supervisor_pid())
        supervisor.kill()
        supervisor.wait()
        cluster.start()
        wait_until(lambda: ("adopted", "lb-0") in told.names(), 30, "the successor's events")
        cluster.stop()
        wait_until(lambda: told.names()[-1] == ("supervisor_stopped", None), 30, "the end")
        journal = cluster.events()
        assert told.records == journal[-len(told.records) :]
        numbers = [record["number"] for record in told.records]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        wait_until(lambda: text.lines[-1].endswith("supervisor stopped"), 30, "the same as text")
        assert any(
            line.endswith("worker-0 crashed: SIGKILL") or "worker-0 crashed: SIGKILL, noticed after" in line
            for line in text.lines
        )
        assert len(text.lines) == len(journal), text.lines
        for each in (told, text):
            assert each.process.wait(30 * PATIENCE) == 0, "it ends with the cluster"
            assert each.stderr == ""


def test_a_reader_that_has_gone_is_no_failure(make_cluster: Callable[..., TestCluster]) -> None:
    """Whatever prints: tables as well as lines (`| head`)."""
    cluster = make_cluster(runtime="process", worker=1, pool=1)
    cluster.start()
    listings = ["ps", "ps --json", "ps --tree", "stats", "faults", "inspect lb-0", "events", "logs", "doctor"]
    for words in map(str.split, listings):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [*cluster.command, *words], cwd=cluster.folder, stdout=writing, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, ""), words
    cluster.stop()


@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_of_the_output_is_named(make_cluster: Callable[..., TestCluster], buffered: bool) -> None:
    """Also where Python writes what was printed at its end only."""
    cluster = make_cluster(runtime="process", worker=1, pool=1)
    cluster.environment["PYTHONUNBUFFERED"] = "" if buffered else "1"
    for words in (["ps", "--json"], ["check"], ["doctor"], ["completion", "bash"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*cluster.command, *words], cwd=cluster.folder, env=os.environ | cluster.environment, stdout=full,
                stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
        said = "the output: the disk is full (No space left on device): free some space\n"
        assert (done.returncode, done.stderr) == (1, said), words


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", ["help", "help ps", "--version", "--help", "ps --help", "completion names"])
def test_a_full_disk_is_named_by_what_the_parser_prints_too(tmp_path: Path, words: str, buffered: bool) -> None:
    (tmp_path / "config.yaml").write_text("worker: 1\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, str(ROOT / "supervisor.py"), *words.split()], cwd=tmp_path, stdout=full,
            env=os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    said = "the output: the disk is full (No space left on device): free some space\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("words", ["--version", "help", "ps --help"])
def test_a_reader_that_has_gone_gets_no_complaint_of_the_parser(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, str(ROOT / "supervisor.py"), *words.split()], stdout=writing, stderr=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_followed_events_end_with_their_reader(make_cluster: Callable[..., TestCluster]) -> None:
    """Also while nothing happens."""
    cluster = make_cluster(runtime="process", worker=1, pool=1)
    cluster.start()
    with subprocess.Popen(
        [*cluster.command, "events", "--follow"], cwd=cluster.folder, stdout=subprocess.PIPE
    ) as unread:
        assert unread.stdout is not None
        unread.stdout.readline()
        unread.stdout.close()
        try:
            assert unread.wait(60) == 0
        finally:
            unread.kill()
    cluster.stop()
