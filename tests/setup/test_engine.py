"""Where the engine is looked for, and the one line that says why it cannot be used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from comet.engine import EngineError, Trouble, connect, ping, socket_path
from tests.setup.fake_engine import answer, listening

PROJECT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"  # one that any user may run; comet.engine needs nothing but the standard library


def docker_config(folder: Path, current: str | None = None, **contexts: str) -> dict[str, str]:
    """A configuration of the docker command with these contexts (name=address); returns the environment that names it."""
    (folder / "config.json").write_text(json.dumps({"currentContext": current} if current else {}))
    for name, address in contexts.items():
        meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
        meta.parent.mkdir(parents=True)
        meta.write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": address}}}))
    return {"DOCKER_CONFIG": str(folder)}


def trouble_of(path: str, timeout: float = 5.0) -> EngineError:
    with pytest.raises(EngineError) as caught:
        ping(path, timeout)
    assert "\n" not in caught.value.message
    return caught.value


def test_without_any_setting_it_is_the_socket_of_the_system(tmp_path: Path) -> None:
    assert socket_path({"HOME": str(tmp_path)}) == "/var/run/docker.sock"
    assert socket_path(docker_config(tmp_path)) == "/var/run/docker.sock"
    assert socket_path(docker_config(tmp_path, "default")) == "/var/run/docker.sock"


def test_docker_host_wins_over_the_context(tmp_path: Path) -> None:
    environment = docker_config(tmp_path, "rootless", rootless="unix:///run/user/1000/docker.sock")
    assert socket_path(environment) == "/run/user/1000/docker.sock"
    assert socket_path(environment | {"DOCKER_HOST": "unix:///elsewhere"}) == "/elsewhere"


def test_docker_context_wins_over_the_configured_one(tmp_path: Path) -> None:
    environment = docker_config(tmp_path, "one", one="unix:///one", two="unix:///two")
    assert socket_path(environment | {"DOCKER_CONTEXT": "two"}) == "/two"
    assert socket_path(environment | {"DOCKER_CONTEXT": "default"}) == "/var/run/docker.sock"


def test_a_broken_docker_configuration_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{broken")
    assert socket_path({"DOCKER_CONFIG": str(tmp_path)}) == "/var/run/docker.sock"


def test_a_context_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="'gone' does not exist"):
        socket_path(docker_config(tmp_path, "gone"))


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:2375", "ssh://user@elsewhere", "npipe:////./pipe/docker_engine", "10.0.0.1:2375"])
def test_f41_a_remote_engine_is_refused_in_one_line(address: str, tmp_path: Path) -> None:
    for environment in ({"DOCKER_HOST": address}, docker_config(tmp_path, "far", far=address)):
        with pytest.raises(EngineError) as caught:
            socket_path(environment)
        assert caught.value.trouble is Trouble.REMOTE
        assert address in caught.value.message
        assert "\n" not in caught.value.message


def test_an_engine_that_answers_is_no_trouble() -> None:
    with listening(answer("200 OK", b"OK")) as path:
        ping(path)


def test_no_socket_means_no_engine() -> None:
    error = trouble_of("/nonexistent/docker.sock")
    assert error.trouble is Trouble.ABSENT
    assert "scripts/up.sh" in error.message


def test_a_socket_left_by_a_dead_engine_means_no_engine(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
    error = trouble_of(str(tmp_path / "sock"))
    assert error.trouble is Trouble.ABSENT
    assert "connection refused" in error.message


def test_an_engine_that_hangs_is_given_up_after_the_timeout() -> None:
    with listening(None) as path:
        error = trouble_of(path, timeout=0.05)
    assert error.trouble is Trouble.SILENT
    assert "does not answer within 0.05 s" in error.message


def test_an_engine_in_trouble_is_quoted() -> None:
    with listening(answer("503 Service Unavailable", b"")) as path:
        assert "503 Service Unavailable" in trouble_of(path).message


def test_something_else_at_the_socket_is_told_from_an_engine() -> None:
    with listening(b"+OK redis\r\n") as path:
        assert "is not a Docker engine" in trouble_of(path).message


@pytest.mark.slow
def test_no_permission_on_the_socket_names_its_group() -> None:
    with listening(None) as path, tempfile.TemporaryDirectory(dir="/tmp") as copy:
        # The clone may lie where nobody else can read it.
        os.chmod(copy, 0o755)
        os.mkdir(f"{copy}/comet", 0o755)
        for name in ("__init__.py", "errors.py", "engine.py"):
            shutil.copy(PROJECT / "comet" / name, f"{copy}/comet/{name}")
        os.chmod(path, 0o600 if os.getuid() == 0 else 0)
        command = [SYSTEM_PYTHON, "-m", "comet.engine"]
        if os.getuid() == 0:  # whom no mode stops
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        environment = {"DOCKER_HOST": f"unix://{path}", "PATH": os.environ["PATH"], "HOME": "/", "PYTHONPATH": copy}
        result = subprocess.run(command, env=environment | {"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, check=False)
    assert result.returncode == Trouble.FORBIDDEN
    assert result.stderr.startswith(f"no permission on the Docker socket {path}: join its group")
    assert result.stderr.count("\n") == 1


@pytest.mark.docker
def test_connect_gives_a_client_of_the_engine_here() -> None:
    client = connect()
    try:
        assert client.version()["ApiVersion"]
    finally:
        client.close()


def test_connect_says_in_one_line_that_no_engine_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(EngineError, match=r"no Docker engine answers at /nonexistent/docker\.sock"):
        connect()
