"""Which cluster a command is about, and whose it is: never another folder's, and never "stopped" where it is only
another user's.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import TestCluster, open_cluster, open_folder, warm_commands
from tests.support.users import STRANGER, USER, argv_as, as_root

EVERY = (("ps",), ("stop",), ("clean",), ("events",), ("logs", "worker-0"), ("stats",), ("kill", "worker-0"), ("scale",
         "worker=1"),
         ("restart", "all"), ("reload",), ("faults",), ("dashboard",), ("check",), ("run",), ("run",
         "--detach"))  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[TestCluster]:
    with open_folder() as folder, open_cluster(folder, runtime="process", worker=1, pool=1) as cluster:
        cluster.start()
        yield cluster
        cluster.stop()


def comet(cluster: TestCluster, folder: Path, *arguments: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HOME": str(folder)}
    if uid == 0 and ("run" not in arguments or "--detach" in arguments):
        return warm_commands().run(arguments, folder, environment, 480)
    argv = argv_as(uid, *cluster.command, *arguments)
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=480, check=False)


def runs(cluster: TestCluster) -> bool:
    shown = cluster.ps()
    assert shown["supervisor"]["running"], shown
    assert {row["state"] for row in shown["replicas"]} == {"ready"}, shown
    return len(shown["replicas"]) == 2


@pytest.mark.parametrize(
    "named", ["confg.yaml", "../no/config.yaml", "config.yaml/x", "config.yaml\n", "", "a" * 300, ".comet/config.yaml"]
)
def test_a_missing_config_file_is_bad_usage(cluster: TestCluster, named: str) -> None:
    for number, command in enumerate(EVERY if named == "confg.yaml" else EVERY[1:3]):
        for words in ((*command, "--config", named), ("--config", named, *command))[number % 2 :][:1]:
            refused = comet(cluster, cluster.folder, *words)
            assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (
                2,
                "",
                1 + named.count("\n"),
            ), (
                words,
                refused,
            )
            assert "Traceback" not in refused.stderr
    assert runs(cluster)


def test_a_dangling_link_is_bad_usage(cluster: TestCluster, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").symlink_to(cluster.folder / "nowhere")
    for words in (("stop",), ("stop", "--config", "config.yaml"), ("clean",)):
        assert comet(cluster, tmp_path, *words).returncode in (2, 3)
    assert runs(cluster)


def test_a_folder_with_state_is_the_cluster_without_a_config_too(cluster: TestCluster, tmp_path: Path) -> None:
    config, kept = cluster.folder / "config.yaml", cluster.folder / "config.kept"
    config.rename(kept)
    try:
        assert "lb-0" in comet(cluster, cluster.folder, "ps").stdout
        for word in (str(cluster.folder), f"{cluster.folder}/", os.path.relpath(cluster.folder, tmp_path)):
            assert "lb-0" in comet(cluster, tmp_path, "ps", "--config", word).stdout
        refused = comet(cluster, tmp_path, "stop", "--config", str(config))
        assert refused.returncode == 2
        assert (
            refused.stderr
            == f"{config}: there is no such file; for the cluster in that folder: --config {cluster.folder}\n"
        )
        assert comet(cluster, cluster.folder, "run").returncode == 2
        assert comet(cluster, tmp_path, "stop", "--config", str(tmp_path)).returncode == 2
    finally:
        kept.rename(config)
    assert runs(cluster)


def test_stop_and_clean_name_their_folder(tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="process", worker=1, pool=1) as cluster:
        cluster.start()
        (tmp_path / "config.yaml").unlink()
        done = cluster.comet("stop")
        assert done.returncode == 0
        assert str(tmp_path) in done.stdout
        assert cluster.comet("stop").returncode == 3
        done = cluster.comet("clean")
        assert done.returncode == 0
        assert done.stdout.splitlines()[0] == f"cleaning the cluster in {tmp_path}"


# Other users.


@as_root
def test_another_users_cluster_is_not_called_stopped(cluster: TestCluster) -> None:
    config = str(cluster.folder / "config.yaml")
    for command in EVERY:
        if command[0] == "check":
            continue
        refused = comet(cluster, Path("/"), *command, "--config", config, uid=STRANGER)
        assert refused.returncode == 1, (command, refused)
        assert refused.stderr.startswith(f"{cluster.folder}/.comet: permission denied, it belongs to root"), (
            command,
            refused,
        )
        assert len(refused.stderr.splitlines()) == 1
    assert comet(cluster, Path("/"), "check", "--config", config, uid=STRANGER).returncode == 0
    assert comet(cluster, cluster.folder, "completion", "names", uid=STRANGER).returncode == 0
    assert runs(cluster)


@as_root
def test_an_unreadable_folder_is_named_with_its_owner() -> None:
    """Without the right to read every file, which the tests' Python needs: so what is asked is imported before the
    rights are given up.
    """
    with tempfile.TemporaryDirectory() as locked:
        code = (
            "import argparse, os, pwd, encodings.idna; from comet.cli.options import cluster_of; from "
            "comet.common.errors import UserError\n"
            f"os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})\n"
            f"for name in ({locked!r} + '/config.yaml', {locked!r}):\n"
            "    try: cluster_of(argparse.Namespace(config=name)); print('found')\n"
            "    except UserError as error: print(error.exit_code, error.message)\n"
        )
        argv = [sys.executable, "-c", code]
        done = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == f"1 {locked}/config.yaml: permission denied, {locked} belongs to root"
    assert second == f"1 {locked}: permission denied, it belongs to root"


@as_root
def test_a_cluster_of_a_user_and_root_in_turn() -> None:
    with open_folder() as folder, open_cluster(folder, runtime="process", worker=1, pool=1) as cluster:
        os.chown(folder, USER, USER)
        os.chown(folder / "config.yaml", USER, USER)
        assert comet(cluster, folder, "run", "--detach", uid=USER).returncode == 0
        assert "lb-0" in comet(cluster, folder, "ps").stdout, "root may look"
        assert comet(cluster, folder, "kill", "lb-0").returncode == 0
        assert comet(cluster, folder, "stop").returncode == 0
        assert comet(cluster, folder, "run", "--detach").returncode == 0, "and run it"
        for command in (("ps",), ("stop",), ("events",), ("run",)):
            refused = comet(cluster, folder, *command, uid=USER)
            assert refused.returncode == 1
            assert "permission denied, it belongs to root" in refused.stderr, refused
            assert "Traceback" not in refused.stderr
        assert comet(cluster, folder, "stop").returncode == 0
        refused = comet(cluster, folder, "run", "--detach", uid=USER)
        assert refused.returncode == 1
        assert f"sudo chown -R 'uid {USER}' " not in refused.stderr
        advice = f"sudo chown -R {USER} {folder}/.comet"
        assert refused.stderr.strip().endswith(advice), refused.stderr
        subprocess.run(advice.removeprefix("sudo ").split(), check=True)
        again = comet(cluster, folder, "run", "--detach", uid=USER)
        assert again.returncode == 0, again.stderr
        assert comet(cluster, folder, "stop", uid=USER).returncode == 0


@as_root
def test_another_users_process_causes_no_traceback(cluster: TestCluster) -> None:
    """As where a service has taken another user's rights: what may not be signaled is named with its owner."""
    code = (
        "import os, sys, psutil; from comet.cli import main as cli\n"
        "def deny(options): psutil.Process(1).send_signal(0); os.kill(1, 0)\n"
        "cli.implementation = lambda command: deny\n"
        "sys.exit(cli.main(['ps']))\n"
    )
    argv = argv_as(STRANGER, cluster.command[0], "-c", code)
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "process 1: permission denied, it belongs to root\n")
