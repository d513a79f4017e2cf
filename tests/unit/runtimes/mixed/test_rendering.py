"""Which worker is what with `runtime: mixed`, and what is the same for all."""

from dataclasses import replace
from pathlib import Path

import pytest

from comet.common.yaml_lines import ConfigError
from comet.config.schema import Config, parse
from comet.reconcile.replica import ManagedReplica
from comet.runtimes import registry
from comet.runtimes.docker.container_spec import ContainerLaunch
from comet.runtimes.interface import RenderContext
from comet.runtimes.process.exec_launcher import ExecLaunch
from comet.state.directory import Cluster, Owner
from comet.statistics.database import Access

WHERE = Path("/nowhere/config.yaml")
OWNER = Owner(1000, 1000)


def context() -> RenderContext:
    cluster = Cluster(WHERE.parent)
    inside = RenderContext(cluster, Access({"COMET_DATABASE": "sqlite:////data/s.db"}), OWNER, "comet-worker:1")
    outside = RenderContext(cluster, Access({"COMET_DATABASE": "sqlite:////nowhere/s.db"}), OWNER)
    return RenderContext(cluster, Access({}), OWNER, parts=(inside, outside))


def workers(config: Config) -> list[ManagedReplica]:
    return [registry.runtime(config.runtime).render(config, context(), index) for index in range(config.worker)]


def test_even_workers_are_containers_and_odd_ones_processes() -> None:
    rendered = workers(parse("runtime: mixed\nworker: 4\nworker-port: 7000\n", WHERE))
    assert [(each.spec.name, each.spec.kind, each.spec.driver, each.spec.port) for each in rendered] == [
        ("worker-0", "container", "container", 7000),
        ("worker-1", "process", "worker-process", 7001),
        ("worker-2", "container", "container", 7002),
        ("worker-3", "process", "worker-process", 7003),
    ]
    assert [type(each.spec.launch) for each in rendered] == [ContainerLaunch, ExecLaunch] * 2


def test_both_have_the_same_policy_and_database() -> None:
    first, second, *_ = workers(parse("runtime: mixed\nworker: 2\nworker-threads: 7\nseed: 5\n", WHERE))
    names = ("rank", "start_timeout", "drain_grace", "terminate_grace", "unhealthy_grace", "restart")
    assert [getattr(first.spec, name) for name in names] == [getattr(second.spec, name) for name in names]
    container, process = first.spec.launch.arguments, second.spec.launch.argv
    for words in (container, process):
        assert words[words.index("--threads") + 1] == "7"
    assert (container[container.index("--seed") + 1], process[process.index("--seed") + 1]) == ("5", "6")
    assert first.spec.launch.environment["COMET_DATABASE"].endswith("/s.db")
    assert second.spec.launch.environment["COMET_DATABASE"].endswith("/s.db")


def test_each_is_rendered_as_its_own_runtime_renders_it() -> None:
    """So a cluster whose runtime changes to `mixed` keeps those workers whose kind stays."""
    config = parse("runtime: mixed\nworker: 2\n", WHERE)
    parts = zip(("docker", "process"), context().parts, strict=True)
    alone = [
        registry.runtime(name).render(replace(config, runtime=name), part, index)
        for index, (name, part) in enumerate(parts)
    ]
    assert alone == workers(config)


@pytest.mark.parametrize("keys", ["worker-image: nginx", "worker-command: serve --port {port}"])
def test_a_custom_service_is_refused_in_one_line(keys: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(f"runtime: mixed\n{keys}\n", WHERE)
    (line,) = raised.value.message.splitlines()
    assert line.startswith(f"config.yaml:2: {keys.partition(':')[0]}: runtime: mixed runs the built-in worker only")
