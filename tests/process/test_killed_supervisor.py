"""A supervisor that is killed at any moment of whatever it does: the next `run` ends with all ready, and nothing is
left behind.
"""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable

from comet.host import process_identity
from comet.state.directory import Cluster
from comet.state.lock import Lock
from tests.support.cluster import TestCluster
from tests.support.waiting import PATIENCE, wait_until

ROUNDS = {"process": 120, "docker": 80} if os.environ.get("COMET_TEST_FULL") else {"process": 6, "docker": 3}
SEED = int(os.environ.get("COMET_TEST_SEED", "1"))

OPERATIONS = ("start", "scale", "restart", "reload", "stop")
TITLE = re.compile(r"comet: lb-\d+ :\d+|--name (?:worker-\d+)")


def begin(cluster: TestCluster, operation: str) -> "subprocess.Popen[bytes]":
    """Give the command, and go on at once."""
    if operation == "reload":
        cluster.write(avg_delay=cluster.config["avg-delay"] + 1, retries=1 + cluster.config.get("retries", 1) % 3)
    arguments = {
        "start": ["run", "--detach"],
        "scale": ["scale", f"worker={random.randint(1, 3)}", f"pool={random.randint(1, 2)}"],
        "restart": ["restart", random.choice(["worker", "lb", "all"])],
        "reload": ["reload"],
        "stop": ["stop"],
    }[operation]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(
        [*cluster.command, *arguments], cwd=cluster.folder, env=os.environ | cluster.environment, **quiet
    )  # type: ignore[call-overload, no-any-return]


def kill_supervisor(cluster: TestCluster) -> None:
    """If there is one (any more, or yet)."""
    handle = Lock(Cluster(cluster.folder)).handle()
    if handle is not None:
        with contextlib.closing(handle):
            handle.send(signal.SIGKILL)
            assert handle.ended(10 * PATIENCE)


def serving(cluster: TestCluster) -> Counter[str]:
    """How many processes of the cluster there are by name, whoever knows of them."""
    lines = (" ".join(process_identity.command_line(process.pid)) for process in cluster.processes())
    return Counter(found[0] for line in lines if (found := TITLE.search(line)))


def assert_sound(cluster: TestCluster) -> None:
    # What the dead supervisor has just told to end is adopted first, and started again then.
    wait_until(lambda: {row["state"] for row in cluster.replicas().values()} == {"ready"}, what="all are ready")
    rows = cluster.replicas()
    in_containers = [row for row in rows.values() if row["kind"] == "container"]
    expected = len(rows) - len(in_containers)
    # What was replaced may be draining for a moment.
    wait_until(
        lambda: (found := serving(cluster)).total() == expected and max(found.values(), default=1) == 1,
        15,
        "each runs once",
    )
    wait_until(lambda: len(cluster.containers()) == len(in_containers), 15, "each container once")
    # On a very busy machine a commit may miss its bound: 503, and the next one is counted.
    wait_until(lambda: cluster.hello().status_code == 200, what="an answer")


def attempt(cluster: TestCluster, operation: str, moment: float) -> None:
    """One round: give the command, kill the supervisor while it works, run again."""
    if operation == "start":
        cluster.stop()
        cluster.assert_nothing_left()
    command = begin(cluster, operation)
    try:
        if operation == "start":
            wait_until(lambda: Lock(Cluster(cluster.folder)).holder() is not None, 30, "there is a supervisor")
        time.sleep(moment)
        kill_supervisor(cluster)
        command.wait(60 * PATIENCE)
    finally:
        command.kill()
        command.wait()
    cluster.start()
    assert_sound(cluster)


def test_a_starting_lb_is_adopted_by_the_next_supervisor(
    make_cluster: Callable[..., TestCluster],
) -> None:
    """What it says to the next one counts; the supervisor that died had not heard it yet, or had not written it
    down.
    """
    cluster = make_cluster(worker=1, pool=2, runtime="process")
    cluster.start()
    before = cluster.replicas()
    kill_supervisor(cluster)
    for name in ("state.json", "state.json.spare"):
        path = cluster.folder / ".comet" / name
        content = json.loads(path.read_text())
        for record in content["replicas"]:
            record["state"] = "starting"
        path.write_text(json.dumps(content))
    began = time.monotonic()
    cluster.start()
    assert time.monotonic() - began < 20 * PATIENCE
    after = cluster.replicas()
    assert {name: row["pid"] for name, row in after.items()} == {name: row["pid"] for name, row in before.items()}
    assert_sound(cluster)


def test_a_supervisor_killed_during_an_operation_is_recovered(
    make_cluster: Callable[..., TestCluster], runtime: str
) -> None:
    """A round that fails is noted, and the rest is tried from a new start."""
    random.seed(SEED)
    cluster = make_cluster(worker=2, pool=2, runtime=runtime, shutdown_grace=2)
    cluster.start()
    failed: dict[str, str] = {}
    for number in range(ROUNDS[runtime]):
        operation = OPERATIONS[(number + (runtime == "docker")) % len(OPERATIONS)]
        moment = random.uniform(0.0, 2.5)
        title = f"round {number}: killed {moment:.3f} s after {operation}"
        try:
            attempt(cluster, operation, moment)
        except (AssertionError, subprocess.TimeoutExpired, OSError) as error:
            failed[title] = f"{type(error).__name__}: {error}"
            cluster.comet("stop")
            cluster.start()
        print(title, "FAILED: " + failed[title] if title in failed else "", flush=True)
    print(f"{runtime}: {ROUNDS[runtime]} rounds, {len(failed)} failed, COMET_TEST_SEED={SEED}")
    assert not failed, f"COMET_TEST_SEED={SEED}: {len(failed)} of {ROUNDS[runtime]} rounds failed: {failed}"
    cluster.stop()
    cluster.assert_nothing_left()
