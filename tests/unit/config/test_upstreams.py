"""`upstreams` in config.yaml: what already runs takes the place of workers."""

from pathlib import Path

import pytest

from comet.config.schema import Config, ConfigError, parse

WHERE = Path("/somewhere/config.yaml")


def read(text: str) -> Config:
    return parse(text, WHERE)


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    (only,) = caught.value.problems
    return only


def test_each_upstream_counts_as_a_worker() -> None:
    config = read("upstreams: ['http://127.0.0.1:3000', 'http://backend/', 'http://[::1]:8080']")
    assert config.upstreams == (("127.0.0.1", 3000), ("backend", 80), ("::1", 8080))
    assert (config.worker, config.custom_service, config.front_path) == (3, True, "/")
    assert (config.fault_point, config.health_path) == ("lb", "/")


def test_a_health_path_that_is_named_is_kept() -> None:
    assert read("health-path: /up\nupstreams: ['http://a']").health_path == "/up"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("upstreams: ['https://a']", "speak plain HTTP to upstreams (put a proxy that ends TLS before it)"),
        ("upstreams: ['http://a:0']", "'http://a:0' is not the address of an upstream"),
        ("upstreams: ['http://a/path']", "(allowed: a list of http://HOST or http://HOST:PORT)"),
        ("upstreams: http://a", "is not a list"),
        (
            "upstreams: ['http://a']\nworker: 3",
            "config.yaml:2: worker: is for what Comet starts, and upstreams run already (leave it out)",
        ),
        ("upstreams: ['http://a']\nstats-dir: x.db", "config.yaml:2: stats-dir: is for what Comet starts"),
        ("upstreams: ['http://a']\nruntime: docker", "config.yaml:2: runtime: is for what Comet starts"),
        (
            "upstreams: ['http://a']\nfault-point: worker",
            "config.yaml:2: fault-point: acts in the built-in worker only",
        ),
        ("runtime: external", "config.yaml:1: runtime: 'external' is not known"),
    ],
)
def test_what_does_not_go_together_is_refused(text: str, said: str) -> None:
    assert said in problem(text)
