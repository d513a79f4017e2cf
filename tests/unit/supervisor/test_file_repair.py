"""Which workers are rolled after a folder that they have mounted was made again."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from comet.common.errors import Busy, UserError
from comet.state.directory import Cluster
from comet.supervisor.file_repair import FileRepair


class Operations:
    """Notes what is to be renewed; refuses while another operation runs."""

    def __init__(self) -> None:
        self.renewed: list[list[str]] = []
        self.busy = False
        self.meanwhile: Callable[[], None] = lambda: None

    async def replace_stale(self, names: list[str]) -> None:
        if self.busy:
            raise Busy("a renewal is under way")
        self.renewed.append(names)
        self.meanwhile()


def removed(folder: Path) -> None:
    """The new folder may get the inode number of the removed one."""
    folder.rmdir()


def renamed(folder: Path) -> None:
    folder.rename(folder.with_name("former"))


class Repaired:
    """The repair of a cluster of two workers, each of which has mounted the folder of the faults."""

    def __init__(self, directory: Path) -> None:
        self.operations = Operations()
        self.replicas = {
            name: SimpleNamespace(instance=1, spec=SimpleNamespace(launch=None)) for name in ("worker-0", "worker-1")
        }
        fleet: Any = SimpleNamespace(
            supervisor=SimpleNamespace(replicas=self.replicas),
            watchdogs=SimpleNamespace(database=None),
            state=SimpleNamespace(enabled=True),
            runtime_of=lambda replica: SimpleNamespace(
                keeps_mounts=lambda spec: True, has_lost_access=lambda replica: False
            ),
        )
        unknown: Any = mock.Mock()
        config: Any = SimpleNamespace(custom_service=False)
        operations: Any = self.operations
        self.told: list[str] = []
        cluster = Cluster(directory)
        self.folder = cluster.path("faults")
        self.folder.mkdir(parents=True)
        self._repair = FileRepair(
            *(cluster, unknown, fleet, unknown, unknown, unknown, unknown),
            *(lambda: config, lambda: operations, lambda event: self.told.append(event.fields["reason"])),
        )
        self._repair.watch_mounts()

    async def look(self) -> None:
        self._repair._check_mounts()
        self._repair._roll()
        await asyncio.sleep(0)  # One turn of the loop, in which the roll is asked for.

    def close(self) -> None:
        self._repair.close()


@pytest.mark.parametrize("remove", [removed, renamed])
@pytest.mark.parametrize("looks", [0, 1], ids=["before the first check", "after a check"])
def test_workers_of_a_recreated_folder_are_rolled(tmp_path: Path, looks: int, remove: Callable[[Path], None]) -> None:
    async def check() -> list[list[str]]:
        repaired = Repaired(tmp_path)
        for _ in range(looks):
            await repaired.look()
        remove(repaired.folder)
        repaired.folder.mkdir()
        for _ in range(3):
            await repaired.look()
        repaired.close()
        return repaired.operations.renewed

    assert asyncio.run(check()) == [["worker-0", "worker-1"]]


def test_a_folder_recreated_in_a_roll_rolls_the_replaced_again(tmp_path: Path) -> None:
    async def check() -> list[list[str]]:
        repaired = Repaired(tmp_path)

        def recreate(name: str) -> None:
            repaired.folder.rename(tmp_path / name)
            repaired.folder.mkdir()

        def midway() -> None:
            repaired.operations.meanwhile = lambda: None
            repaired.replicas["worker-0"].instance += 1
            recreate("second")
            repaired._repair._check_mounts()
            repaired.replicas["worker-1"].instance += 1

        repaired.operations.meanwhile = midway
        recreate("first")
        for _ in range(4):
            await repaired.look()
        repaired.close()
        return repaired.operations.renewed

    assert asyncio.run(check()) == [["worker-0", "worker-1"], ["worker-0"]]


@pytest.mark.parametrize(("replaced", "renewed"), [((), ["worker-0", "worker-1"]), (("worker-1",), ["worker-0"])])
def test_what_another_operation_has_replaced_is_not_rolled_again(
    tmp_path: Path, replaced: tuple[str, ...], renewed: list[str]
) -> None:
    async def check() -> list[list[str]]:
        repaired = Repaired(tmp_path)
        repaired.folder.rename(tmp_path / "former")
        repaired.folder.mkdir()
        repaired.operations.busy = True
        await repaired.look()
        for name in replaced:
            repaired.replicas[name].instance += 1
        repaired.operations.busy = False
        for _ in range(3):
            await repaired.look()
        repaired.close()
        return repaired.operations.renewed

    assert asyncio.run(check()) == [renewed]


def test_a_failed_roll_is_retried_more_rarely_and_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    async def check() -> tuple[list[float], list[str]]:
        nonlocal clock
        repaired = Repaired(tmp_path)
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock)
        attempts: list[float] = []

        def fail() -> None:
            attempts.append(clock)
            if len(attempts) < 5:
                raise UserError("the replacement does not become ready")

        repaired.operations.meanwhile = fail
        repaired.folder.rename(tmp_path / "former")
        repaired.folder.mkdir()
        while clock < 60:
            await repaired.look()
            clock += 1
        repaired.close()
        return attempts, repaired.told

    attempts, told = asyncio.run(check())
    assert attempts == [0, 1, 3, 7, 15]
    assert told == ["workers cannot be replaced: the replacement does not become ready"]
