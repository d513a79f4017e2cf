"""`comet.cluster`: started, controlled, observed from Python, and gone with its process."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

import comet
from comet.host import process_identity
from comet.host.process_identity import is_alive
from tests.support.cluster import ROOT, free_ports
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture(scope="module")
def shared() -> Iterator[comet.RunningCluster]:
    with comet.cluster(worker=2, pool=1) as made:
        yield made


@pytest.fixture
def cluster(shared: comet.RunningCluster) -> comet.RunningCluster:
    """The cluster that these tests share, as it was at its start."""
    shared.faults(clear=True)
    shared.scale(worker=2, pool=1)
    shared.wait_ready()
    return shared


def hello(cluster: comet.RunningCluster) -> requests.Response:
    return requests.get(f"{cluster.url}/api/v1/hello", timeout=60)


def processes_in(folder: Path) -> list[int]:
    """The living processes that belong to the cluster in this folder."""
    marks = {each.pid: process_identity.environment(each.pid) for each in process_identity.processes() if each.alive}
    lines = {pid: process_identity.command_line(pid) for pid in marks}
    return [
        pid
        for pid, mark in marks.items()
        if mark.get("COMET_FOLDER", "").endswith(f":{folder}") or any(str(folder) in word for word in lines[pid])
    ]


def test_it_answers_at_its_url(cluster: comet.RunningCluster) -> None:
    assert cluster.url.startswith("http://127.0.0.1:")
    assert not cluster.url.endswith("/")
    assert cluster.urls == (cluster.url,)
    assert {hello(cluster).headers["X-Comet-Worker"] for _ in range(4)} == {"worker-0", "worker-1"}
    assert cluster.dashboard is None


def test_faults_are_effective_when_the_call_returns(cluster: comet.RunningCluster) -> None:
    cluster.faults("all", failure=100, status=503, for_="20s")
    assert {hello(cluster).status_code for _ in range(10)} == {503}
    cluster.faults(clear=True)
    assert {hello(cluster).status_code for _ in range(10)} == {200}
    cluster.faults("worker-1", failure=100, count=2)
    assert sorted(hello(cluster).status_code for _ in range(8)) == [200] * 6 + [500] * 2


def test_a_leased_fault_ends_by_itself(cluster: comet.RunningCluster) -> None:
    def fails() -> bool:
        cluster.faults(failure=100, for_=0.8)
        return hello(cluster).status_code == 500

    wait_until(fails, what="a request that comes before the end")
    assert wait_until(lambda: hello(cluster).status_code == 200, 5)


def test_a_killed_worker_is_back_after_the_wait(cluster: comet.RunningCluster) -> None:
    before = cluster.replicas()["worker-1"]
    cluster.kill("worker-1")
    died = cluster.wait_for("replica_exited", replica="worker-1")
    assert died["signal"] == "SIGKILL"
    assert cluster.wait_for("replica_ready", replica="worker-1")["number"] > died["number"]
    cluster.wait_ready()
    after = cluster.replicas()["worker-1"]
    assert (after.state, after.restarts, after.port) == ("ready", before.restarts + 1, before.port)
    assert after.pid != before.pid
    assert "exited by SIGKILL" in cluster.logs("worker-1")


def test_wait_ready_waits_for_a_death_that_is_not_seen_yet(cluster: comet.RunningCluster) -> None:
    for _ in range(3):
        cluster.kill("worker-0")
        cluster.wait_ready()
        assert cluster.events("replica_exited", replica="worker-0")
        assert {hello(cluster).headers["X-Comet-Worker"] for _ in range(4)} == {"worker-0", "worker-1"}


def test_it_scales_and_restarts(cluster: comet.RunningCluster) -> None:
    cluster.scale(worker=3, pool=2)
    assert sorted(cluster.replicas()) == ["lb-0", "lb-1", "worker-0", "worker-1", "worker-2"]
    assert len(cluster.urls) == 2
    assert requests.get(f"{cluster.urls[1]}/healthz", timeout=60).status_code == 200
    pids = {name: row.pid for name, row in cluster.replicas().items()}
    cluster.restart("lb")
    changed = {name for name, row in cluster.replicas().items() if row.pid != pids[name]}
    assert changed == {"lb-0", "lb-1"}
    assert cluster.wait_for("replica_stopped", replica="lb-1")


def test_statistics_are_exact(cluster: comet.RunningCluster) -> None:
    before = cluster.stats()["total"]
    cluster.faults(failure=100, count=1)
    for _ in range(10):
        hello(cluster)
    after = cluster.stats()["total"]
    assert after["successful"] - before["successful"] == 8
    assert after["failed"] - before["failed"] == 2


def test_what_does_not_come_is_told_with_what_came(cluster: comet.RunningCluster) -> None:
    with pytest.raises(TimeoutError, match=r"no event replica_exited replica=lb-0 within 0.1 s; the last events were:"):
        cluster.wait_for("replica_exited", replica="lb-0", timeout=0.1)
    assert cluster.wait_for(lambda event: event["event"] == "supervisor_started", since=0)["pid"]


@pytest.mark.parametrize("signal", ["SEGV", "TERM"])
def test_wait_ready_waits_for_a_death_by_any_signal(cluster: comet.RunningCluster, signal: str) -> None:
    """Also by one that a worker handles, so that it dies a while later."""
    for name in ("worker-0", "lb-0"):
        before = cluster.replicas()[name]
        cluster.kill(name, signal)
        cluster.wait_ready()
        after = cluster.replicas()[name]
        assert (after.state, after.restarts) == ("ready", before.restarts + 1)
        assert after.pid != before.pid


def test_restore_clears_the_faults_of_others(cluster: comet.RunningCluster) -> None:
    config = ("--config", str(cluster.folder / "config.yaml"))
    for target in ("worker-0", "front"):
        command = [sys.executable, "-m", "comet", "faults", target, "--failure", "100", *config]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert hello(cluster).status_code == 500
    cluster.restore()
    assert {hello(cluster).status_code for _ in range(4)} == {200}


def test_a_signal_may_be_a_number(cluster: comet.RunningCluster) -> None:
    cluster.kill("worker-0", 18)
    cluster.kill("worker-0", "SIGCONT")
    assert cluster.replicas()["worker-0"].state == "ready"


def test_mistakes_are_told_in_one_line(cluster: comet.RunningCluster) -> None:
    with pytest.raises(comet.UserError, match=r"worker-9: no such replica \(there are"):
        cluster.kill("worker-9")
    with pytest.raises(comet.UserError, match="faults: falure: not known"):
        cluster.faults(falure=3)
    with pytest.raises(comet.UserError, match="no fault is named"):
        cluster.faults("worker-0")
    with pytest.raises(comet.UserError, match="scale: worker: '3' is not a whole number"):
        cluster.scale(worker="3")  # type: ignore[arg-type]
    with pytest.raises(comet.UserError, match="scale: worker, pool or both must be given"):
        cluster.scale()
    with pytest.raises(comet.UserError, match="restart: target: must be a replica's name"):
        cluster.restart(5)  # type: ignore[arg-type]
    with pytest.raises(comet.UserError, match="kill: name: must be a replica's name"):
        cluster.kill(None)  # type: ignore[arg-type]
    for name in ("worker-9", "../config.yaml", "", 5):
        with pytest.raises(comet.UserError, match=r"no such replica, and no log of one \(there are .*worker-0"):
            cluster.logs(name)  # type: ignore[arg-type]
    with pytest.raises(comet.UserError, match="no such signal"):
        cluster.kill("worker-0", -9)
    with pytest.raises(comet.UserError, match="logs: tail: -1 is not usable"):
        cluster.logs("worker-0", tail=-1)
    with pytest.raises(comet.UserError, match=r"replica_redy: no event has this name \(did you mean replica_ready"):
        cluster.wait_for("replica_redy")
    with pytest.raises(comet.UserError, match="foo: no event has this name"):
        cluster.events("foo")
    for since in ("x", {}, True):
        with pytest.raises(comet.UserError, match=r"since: .* is neither an event nor its number"):
            cluster.wait_for("replica_ready", since=since)  # type: ignore[arg-type]
    for timeout in ("1", -1, None, float("nan")):
        with pytest.raises(comet.UserError, match=r"timeout: .* is not usable"):
            cluster.wait_for("replica_ready", timeout=timeout)  # type: ignore[arg-type]
        with pytest.raises(comet.UserError, match=r"timeout: .* is not usable"):
            cluster.wait_ready(timeout)  # type: ignore[arg-type]
    for value in (object(), b"x", {1}):
        with pytest.raises(comet.UserError, match=r"faults: body: .* cannot be a setting"):
            cluster.faults("front", failure=100, body=value)  # type: ignore[arg-type]
    for wrong in (5, b"config.yaml", ["config.yaml"]):
        with pytest.raises(comet.UserError, match="is not the path of a config file"):
            comet.cluster(wrong)  # type: ignore[arg-type]
    for command in (b"x", [b"x"]):
        with pytest.raises(comet.UserError, match=r"(cannot be a setting|is not a command line)"):
            comet.cluster(worker_command=command).start()
    for command in ("''", [""]):
        with pytest.raises(comet.UserError, match=r"worker_command: .*: its first word is empty"):
            comet.cluster(worker_command=command).start()
    with pytest.raises(comet.UserError, match=r"comet.cluster: wroker: unknown key"):
        comet.cluster(wroker=3).start()
    with pytest.raises(comet.UserError, match="it does not run"):
        comet.cluster().url  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'clutser'"):
        comet.clutser  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    "use",
    [
        comet.RunningCluster.restore,
        comet.RunningCluster.wait_ready,
        comet.RunningCluster.stats,
        comet.RunningCluster.replicas,
        comet.RunningCluster.events,
        comet.RunningCluster.reload,
        comet.RunningCluster.resume,
        lambda cluster: cluster.kill("worker-0"),
        lambda cluster: cluster.logs("worker-0"),
        lambda cluster: cluster.wait_for("replica_ready"),
    ],
)
def test_a_cluster_that_does_not_run_says_so(use: Callable[[comet.RunningCluster], object]) -> None:
    with pytest.raises(comet.UserError, match="it does not run"):
        use(comet.cluster())


def test_a_second_start_begins_with_the_first_keys() -> None:
    one = comet.cluster(worker=1, pool=1)
    try:
        one.start().reload(failure=100, worker=2)
        assert hello(one).status_code == 500
        one.stop()
        one.start()
        assert (hello(one).status_code, len(one.replicas())) == (200, 2)
        one.restore()
        assert len(one.replicas()) == 2
    finally:
        one.stop()


def test_a_file_that_was_reloaded_is_what_restore_restores(tmp_path: Path) -> None:
    file, first = tmp_path / "config.yaml", free_ports(30)
    common = f"runtime: process\npool: 1\navg-delay: 0\nload-balancer-port: {first}\nworker-port: {first + 10}\n"
    file.write_text(f"{common}admin-port: 0\nworker: 1\n")
    with comet.cluster(file) as one:
        file.write_text(f"{common}admin-port: 0\nworker: 2\n")
        one.reload()
        one.scale(worker=3)
        one.restore()
        assert set(one.replicas()) == {"worker-0", "worker-1", "lb-0"}


def test_a_config_is_reloaded_and_a_bad_one_refused() -> None:
    with comet.cluster(worker=1, pool=1, admin_port="auto") as one:
        assert requests.get(f"{one.dashboard}/healthz", timeout=60).status_code == 200
        one.reload(failure=100, worker=2)
        assert hello(one).status_code == 500
        assert len(one.replicas()) == 3
        with pytest.raises(comet.UserError, match=r"comet.cluster: failure: 101 is out of range"):
            one.reload(failure=101)
        with pytest.raises(comet.UserError, match=r"^comet\.cluster: runtime: cannot change while the cluster runs"):
            one.reload(runtime="docker")
        one.reload(failure=None)
        assert hello(one).status_code == 200
        folder = one.folder
    assert not folder.exists()


def test_nothing_is_left_even_where_requests_hang(tmp_path: Path) -> None:
    with comet.cluster(worker=1, pool=1) as one:
        folder, url = one.folder, one.url
        one.faults(hang=50)
        with contextlib.suppress(requests.Timeout):
            for _ in range(20):
                requests.get(f"{url}/api/v1/hello", timeout=0.3)
        began = time.monotonic()
    assert time.monotonic() - began < 10 * PATIENCE
    assert not folder.exists()
    assert processes_in(folder) == []
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=1)


def test_nothing_is_left_where_the_test_kills_the_supervisor() -> None:
    with comet.cluster(worker=1, pool=1) as one:
        folder = one.folder
        assert one._process is not None
        one._process.kill()
        one._process.wait()
        with pytest.raises(comet.UserError, match=r"the supervisor does not answer .it has ended"):
            one.kill("worker-0")
        assert processes_in(folder)
    assert processes_in(folder) == []
    assert not folder.exists()


def program(tmp_path: Path, text: str) -> "subprocess.Popen[str]":
    """A Python process that prints the folder of its cluster, and a line for each further step."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(text))
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True, env=environment)


LASTS = """
    import comet, time
    with comet.cluster(worker=1, pool=1) as c:
        print(c.folder, flush=True)
        time.sleep(600)
"""


def test_nothing_is_left_where_the_process_is_killed(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with program(tmp_path, LASTS) as running:
            assert running.stdout is not None
            folder = Path(running.stdout.readline().strip())
            assert processes_in(folder)
            running.send_signal(number)
            running.wait()
        wait_until(lambda folder=folder: not processes_in(folder), 20, "all processes have ended")
        assert folder.exists() == (number != signal.SIGINT)
    with program(tmp_path, LASTS.replace("time.sleep(600)", "pass")) as following:
        following.wait()
    assert list(tmp_path.glob("comet-*/*")) == []


def test_the_next_cluster_ends_what_two_killed_processes_leave(tmp_path: Path) -> None:
    text = LASTS.replace("c.folder", "c.folder, c._process.pid")
    with program(tmp_path, text) as running:
        assert running.stdout is not None
        name, pid = running.stdout.readline().split()
        os.kill(int(pid), signal.SIGSTOP)
        running.kill()
        os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: not is_alive(int(pid), None), what="the supervisor's end")
    assert processes_in(Path(name))
    with program(tmp_path, LASTS.replace("time.sleep(600)", "pass")) as following:
        following.wait()
    assert processes_in(Path(name)) == []
    assert not Path(name).exists()


def test_a_forked_child_leaves_the_cluster_alone(tmp_path: Path) -> None:
    text = """
        import comet, os, urllib.request
        with comet.cluster(worker=1, pool=1) as c:
            print(c.folder, flush=True)
            if os.fork() == 0:
                raise SystemExit
            os.wait()
            print(urllib.request.urlopen(c.url + "/healthz").status, flush=True)
    """
    with program(tmp_path, text) as running:
        said, _ = running.communicate(timeout=60 * PATIENCE)
    assert said.splitlines()[1:] == ["200"]
    assert not Path(said.split()[0]).exists()


def test_a_config_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("runtime: process\nworker: 1\npool: 1\nload-balancer-port: 0\nworker-port: 0\nadmin-port: 0\n")
    with pytest.raises(comet.UserError, match=r"comet.cluster: worker: set it in .*config.yaml, which is named too"):
        comet.cluster(file, worker=3)
    with comet.cluster(file) as one:
        assert one.folder == tmp_path
        assert requests.get(f"{one.url}/healthz", timeout=60).status_code == 200
        pids = {name: row.pid for name, row in one.replicas().items()}
        with pytest.raises(comet.UserError, match="a supervisor is running already"):
            comet.cluster(file).start()
        assert {name: row.pid for name, row in one.replicas().items()} == pids
        assert requests.get(f"{one.url}/healthz", timeout=60).status_code == 200
    assert file.exists()
    assert processes_in(tmp_path) == []


def test_a_command_of_ones_own_gets_faults_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "index.html").write_text("mine")
    command = [sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"]
    with comet.cluster(worker=2, pool=1, worker_command=command, health_path="/") as one:
        assert requests.get(one.url, timeout=60).text == "mine"
        one.faults(failure=100, for_="20s")
        assert requests.get(one.url, timeout=60).status_code == 500
        # A load balancer counts a request after it has sent the answer.
        wait_until(lambda: one.stats()["total"]["injections"] == {"failure": 1}, what="its count")


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(comet.UserError, match="worker-0 does not become ready"):
        comet.cluster(worker=1, pool=1, worker_command="sh -c 'echo sad; exit 3'").start()
    assert list((tmp_path / f"comet-{os.getuid()}").iterdir()) == []


def test_a_second_start_knows_nothing_of_what_was_killed_before() -> None:
    made = comet.cluster(worker=1, pool=1)
    made.start()
    made.kill("worker-0")
    made.stop()
    with made:
        made.wait_ready(timeout=5)
        assert hello(made).status_code == 200


def test_a_start_that_is_refused_names_the_argument() -> None:
    with pytest.raises(comet.UserError, match=r"^comet\.cluster: stats_dir: '/' names no file"):
        comet.cluster(worker=1, pool=1, stats_dir="/").start()
