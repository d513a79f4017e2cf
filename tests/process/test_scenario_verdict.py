"""Scenarios as tests: what is expected, the verdict, the user's own client. One cluster for the file."""

import json
import re
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from subprocess import CompletedProcess

import pytest
import requests

from comet.host import process_identity
from tests.support.cluster import TestCluster, open_cluster
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    folder = tmp_path_factory.mktemp("verdict")
    with open_cluster(folder, runtime="process", worker=2, pool=2, avg_delay=0, failure=0) as made:
        made.start()
        yield made


def play(cluster: TestCluster, text: str, *options: str) -> "CompletedProcess[str]":
    (cluster.folder / "s.yaml").write_text(text)
    return cluster.comet("scenario", "s.yaml", *options)


def await_lives(cluster: TestCluster) -> None:
    """No death is under way, noticed or not: each replica is ready, and its process lives."""

    def lives() -> bool:
        rows = cluster.replicas().values()
        return all(row["state"] == "ready" and process_identity.is_alive(row["pid"], None) for row in rows)

    wait_until(lives, 60, "all ready")


def test_kills_that_no_client_notices_pass(cluster: TestCluster) -> None:
    done = play(
        cluster,
        """
clients: 4
expect: {errors: 0, lost: 0, 2xx: 100%}
steps:
  - {name: calm, for: 500ms, expect: {p99: 60s, ok: ">= 1"}}
  - name: kills
    for: 8s
    kill: [worker-0, lb-1]
    expect: {recovery: 60s, replicas: {all: ready}}
""",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "passed: all 7 hold"
    assert "held    kills: recovery at most 60 s: " in done.stdout
    assert "  kill worker-0 KILL" in done.stderr


def test_a_missed_expectation_fails_the_step_of_the_errors(cluster: TestCluster) -> None:
    report = cluster.folder / "report.xml"
    began = time.monotonic()
    done = play(
        cluster,
        """
rate: 20..60
path: /api/v1/hello
steps:
  - {name: calm, for: 1s, expect: {errors: 0}}
  - {name: failing, for: 1s, faults: {all: {failure: 100, status: 503}}, expect: {injected: 0, 503: 1%}}
""",
        "--json",
        "--junit",
        str(report),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["passed"] is False
    held = {each["what"]: each["holds"] for each in told["expectations"]}
    assert held == {"errors": True, "injected": False, "503": False}
    # Each step lasts a second, or longer on a busy machine; meanwhile the rate rises on.
    longest = max(1.1, time.monotonic() - began - 1)
    assert 30 <= told["total"]["requests"] <= 45 + 20 * longest + 20 * longest**2
    suite = ElementTree.parse(report).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("4", "2")


def test_a_step_scales_signals_and_restarts(cluster: TestCluster) -> None:
    done = play(
        cluster,
        """
clients: 1..4
steps:
  - name: more
    for: 500ms
    do: [{scale: {worker: 3, lb: 2}}, {signal: {worker-2: CONT}}, {restart: worker-2}]
    expect: {replicas: {worker-2: ready, lb: ready}}
  - {name: less, for: 500ms, do: [{scale: {worker: 2}}, reload], expect: {errors: 0, replicas: {worker: ready}}}
""",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(cluster.replicas()) == ["lb-0", "lb-1", "worker-0", "worker-1"]


def test_a_death_that_a_command_ends_is_no_missed_recovery(cluster: TestCluster) -> None:
    done = play(
        cluster,
        """
clients: 0
expect: {recovery: 60s}
steps:
  - {name: fewer, for: 500ms, do: [{kill: lb-1}, {scale: {lb: 1}}], expect: {recovery: 60s, replicas: {all: ready}}}
  - {name: more, for: 500ms, do: [{scale: {lb: 2}}]}
  - {name: both, for: 500ms, do: [{kill: worker-1}, {restart: worker}], expect: {recovery: 60s}}
""",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # On a busy machine the order comes after the recovery, which is then measured.
    assert re.search(
        r"held    fewer: recovery at most 60 s: (lb-1 stopped by a command|[\d.]+ m?s \(lb-1\))", done.stdout
    )
    await_lives(cluster)


def test_random_kills_follow_their_seed(cluster: TestCluster) -> None:
    text = "seed: 11\nclients: 0\nsteps: [{for: 900ms, kill: random, every: 400ms}]\n"
    seen = []
    for _ in range(2):
        await_lives(cluster)  # A replica that is dead already is not killed.
        seen.append([line for line in play(cluster, text).stderr.splitlines() if "kill" in line])
    assert seen[0][0] == seen[1][0]


def test_an_action_on_what_was_removed_changes_nothing(cluster: TestCluster) -> None:
    done = play(cluster, "steps: [{name: a, for: 500ms, do: [{scale: {worker: 1}}, {drain: worker-1}]}]\n")
    said = "s.yaml:1: a: drain: worker-1: no such worker (there are worker-0)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
    assert sorted(cluster.replicas()) == ["lb-0", "lb-1", "worker-0", "worker-1"]


def test_an_error_of_a_step_that_has_begun_is_a_failure(cluster: TestCluster) -> None:
    port = cluster.config["load-balancer-port"]
    cluster.write(load_balancer_port=port + 20)
    try:
        done = play(cluster, "clients: 0\nsteps: [{for: 500ms, do: [{scale: {worker: 3}}, reload]}]\n")
        assert (done.returncode, "stop it, then run" in done.stderr) == (1, True), done
        assert "worker-2" in cluster.replicas()
    finally:
        cluster.write(load_balancer_port=port)
        assert cluster.comet("scale", "worker=2").returncode == 0


def test_faults_are_of_the_workers_that_scaling_leaves(cluster: TestCluster) -> None:
    done = play(
        cluster,
        """
rate: 40
steps:
  - {name: more, for: 200ms, do: [{scale: {worker: 3}}]}
  - {name: new, for: 1s, faults: {worker-2: {failure: 100}}, expect: {injected: ">= 1"}}
  - {name: fewer, for: 200ms, do: [{scale: {worker: 2}}]}
  - {name: old, for: 1s, faults: {worker-1: {failure: 100}}, expect: {injected: ">= 1"}}
""",
    )
    assert done.returncode == 0, done.stdout + done.stderr


CLIENT = """
import os, sys, urllib.request
for url in os.environ["COMET_URLS"].split():
    urllib.request.urlopen(f"{url}/api/v1/hello").read()
print("asked", os.environ["COMET_URL"])
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("code", [0, 3])
def test_the_users_client_counts(cluster: TestCluster, code: int) -> None:
    await_lives(cluster)
    text = "steps: [{name: alone, for: 500ms}]\n"
    done = play(cluster, text, "--json", "--", sys.executable, "-c", CLIENT, str(code))
    told = json.loads(done.stdout)
    assert (done.returncode, told["client"]["exit_code"]) == (code and 1, code), done.stderr
    assert told["total"]["requests"] == 0  # The user's client is the load.
    assert "asked http://127.0.0.1:" in done.stderr


def test_no_fault_is_in_effect_after_a_scenario(cluster: TestCluster) -> None:
    await_lives(cluster)
    url = f"http://127.0.0.1:{cluster.config['load-balancer-port']}/api/v1/hello"
    for _ in range(5):
        done = play(cluster, "steps: [{for: 100ms, faults: {all: {failure: 100}}}]\n", "--json")
        statuses = [requests.get(url, timeout=10).status_code for _ in range(10)]
        assert (done.returncode, statuses) == (0, [200] * 10), done.stderr


def test_a_client_that_does_not_exist_is_one_line(cluster: TestCluster) -> None:
    done = play(cluster, "steps: [{for: 500ms, do: [{scale: {worker: 3}}]}]\n", "--", "/nonexistent/client")
    assert done.returncode == 2
    assert done.stderr == "/nonexistent/client: cannot be run: No such file or directory\n"
    assert done.stdout == ""
    done = play(cluster, "steps: [{for: 500ms}]\n", "--", str(cluster.folder / "config.yaml"))
    assert (done.returncode, done.stderr.endswith("config.yaml: cannot be run: Permission denied\n")) == (2, True)
