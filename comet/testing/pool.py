"""Lends clusters to tests: a new one for each test, or one for all tests of a session that ask for the same.

A shared cluster is given back as it was: faults cleared, the wanted number of replicas, all ready. One that cannot be
restored (a test has killed its supervisor) is replaced.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comet.api.running_cluster import RunningCluster, cluster
from comet.common.errors import UserError
from comet.common.yaml_lines import ConfigError, plain, read
from comet.telemetry.snapshot import Row
from comet.testing.report import describe


@dataclass(frozen=True)
class _Use:
    """A test's use of a cluster: since which event, and what the replicas had done by then."""

    cluster: RunningCluster
    since: int
    before: Mapping[str, Row]


class ClusterPool:
    """The clusters of one pytest process."""

    def __init__(self) -> None:
        self._shared: dict[str, RunningCluster] = {}
        self._uses: dict[Any, list[_Use]] = {}

    @contextlib.contextmanager
    def lent(self, borrower: Any, scope: str, keys: Mapping[str, Any]) -> Iterator[RunningCluster]:
        """Lend a cluster with these keys; it is running and ready."""
        with contextlib.ExitStack() as stack:
            made = self._common(keys) if scope == "session" else stack.enter_context(cluster(**keys))
            events = made.events()
            use = _Use(made, events[-1]["number"] if events else 0, made.replicas())
            self._uses.setdefault(borrower, []).append(use)
            stack.callback(self._uses.pop, borrower, None)
            yield made

    def reports(self, borrower: Any) -> list[str]:
        """Return what the clusters that a test uses did meanwhile."""
        return [describe(use.cluster, use.since, use.before) for use in self._uses.get(borrower, ())]

    def close(self) -> None:
        for each in self._shared.values():
            each.stop()
        self._shared.clear()

    def _common(self, keys: Mapping[str, Any]) -> RunningCluster:
        name = repr((os.getcwd(), sorted(keys.items())))
        known = self._shared.get(name)
        if known is not None:
            try:
                known.restore()
                return known
            except (UserError, TimeoutError):
                del self._shared[name]
                known.stop()
        made = cluster(**keys)
        self._shared[name] = made.start()
        return made


def ini_keys(lines: Sequence[str]) -> dict[str, Any]:
    """Return the keys that the lines `key: value` give, as keyword arguments; raise ValueError where they are wrong."""
    if not lines:
        return {}
    try:
        found, problems = read("\n".join(lines), "line")
    except ConfigError as error:
        raise ValueError("; ".join(error.problems)) from None
    names = [name.replace("_", "-") for _, name, _ in found]
    problems += [
        f"line:{number}: {name}: appears twice (keep one)"
        for position, ((number, _, _), name) in enumerate(zip(found, names, strict=True))
        if name in names[:position]
    ]
    if problems:
        raise ValueError("; ".join(problems))
    return {name.replace("-", "_"): plain(value) for _, name, value in found}
