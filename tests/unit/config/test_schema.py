"""config.yaml: what is read, and how every mistake is answered."""

from pathlib import Path

import pytest

from comet.balancers.launcher import LbLaunch
from comet.balancers.runtime import BalancerRuntime
from comet.config.keys import KEYS, LIMITS
from comet.config.schema import ConfigError, load, old_names, parse
from comet.runtimes.interface import RenderContext
from comet.state.directory import Cluster, Owner
from comet.statistics.database import Access
from comet.supervisor.admin_feed import public_config
from lb.interface.settings import Settings

WHERE = Path("/somewhere/config.yaml")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, WHERE)
    assert caught.value.exit_code == 2
    return caught.value.problems


def test_seven_keys_suffice() -> None:
    config = parse(
        "worker: 4\npool: 1\nstats-dir: s.db\navg-delay: 10.5\nfailure: 0.5\nload-balancer-port: 7000\nworker-port: "
        "8000\n",
        WHERE,
    )
    assert (config.worker, config.pool, config.stats_dir, config.avg_delay, config.failure) == (4, 1, "s.db", 10.5, 0.5)
    assert (config.load_balancer_port, config.worker_port, config.folder) == (7000, 8000, Path("/somewhere"))


def test_defaults_suit_one_machine() -> None:
    config = parse("worker: 3\n", WHERE)
    assert (config.pool, config.stats_dir, config.avg_delay, config.failure) == (2, "worker-stats.db", 500.0, 12.0)
    assert (config.load_balancer_port, config.worker_port, config.admin_port) == (5050, 6000, 5040)
    assert (config.load_balancer_host, config.worker_host, config.worker_memory) == (
        "0.0.0.0",
        "127.0.0.1",
        256 * 1024**2,
    )
    assert (config.health_interval, config.health_timeout, config.health_fall, config.health_rise) == (5.0, 2.0, 2, 2)
    assert (config.restart_backoff_max, config.restart_stable, config.shutdown_grace) == (30.0, 10.0, 10.0)


def test_every_key_checks_its_own_default() -> None:
    text = "\n".join(f"{name}: {key.default}" for name, key in KEYS.items())
    limits = "".join(f"\n  {name}: {key.default}" for name, key in LIMITS.items())
    assert parse(text.replace("limits: {}", f"limits:{limits}"), WHERE) == parse("worker: 3", WHERE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wroker: 3", "config.yaml:1: wroker: unknown key (did you mean worker?)"),
        ("worker-prot: 3", "config.yaml:1: worker-prot: unknown key (did you mean worker-port?)"),
        ("Worker-port: 6000", "config.yaml:1: Worker-port: unknown key (did you mean worker-port?)"),
        ("pool: two", "config.yaml:1: pool: 'two' is not a whole number (allowed: a whole number from 1 to 64)"),
        ("pool: 0", "config.yaml:1: pool: 0 is out of range (allowed: a whole number from 1 to 64)"),
        ("worker: -1", "config.yaml:1: worker: -1 is out of range (allowed: a whole number from 0 to 200)"),
        ("worker: 3.0", "config.yaml:1: worker: 3.0 is not a whole number (allowed: a whole number from 0 to 200)"),
        ("worker: yes", "config.yaml:1: worker: true is not a whole number (allowed: a whole number from 0 to 200)"),
        ("avg-delay: -5", "config.yaml:1: avg-delay: -5 is out of range (allowed: milliseconds, from 0 to 600000)"),
        ("failure: .nan", "config.yaml:1: failure: nan is out of range (allowed: percent, from 0 to 100)"),
        ("failure: 100.1", "config.yaml:1: failure: 100.1 is out of range (allowed: percent, from 0 to 100)"),
        ("pool:", "config.yaml:1: pool: nothing is not a whole number (allowed: a whole number from 1 to 64)"),
        ("runtime: dokcer", "config.yaml:1: runtime: 'dokcer' is not known (allowed: docker, process, swarm or mixed)"),
        (
            "worker-memory: lots",
            "config.yaml:1: worker-memory: 'lots' is not an amount of memory (allowed: 32m or more, ",
        ),
        (
            "health-path: healthz",
            "config.yaml:1: health-path: 'healthz' is not usable (allowed: a path that begins with /, without #)",
        ),
        (
            "health-path: '/up#now'",
            "config.yaml:1: health-path: '/up#now' is not usable (allowed: a path that begins with /, without #)",
        ),
        *(
            (f"{key}: '{bad}'", f"config.yaml:1: {key}: '{bad}' is no IP address (allowed: an IP address or host name)")
            for key in ("load-balancer-host", "worker-host")
            for bad in ("300.1.1.1", "1.2.3", "127.0.0.1:5050", "1::2::3", "localhost:80", ".")
        ),
        (
            "trusted-proxies: [10.0.0.1, a, 10.0.0.0/33, 7]",
            "config.yaml:1: trusted-proxies: 'a', '10.0.0.0/33', 7 are no addresses or networks (allowed: ",
        ),
        (
            "runtime: process\nworker: 1\n\nfaults:\n  worker-0:\n    hang: 1\n    partition: true",
            "config.yaml:7: faults.worker-0.partition: needs a time limit",
        ),
        (
            "faults:\n  front:\n    failure: 4\n    refuse: true",
            "config.yaml:4: faults.front.refuse: needs a time limit",
        ),
        ("health-host: 'a b'", "config.yaml:1: health-host: 'a b' is not usable (allowed: none, or HOST or HOST:PORT)"),
        (
            "health-host: http://a",
            "config.yaml:1: health-host: 'http://a' is not usable (allowed: none, or HOST or HOST:PORT)",
        ),
        *(
            (f"{key}: {value}", f"config.yaml:1: {key}: '{value}' is not usable (allowed: none, or ")
            for key, value in (
                ("health-host", "a:65536"),
                ("trace-endpoint", "http://127.0.0.1:99999"),
                ("trace-endpoint", "http://127.0.0.1:0/v1"),
                ("trace-endpoint", "http://1::2:4318"),
            )
        ),
        (
            "runtime: swarm\nregistry: 10.0.0.1:70000/team",
            "config.yaml:2: registry: '10.0.0.1:70000/team' is not usable (allowed: HOST[:PORT][/PATH], or none)",
        ),
        ("a: [1", "config.yaml:1: not valid YAML: "),
        ("a: b: c", "config.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("- worker", "config.yaml:1: the file holds no keys (allowed: lines of the form `key: value`)"),
        ("", "config.yaml:1: the file is empty (`worker: 3` is a beginning; every key has a default)"),
        ("# nothing", "config.yaml:1: the file is empty"),
        (
            "worker: !!python/object/apply:os.system [id]",
            "config.yaml:1: worker: the tag tag:yaml.org,2002:python/object/apply:os.system is not known",
        ),
        ("pool: 2\nworker: 3\npool: 4", "config.yaml:3: pool: appears twice (first in line 1; keep one)"),
        ("seed: -1", "config.yaml:1: seed: -1 is out of range (allowed: none, or a whole number from 0)"),
        ("request-ledger: 1", "config.yaml:1: request-ledger: 1 is neither true nor false (allowed: true or false)"),
        (
            "load-balancer-port: 65535",
            "config.yaml:1: load-balancer-port: 2 ports from 65535 go past 65535 (allowed: up to 65534)",
        ),
    ],
)
def test_one_problem_one_line(text: str, said: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(said)


def test_every_problem_is_told_at_once_with_its_line() -> None:
    assert [line.split(": ")[:2] for line in problems("worker: x\n\npool: 99\nfaliure: 3\n")] == [
        ["config.yaml:1", "worker"],
        ["config.yaml:3", "pool"],
        ["config.yaml:4", "faliure"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        "load-balancer-port: 5999\n",
        "load-balancer-port: 6002\n",
        "worker-port: 5051\n",
        "admin-port: 6001\n",
    ],
)
def test_overlapping_port_ranges_are_named(text: str) -> None:
    (problem,) = problems(text)
    assert "overlaps" in problem
    assert problem.endswith("(allowed: ranges that do not meet)")


def test_an_admin_port_of_zero_overlaps_nothing() -> None:
    assert parse("admin-port: 0\n", WHERE).admin_port == 0


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, said in [
        (tmp_path / "none.yaml", "there is no such file"),
        (tmp_path, "is a directory"),
    ]:
        with pytest.raises(ConfigError, match=said):
            load(path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"worker: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(binary)


FAULTS = "worker: 2\nfaults:\n  worker-0:\n    avg-delay: 2000\n    hang: 5\n  worker-1: {failure: 0.5, status: 503}\n"


def test_faults_of_single_workers() -> None:
    config = parse(FAULTS, WHERE)
    assert config.faults == {
        "worker-0": {"avg-delay": 2000.0, "hang": 5.0},
        "worker-1": {"failure": 0.5, "status": 503},
    }
    assert config.lines["faults"] == 2
    assert parse("faults:\n", WHERE).faults == {}
    assert parse("faults:\n  worker-0: &slow {cpu: 5}\n  worker-1: *slow\n", WHERE).faults["worker-1"] == {"cpu": 5.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("faults: 3", "config.yaml:1: faults: 3 is not usable (allowed: fault settings by worker name)"),
        ("faults: [a]", "config.yaml:1: faults: ['a'] is not usable"),
        (
            "faults:\n  worker-3: {hang: 5}",
            "config.yaml:2: faults.worker-3: no such worker (allowed: worker-0 to worker-2, or front)",
        ),
        (
            "worker: 1\nfaults:\n  lb-0: {hang: 5}",
            "config.yaml:3: faults.lb-0: no such worker (allowed: worker-0, or front)",
        ),
        (
            "faults:\n  worker-0: 5",
            "config.yaml:2: faults.worker-0: 5 is not usable (allowed: lines of the form `setting: value`)",
        ),
        ("faults:\n  worker-0:\n    hnag: 5", "config.yaml:3: faults.worker-0.hnag: unknown key (did you mean hang?)"),
        (
            "faults:\n  worker-0:\n    cpu: 1\n    hang: 101",
            "config.yaml:4: faults.worker-0.hang: 101 is out of range (allowed: percent, ",
        ),
        ("faults:\n  worker-0:\n    hang: {a: 1}", "config.yaml:3: faults.worker-0.hang: {'a': 1} is not a number"),
        ("faults:\n  worker-0:\n    hang: 1\n    hang: 2", "config.yaml:4: faults.worker-0.hang: appears twice"),
        ("faults:\n  worker-0:\n  worker-0:", "config.yaml:3: faults.worker-0: appears twice"),
        ("faults:\n  worker-0:\nfaults:", "config.yaml:3: faults: appears twice (first in line 1; keep one)"),
    ],
)
def test_a_mistake_in_the_faults_has_its_own_line(text: str, said: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(said)


def test_a_service_of_ones_own_in_a_container() -> None:
    config = parse(
        "worker-image: registry.example:5000/team/app:1.2@sha256:abc\nworker-target-port: 80\nworker-command: serve "
        "--name 'two words'\n"
        "worker-environment:\n  MODE: test\n  PORT_COUNT: 3\n  DEBUG: true\nworker-volumes: [./site:/srv:ro, "
        "/data:/data]\n"
        "worker-user: 1000:1000\nworker-read-only: true\nworker-cpus: 0.5\nworker-pids: 64\n",
        WHERE,
    )
    assert config.custom_service
    assert config.worker_command == ("serve", "--name", "two words")
    assert config.worker_environment == (("MODE", "test"), ("PORT_COUNT", "3"), ("DEBUG", "true"))
    assert config.worker_volumes == (("./site", "/srv", True), ("/data", "/data", False))
    assert (config.worker_user, config.worker_read_only, config.worker_cpus, config.worker_pids) == (
        "1000:1000",
        True,
        0.5,
        64,
    )


def test_a_service_of_ones_own_as_a_process() -> None:
    config = parse("runtime: process\nworker-command: [gunicorn, 'app:app', --bind, '{host}:{port}']\n", WHERE)
    assert config.custom_service
    assert config.worker_command == ("gunicorn", "app:app", "--bind", "{host}:{port}")
    assert not parse("worker: 3", WHERE).custom_service


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "worker-command: app",
            "config.yaml:1: worker-command: has nothing to run it in (name a worker-image, or set runtime: process)",
        ),
        (
            "runtime: process\nworker-image: nginx",
            "config.yaml:2: worker-image: is for containers (leave it out with runtime: process)",
        ),
        ("worker-cpus: 2", "config.yaml:1: worker-cpus: is for a custom service (name its worker-image, or "),
        ("worker-image: nginx\nfailure: 5", "config.yaml:2: failure: acts in the built-in worker only"),
        (
            "worker-image: nginx\nrequest-ledger: true",
            "config.yaml:2: request-ledger: is kept by the built-in worker only (leave it out)",
        ),
        (
            "worker-image: Nginx!",
            "config.yaml:1: worker-image: 'Nginx!' is not usable (allowed: the name of an image, or built)",
        ),
        (
            "worker-image: nginx\nworker-volumes: ./site",
            "config.yaml:2: worker-volumes: './site' is not a list (allowed: a list of ",
        ),
        (
            "worker-image: nginx\nworker-volumes: [site]",
            "config.yaml:2: worker-volumes: 'site' is no volume (allowed: a list of ",
        ),
        (
            "worker-image: a\nworker-environment: {1A: x}",
            "config.yaml:2: worker-environment: '1A' is no name of a variable",
        ),
        ("worker-image: a\nworker-environment: {A: [x]}", "config.yaml:2: worker-environment: A: ['x'] is not text"),
        (
            'runtime: process\nworker-command: "\'"',
            'config.yaml:2: worker-command: "\'" is not a command line: no closing quotation',
        ),
        (
            "runtime: process\nworker-command: 'a {prot}'",
            "config.yaml:2: worker-command: {prot} is not known (allowed: {host}, {port}, {name})",
        ),
    ],
)
def test_what_does_not_go_together_about_ones_own_service(text: str, said: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(said)


@pytest.mark.parametrize("line", ["stats-dir: [postgresql://u:s3cret@h/d]", "worker: postgresql://u:s3cret@h/d"])
def test_a_refusal_quotes_no_password(tmp_path: Path, line: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"{line}\n")
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert "postgresql://u:***@h/d" in str(refused.value)
    assert "s3cret" not in str(refused.value)


OWN_LIMITS = {"head-timeout": 2.5, "body-timeout": 3.5, "max-request-line": 4096, "max-head": 16384, "max-fields": 50}


@pytest.mark.parametrize("nested", [True, False], ids=["limits", "the old names"])
def test_what_bounds_clients_reaches_the_load_balancers(tmp_path: Path, nested: bool) -> None:
    at_top = {"connect-timeout": 1.5, "idle-timeout": 4.5}
    text = "".join(f"{name}: {value}\n" for name, value in at_top.items())
    text += "limits:\n" if nested else ""
    text += "".join(f"{'  ' if nested else ''}{name}: {value}\n" for name, value in OWN_LIMITS.items())
    own = at_top | OWN_LIMITS
    config = parse(text, WHERE)
    assert set(OWN_LIMITS) == set(LIMITS)
    assert public_config(config)["limits"] == OWN_LIMITS
    context = RenderContext(Cluster(tmp_path), Access({}), Owner(0, 0))
    launch = BalancerRuntime.render(config, context, 0).spec.launch
    assert isinstance(launch, LbLaunch)
    assert {name: getattr(launch.settings, name.replace("-", "_")) for name in own} == own
    launch = BalancerRuntime.render(parse("worker: 3", WHERE), context, 0).spec.launch
    assert isinstance(launch, LbLaunch)
    standard = Settings()
    assert all(
        getattr(launch.settings, name) == getattr(standard, name) for name in (each.replace("-", "_") for each in own)
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "max-head: 1024\nlimits:\n  max-head: 2048",
            "config.yaml:3: limits.max-head: line 1 sets it by its old name, max-head (keep limits.max-head)",
        ),
        (
            "limits: {max-head: 2048}\nmax-head: 1024",
            "config.yaml:1: limits.max-head: line 2 sets it by its old name, max-head (keep limits.max-head)",
        ),
        ("limits: {max-haed: 1}", "config.yaml:1: limits.max-haed: unknown key (did you mean max-head?)"),
        ("limits:\n  worker: 1", "config.yaml:2: limits.worker: unknown key"),
        (
            "limits:\n  max-head: 1",
            "config.yaml:2: limits.max-head: 1 is out of range (allowed: a whole number of bytes from 64 to 65536)",
        ),
        (
            "limits:\n  max-head: 64\n  max-head: 65",
            "config.yaml:3: limits.max-head: appears twice (first in line 2; keep one)",
        ),
        ("limits: {}\nlimits: {}", "config.yaml:2: limits: appears twice (first in line 1; keep one)"),
        ("limits: 5", "config.yaml:1: limits: 5 is not usable (allowed: lines of the form `limit: value`)"),
    ],
)
def test_a_limit_is_given_once_and_under_limits(text: str, said: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(said)


def test_an_empty_group_of_limits_changes_nothing() -> None:
    assert parse("limits:", WHERE) == parse("limits: {}", WHERE) == parse("worker: 3", WHERE)


def test_check_names_the_new_place_of_an_old_name() -> None:
    assert old_names(parse("worker: 3\nmax-head: 1024\nlimits: {max-fields: 5}", WHERE)) == [
        "config.yaml:2: max-head: is now limits.max-head (the old name is accepted for now)"
    ]
