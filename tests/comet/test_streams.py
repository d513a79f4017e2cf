"""What a program that reads our output gets: `run --log-format json`, `events --follow`, in pipes and files."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from comet.wallclock import parse
from tests.integration.clusters import House, eventually

pytestmark = pytest.mark.slow


class Stream:
    """A command that goes on for ever, with what it has printed so far."""

    def __init__(self, process: "subprocess.Popen[str]", out: Path, wrong: Path) -> None:
        self.process = process
        self._out, self._wrong = out, wrong

    @property
    def lines(self) -> list[str]:
        """Whole lines only."""
        return self._out.read_text().split("\n")[:-1]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def stderr(self) -> str:
        return self._wrong.read_text()

    def names(self) -> list[tuple[str, str | None]]:
        return [(record["event"], record.get("replica")) for record in self.records]


@contextmanager
def streaming(house: House, *arguments: str) -> Iterator[Stream]:
    name = "-".join(arguments)
    out, wrong = house.folder / f"{name}.out", house.folder / f"{name}.err"
    with out.open("w") as stdout, wrong.open("w") as stderr:
        process = subprocess.Popen([*house.command, *arguments], cwd=house.folder, stdout=stdout, stderr=stderr, start_new_session=True)
    try:
        yield Stream(process, out, wrong)
    finally:
        process.kill()
        process.wait()


def test_a_run_told_as_json_is_one_object_a_line_and_its_events_are_the_journals(make_house: Callable[..., House]) -> None:
    house = make_house(runtime="process", worker=1, pool=1)
    with streaming(house, "run", "--log-format", "json") as told:
        eventually(lambda: any(name == "ready" for name, _ in told.names()), 60, "it says that all is ready")
        ready = next(record for record in told.records if record["event"] == "ready")
        assert [(each["name"], each["kind"]) for each in ready["replicas"]] == [("worker-0", "process"), ("lb-0", "process")]
        assert all(each["url"].startswith("http://127.0.0.1:") for each in ready["replicas"])
        assert house.comet("kill", "lb-0").returncode == 0
        eventually(lambda: told.names().count(("replica_ready", "lb-0")) == 2, 30, "the death and the return")
        exited = next(record for record in told.records if record["event"] == "replica_exited")
        assert (exited["replica"], exited["signal"], exited["code"]) == ("lb-0", "SIGKILL", -9)
        told.process.send_signal(signal.SIGTERM)
        assert told.process.wait(60) == 0
    assert told.stderr == ""
    assert all(parse(record["at"]) for record in told.records)
    assert {name for name, _ in told.names()} >= {"step", "supervisor_started", "replica_starting", "ready", "supervisor_stopped"}
    events = [record for record in told.records if "number" in record]
    assert events == house.events()


def test_a_failed_start_told_as_json_is_an_object_too(make_house: Callable[..., House]) -> None:
    house = make_house(runtime="process", worker=1, pool=1, worker_command="sh -c 'exit 3'", avg_delay=None, failure=None)
    done = house.comet("run", "--log-format", "json")
    assert done.returncode == 1
    (failed,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (failed["event"], failed["exit_code"]) == ("failed", 1)
    assert failed["text"].startswith("worker-0 does not become ready")
    assert all("event" in json.loads(line) for line in done.stdout.splitlines())


def test_events_are_followed_through_deaths_of_replicas_and_supervisors(make_house: Callable[..., House]) -> None:
    house = make_house(runtime="process", worker=1, pool=1)
    house.start()
    with streaming(house, "events", "--follow", "--json", "--tail", "1") as told, streaming(house, "events", "--follow") as text:
        eventually(lambda: told.lines and text.lines, 30, "the past")
        assert len(told.lines) == 1
        assert house.comet("kill", "worker-0").returncode == 0
        eventually(lambda: ("replica_ready", "worker-0") in told.names()[1:], 30, "the kill and the return")
        supervisor = psutil.Process(house.supervisor_pid())
        supervisor.kill()
        supervisor.wait()
        house.start()
        eventually(lambda: ("adopted", "lb-0") in told.names(), 30, "the successor's events")
        house.stop()
        eventually(lambda: told.names()[-1] == ("supervisor_stopped", None), 30, "the end")
        journal = house.events()
        assert told.records == journal[-len(told.records) :]
        numbers = [record["number"] for record in told.records]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        eventually(lambda: text.lines[-1].endswith("supervisor stopped"), 30, "the same as text")
        assert any(line.endswith("worker-0 exited: SIGKILL") or "worker-0 exited: SIGKILL, noticed after" in line for line in text.lines)
        assert len(text.lines) == len(journal)
        for each in (told, text):
            each.process.send_signal(signal.SIGINT)
            assert each.process.wait(30) == 130
            assert each.stderr == ""
