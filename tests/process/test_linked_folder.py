"""A cluster's folder by a link to it: every command does there what it does by the folder's own path."""

from pathlib import Path

import pytest

from comet.commands.table import on_command_line
from comet.state.directory import Cluster
from comet.state.lock import Lock
from tests.support.cluster import open_cluster

REFUSED = {"run": 1, "init": 1, "race": 2}
"""What is refused for a reason of its own, with its exit code: it runs already, is there already, too many rounds."""

ARGUMENTS = {
    "check": (),
    "doctor": (),
    "run": ("--detach",),
    "ps": (),
    "stats": (),
    "events": (),
    "logs": ("lb-0",),
    "inspect": ("lb-0",),
    "completion": ("names",),
    "help": (),
    "dashboard": (),
    "kill": ("lb-0",),
    "wait": ("all", "--for=ready"),
    "restart": ("lb-0",),
    "scale": ("worker=2",),
    "drain": ("worker-1",),
    "undrain": ("worker-1",),
    "pause": ("--for", "1s"),
    "resume": (),
    "faults": ("worker-0", "--failure", "0"),
    "reload": (),
    "scenario": ("s.yaml",),
    "chaos": ("--for", "100ms"),
    "race": ("--rounds", "101"),
    "init": (),
    "stop": (),
    "clean": (),
}
"""Each command once, in an order in which each can do its work. `compare` has clusters of its own."""


@pytest.mark.parametrize("named", ["link/config.yaml", "link"])
def test_every_command_works_through_a_linked_folder(tmp_path: Path, named: str) -> None:
    assert set(ARGUMENTS) == set(on_command_line()) - {"compare"}
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    config = str(tmp_path / named)
    with open_cluster(tmp_path / "real", runtime="process", worker=1, pool=1, admin_port="auto") as cluster:
        (cluster.folder / "s.yaml").write_text("clients: 1\nsteps: [{for: 200ms, expect: {errors: 0}}]\n")
        done = cluster.comet("run", "--detach", "--config", str(tmp_path / "link/config.yaml"))
        assert done.returncode == 0, done.stderr
        for command, arguments in ARGUMENTS.items():
            done = cluster.comet(command, *arguments, "--config", config)
            said = command, done.stdout, done.stderr
            assert done.returncode == REFUSED.get(command, 0), said
            assert "symbolic link" not in done.stderr, said
            if command == "stop":
                cluster.assert_nothing_left()
        assert not (cluster.folder / ".comet/events.jsonl").exists()


def test_a_folder_and_its_link_are_one_cluster(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with open_cluster(tmp_path / "real", runtime="process", worker=1, pool=1) as cluster:
        cluster.start()
        pid = Lock(Cluster(tmp_path / "link")).holder()
        assert pid == cluster.ps()["supervisor"]["pid"]
        refused = cluster.comet("run", "--detach", "--config", str(tmp_path / "link/config.yaml"))
        assert (refused.returncode, f"is running already (PID {pid})" in refused.stderr) == (1, True), refused
        done = cluster.comet("stop", "--config", str(tmp_path / "link"))
        assert done.returncode == 0, done.stderr
        cluster.assert_nothing_left()


def test_a_link_in_place_of_the_state_is_refused_by_both_paths(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "elsewhere").mkdir()
    with open_cluster(tmp_path / "real", runtime="process", worker=1, pool=1) as cluster:
        state = cluster.folder / ".comet"
        state.symlink_to(tmp_path / "elsewhere")
        for name in ("real", "link"):
            for command in (("ps",), ("stop",), ("run", "--detach"), ("clean",)):
                refused = cluster.comet(*command, "--config", str(tmp_path / name / "config.yaml"))
                assert refused.returncode == 1, (command, refused)
                assert "is a symbolic link where a directory belongs; move it away" in refused.stderr
        assert list((tmp_path / "elsewhere").iterdir()) == []
        state.unlink()
