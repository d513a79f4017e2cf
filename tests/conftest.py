"""Fixtures for tests of whole clusters; the tiers of the tests, which their folders say."""

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from comet.engine.connection import connect
from comet.host.sockets import PORTS_VARIABLE
from lb.system.compiled import THROW_WARNING
from tests.support.cluster import EVIDENCE, OPEN, ROOT, TestCluster, evidence, open_cluster
from tests.support.engines import PrivateEngine, private_engine
from tests.support.shared import SharedCluster, shared_cluster

if TYPE_CHECKING:
    from tests.support import postgres

# What the benches and `compare` start on ports of their own choice, too: one that is between two of its lives must not
# meet another's.
_width = (32000 - 25000) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_first = 25000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) * _width
os.environ[PORTS_VARIABLE] = f"{_first}-{_first + _width - 1}"


AS_ROOT = [] if os.getuid() == 0 else ["sudo", "-n"]

# A script's `&` starts its command with Ctrl-C ignored, and nohup with the hang-up: what tests start would inherit
# that, and heed it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the test's clusters did."""
    report = yield
    if report.failed:
        report.sections.extend(("cluster", text) for text in (*EVIDENCE, *map(evidence, OPEN)))
    EVIDENCE.clear()
    return report


@pytest.fixture(autouse=True, scope="session")
def _pytests_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """pytest's common folders, which the tests of all processes share."""
    common = tmp_path_factory.getbasetemp().parent
    CLOSED.extend(folder for folder in (common, common.parent) if folder.name.startswith("pytest-"))
    return CLOSED


CLOSED: list[Path] = []


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """A test that needs an open folder takes `open_folder`.

    pytest closes its common folder at the start of each session, nested ones included. Had a test opened it, workers of
    root in all lanes would then be replaced: a folder above their files was closed to them.
    """
    for folder in CLOSED:
        assert not folder.stat().st_mode & 0o077, f"{folder} was opened to other users"


@pytest.fixture
def make_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., TestCluster]]:
    """Makes clusters in folders of their own: make_cluster(worker=3, runtime="process")."""
    with ExitStack() as stack:

        def make(**config: Any) -> TestCluster:
            return stack.enter_context(open_cluster(tmp_path_factory.mktemp("cluster"), **config))

        yield make


@pytest.fixture(scope="module")
def share_cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., SharedCluster]]:
    """Gives clusters that the tests of a file take in turn: share_cluster(worker=2, runtime="process").lend()."""
    with ExitStack() as stack:

        def share(**config: Any) -> SharedCluster:
            return stack.enter_context(shared_cluster(request, lambda: tmp_path_factory.mktemp("shared"), **config))

        yield share


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "process"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Both ways to run workers: what a test says must hold for either."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator["postgres.Server"]:
    """A running PostgreSQL server; tests that need a database take one of their own from it, and leave the server
    running.
    """
    from tests.support import postgres  # Pure tests do not pay for it.

    with postgres.server() as made:
        yield made


@pytest.fixture
def small_disk(make_cluster: Callable[..., TestCluster]) -> Iterator[TestCluster]:
    """A cluster whose `.comet/` lies on a disk of 2 MiB."""
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    state = cluster.folder / ".comet"
    state.mkdir()
    subprocess.run(
        [*AS_ROOT, "mount", "-t", "tmpfs", "-o", f"size=2m,mode=700,uid={os.getuid()}", "tmpfs", str(state)], check=True
    )
    try:
        yield cluster
    finally:
        cluster.destroy()
        subprocess.run([*AS_ROOT, "umount", "-l", str(state)], check=True)


@pytest.fixture(scope="module")
def own_engine() -> Iterator[PrivateEngine]:
    """It is given the image of the user's engine: to build one in an empty engine is what tests of images do."""
    from comet.images.worker_image import ensure_image  # Pure tests do not pay for it.

    with private_engine() as made, closing(connect()) as source:
        made.load(source, ensure_image(source, ROOT, lambda step: None))
        yield made


@pytest.fixture
def engine(own_engine: PrivateEngine) -> Iterator[PrivateEngine]:
    """An engine that these tests may stop, with the worker image in it; it runs again for the next test, however this
    one ended.
    """
    try:
        yield own_engine
    finally:
        if own_engine.running:
            own_engine.thaw()
        else:
            own_engine.start()


TIERS = ("swarm", "docker", "bench", "page", "security", "process", "unit")
"""The folders of tests/, each the mark of the tests in it."""

LONGEST = ("tests/swarm/", "tests/bench/test_compare.py", "tests/process/test_docs_commands.py")
"""What takes one process for minutes, and so begins before all else where several processes share the work."""

COMPUTING = ("docker", "bench", "page")
"""Tiers that keep a processor busy: engines, generators of load, browsers. The files of the others mostly wait."""

SHORTEST = ("tests/process/lb/", "tests/unit/", "tests/test_")
"""What fills the rest of the time at the end."""


@cache
def _tier_of_file(path: Path) -> str:
    folder = path.relative_to(ROOT / "tests").parts[0] if path.is_relative_to(ROOT / "tests") else ""
    return folder if folder in TIERS else "unit"


def _tier(item: pytest.Item) -> str:
    tier = _tier_of_file(item.path)
    return "process" if tier == "unit" and item.get_closest_marker("slow") else tier


@cache
def _full_only() -> frozenset[str]:
    """The files, tests and variants of tests that only `scripts/test.sh --full` runs."""
    lines = (ROOT / "tests/full_only.txt").read_text().splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


def _is_full_only(item: pytest.Item) -> bool:
    test = item.nodeid.partition("[")[0]
    return not _full_only().isdisjoint((item.nodeid, test, test.partition("::")[0]))


def _require_variants(items: list[pytest.Item]) -> None:
    """A variant that was renamed would be run again, unnoticed."""
    known = {item.nodeid for item in items}
    tests = {name.partition("[")[0] for name in known}
    gone = sorted(
        line for line in _full_only() if "[" in line and line.partition("[")[0] in tests and line not in known
    )
    if gone:
        raise pytest.UsageError(f"tests/full_only.txt: there is no {', '.join(gone)}")


TOGETHER = {
    "tests/swarm/": "swarm",
    "tests/test_architecture.py": "sources",
    "tests/unit/test_layers.py": "sources",
    "tests/unit/test_runtimes_unasked.py": "sources",
}
"""Tests that one process takes, by the start of their names: those of the swarm share three machines, which keep the
cores of a small one busy; those of the sources parse each of them once.
"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole files, and what TOGETHER names to one process."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((TOGETHER[start] for start in TOGETHER if nodeid.startswith(start)), nodeid.partition("::")[0])

    return Scheduling(config, log)


# What this machine or this clone cannot try is left out, and the reason said: it is not skipped.
LEFT_OUT = pytest.StashKey[dict[str, int]]()
"""How many tests were left out, by the reason."""


def pytest_configure(config: pytest.Config) -> None:
    # As lb.system.compiled does it.
    config.addinivalue_line("filterwarnings", f"ignore:{THROW_WARNING}:DeprecationWarning")
    config.addinivalue_line("markers", "full: only scripts/test.sh --full runs it (tests/full_only.txt)")
    config.addinivalue_line("markers", "root: needs root's rights (engines of the tests' own, other users)")
    config.addinivalue_line("markers", "program(name): needs a program that no script of ours installs")
    config.addinivalue_line("markers", "history(commit): needs this commit, which a shallow clone or an archive lacks")
    config.addinivalue_line(
        "markers", "machine(lacks): lacks() says what of it this machine lacks; empty where that is nothing"
    )
    config.stash[LEFT_OUT] = {}
    if str(config.getoption("markexpr")) == "unit":
        # In seconds little garbage comes together; to look for it while thousands of tests are collected takes one.
        gc.set_threshold(100_000, 50, 1000)


@pytest.hookimpl(tryfirst=True)
def _spread(items: list[pytest.Item]) -> None:
    """Order the files of several processes: those that compute among those that wait, so that the processors have as
    much to do at each time.
    """
    kinds: dict[bool, dict[Path, None]] = {True: {}, False: {}}
    for item in items:
        if not item.nodeid.startswith(LONGEST + SHORTEST):
            kinds[_tier(item) in COMPUTING][item.path] = None
    place = {path: number / len(paths) for paths in kinds.values() for number, path in enumerate(paths)}
    items.sort(
        key=lambda item: (
            not item.nodeid.startswith(LONGEST),
            item.nodeid.startswith(SHORTEST),
            place.get(item.path, 0),
        )
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(_tier(item))
        if _tier(item) == "swarm":
            item.add_marker("docker")
        if _is_full_only(item):
            item.add_marker("full")
    if "PYTEST_XDIST_WORKER" in os.environ:
        _spread(items)
    is_plain = "not full" in str(config.getoption("markexpr"))
    if is_plain and not any("[" in argument for argument in config.args):  # A single variant is asked for by name.
        _require_variants(items)
    reasons = {item: _missing_requirement(item) or (_long(item) if is_plain else None) for item in items}
    left_out = [item for item, reason in reasons.items() if reason]
    if left_out:
        items[:] = [item for item in items if not reasons[item]]
        config.hook.pytest_deselected(items=left_out)
        config.stash[LEFT_OUT] = dict(Counter(str(reasons[item]) for item in left_out))


def pytest_collection_finish() -> None:
    gc.freeze()  # Modules and tests stay until the end: the collector need not look at them again and again.


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes (pytest-xdist) reports to the one that has the terminal."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left out") or node.config.stash[LEFT_OUT]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for reason, count in config.stash[LEFT_OUT].items():
        terminalreporter.write_line(f"left out, as {reason}: {count} tests")


def _long(item: pytest.Item) -> str | None:
    return "they take long (scripts/test.sh --full runs them)" if item.get_closest_marker("full") else None


def _missing_requirement(item: pytest.Item) -> str | None:
    for marker in item.iter_markers("machine"):
        if lacks := marker.args[0]():
            return f"this machine lacks {lacks}"
    if os.getuid() != 0 and item.get_closest_marker("root"):
        return "they need root"
    if (marker := item.get_closest_marker("program")) and shutil.which(marker.args[0]) is None:
        return f"this machine lacks {marker.args[0]}"
    if (marker := item.get_closest_marker("history")) and not _has_commit(marker.args[0]):
        return f"this clone lacks the commit {marker.args[0]}"
    return None


PROCESS_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
"""Audit events (sys.addaudithook) of a process that starts another one."""

_started: list[str] = []


def _note_start(event: str, _: object) -> None:
    if event in PROCESS_STARTS:
        _started.append(event)


sys.addaudithook(_note_start)


_WHOLLY_SLOW = re.compile(r"^pytestmark = .*\bmark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of a file whose tests are all deselected not even the imports are paid for."""
    if str(config.getoption("markexpr")) != "unit" or not collection_path.is_file():
        return None
    elsewhere = _tier_of_file(collection_path) != "unit"
    return True if elsewhere or _WHOLLY_SLOW.search(collection_path.read_text()) else None


# `scripts/test.sh --unit` takes seconds only as long as nothing in it waits for processes.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    _started.clear()
    result = yield
    if _started and _tier(item) == "unit":
        pytest.fail("a test that starts processes lies elsewhere, or is marked slow", pytrace=False)
    return result


@cache
def _has_commit(commit: str) -> bool:
    command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        return subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except FileNotFoundError:
        return False
