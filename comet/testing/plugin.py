"""Registers with pytest: the fixtures `comet_cluster` and `comet_service`, the marker `comet`, ini options, a report.

pytest imports this module in every session of an environment that has Comet, so it imports nothing of Comet until a
fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from comet.api.running_cluster import RunningCluster
    from comet.testing.pool import ClusterPool

SCOPES = ("test", "session")
MARKER = (
    "comet(scope='test', **keys): keys of config.yaml, with underscores, for comet_cluster and comet_service; "
    "scope='session' shares the cluster with all tests of this process that ask for the same one"
)

_pool = pytest.StashKey["ClusterPool"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("comet_cluster", "lines `key: value` of config.yaml for the fixture comet_cluster", "linelist", [])
    parser.addini("comet_scope", "how long a cluster of Comet lives: test (the default) or session", default="test")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    if config.getini("comet_scope") not in SCOPES:
        raise pytest.UsageError(f"comet_scope: {config.getini('comet_scope')!r} is not known (allowed: test, session)")


@pytest.fixture
def comet_cluster(request: pytest.FixtureRequest) -> Iterator[RunningCluster]:
    """A running cluster of Comet: `url`, `kill`, `faults`, `wait_for`, … (docs/python-api.md)."""
    from comet.testing.pool import ini_keys

    scope, keys = _asked(request)
    try:
        given = ini_keys(request.config.getini("comet_cluster"))
    except ValueError as error:
        raise pytest.UsageError(f"comet_cluster: {error}") from None
    with _pool_of(request.config).lent(request.node, scope, given | keys) as cluster:
        yield cluster


@pytest.fixture
def comet_service(request: pytest.FixtureRequest) -> Iterator[Callable[..., RunningCluster]]:
    """A function that puts a service behind load balancers: `comet_service("python app.py --port {port}")`.

    It takes a command line or `image=`, further keys of config.yaml, and `scope`. GET / must be answered with a status
    from 200 to 399, or that of another `health_path`.
    """
    from contextlib import ExitStack

    scope, marked = _asked(request)
    with ExitStack() as stack:

        def service(
            command: str | Sequence[str] | None = None, *, image: str | None = None, scope: str = scope, **keys: Any
        ) -> RunningCluster:
            _require_scope(scope, "comet_service")
            if (command is None) == (image is None):
                raise pytest.UsageError("comet_service: give it either a command or an image")
            what = {"worker_command": command} if image is None else {"worker_image": image, "runtime": "docker"}
            wanted = {"health_path": "/"} | marked | what | keys
            return stack.enter_context(_pool_of(request.config).lent(request.node, scope, wanted))

        yield service


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    pool = item.config.stash.get(_pool, None)
    if pool is not None and report.failed and report.when != "teardown":
        report.sections += [("comet cluster", text) for text in pool.reports(item)]
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    pool = config.stash.get(_pool, None)
    if pool is not None:
        pool.close()


def _asked(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Return the scope and the keys that markers give: the nearest marker decides."""
    keys: dict[str, Any] = {}
    for marker in request.node.iter_markers("comet"):
        if marker.args:
            raise pytest.UsageError("pytest.mark.comet takes keywords only: pytest.mark.comet(worker=3)")
        keys = {**marker.kwargs, **keys}
    scope = keys.pop("scope", request.config.getini("comet_scope"))
    _require_scope(scope, "pytest.mark.comet")
    return scope, keys


def _require_scope(scope: Any, where: str) -> None:
    if scope not in SCOPES:
        raise pytest.UsageError(f"{where}: scope={scope!r} is not known (allowed: 'test', 'session')")


def _pool_of(config: pytest.Config) -> ClusterPool:
    from comet.testing.pool import ClusterPool

    return config.stash.setdefault(_pool, ClusterPool())
