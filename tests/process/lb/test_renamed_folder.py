"""A load balancer goes on with its files where the cluster's folder is renamed, whatever takes its place."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uvloop

from lb.proxy.access_log import AccessLog
from tests.support.lb import lb_and_workers
from tests.support.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OTHERS = [False, True]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "cluster"
    (made / "logs").mkdir(parents=True)
    monkeypatch.setenv("COMET_FOLDER", f"{made.stat().st_ino}:{made}")
    return made


def renamed(folder: Path, other: bool) -> Path:
    """The same folder under another name; `other`: in its place there is another one."""
    now = folder.rename(folder.with_name("renamed"))
    if other:
        (folder / "logs").mkdir(parents=True)
        (folder / "lb-faults").mkdir()
    return now


def content(folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if not each.is_dir()]


@pytest.mark.parametrize("other", OTHERS)
def test_the_access_log_follows_a_renamed_folder(folder: Path, other: bool) -> None:
    log = AccessLog(uvloop.new_event_loop(), str(folder / "logs/lb-0.access.log"), max_size=30)
    log.write({"n": 1})
    log.flush()
    now = renamed(folder, other)
    for number in (2, 3, 4):
        log.write({"n": number, "long": "x" * 10})
        log.flush()
    assert content(folder) == []
    assert (now / "logs/lb-0.access.log.1").read_text().count("\n") >= 1
    log.write({"n": 5})
    log.flush()
    assert json.loads((now / "logs/lb-0.access.log").read_text().splitlines()[-1])["n"] == 5
    now.rename(now.with_name("again"))
    log.write({"n": 6})
    log.flush()
    assert json.loads((now.with_name("again") / "logs/lb-0.access.log").read_text().splitlines()[-1])["n"] == 6


WRITES = """
import logging, os, sys
from pathlib import Path
from lb.system import log
log.MAX_BYTES = 200
log.start("logs/lb-0.log" if sys.argv[1] == "relative" else os.path.abspath("logs/lb-0.log"))
folder = Path.cwd()
logger = logging.getLogger("lb")
logger.info("before")
now = folder.rename(folder.with_name("renamed"))
if sys.argv[2] == "True":
    (folder / "logs").mkdir(parents=True)
for number in range(20):
    logger.info("line %d", number)
log.reopen()
os.remove(now / "logs/lb-0.log")
log.reopen()
logger.info("at the end")
print("printed", flush=True)
"""


@pytest.mark.parametrize("path", ["absolute", "relative"])
@pytest.mark.parametrize("other", OTHERS)
def test_the_log_follows_a_renamed_folder(folder: Path, path: str, other: bool) -> None:
    root = str(Path(__file__).parents[3])
    subprocess.run(
        [sys.executable, "-c", WRITES, path, str(other)], check=True, cwd=folder, env=os.environ | {"PYTHONPATH": root}
    )
    now = folder.with_name("renamed")
    assert content(folder) == []
    assert (now / "logs/lb-0.log").read_text().endswith("at the end\nprinted\n")
    assert "line 1" in (now / "logs/lb-0.log.1").read_text()


@pytest.mark.parametrize("other", OTHERS)
def test_faults_files_follow_a_renamed_folder(folder: Path, other: bool) -> None:
    def order(at: Path, **settings: object) -> None:
        draft = at / "lb-faults/draft"
        draft.write_text(json.dumps(settings))
        draft.rename(at / "lb-faults/worker-0.json")

    (folder / "lb-faults").mkdir()
    order(folder)
    with lb_and_workers(count=1, faults=str(folder / "lb-faults")) as (lb, _):
        assert lb.ask(GET).status == 200
        now = renamed(folder, other)
        if other:
            order(folder, failure=100)
        time.sleep(0.5)
        assert lb.ask(GET).status == 200
        order(now, overrides=[{"id": "a", "failure": 100, "count": 3}])
        wait_until(lambda: lb.upstream("worker-0").dial_address is not None, what="the fault")
        assert [lb.ask(GET).status for _ in range(5)] == [500, 500, 500, 200, 200]
        if not other:
            now.rename(folder)
            order(folder, failure=100)
            wait_until(lambda: lb.ask(GET).status == 500, what="a fault at the old place")
