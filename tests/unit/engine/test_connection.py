"""Where the engine is looked for, and the one line that says why it cannot be used."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import pytest

from comet.engine.connection import connect, ping, socket_path
from comet.engine.engine_error import EngineError, ErrorKind
from tests.support.fake_engine import answer, listening


def docker_config(folder: Path, current: str | None = None, **contexts: str) -> dict[str, str]:
    """A configuration of the docker command with these contexts (name=address); returns the environment that names
    it.
    """
    (folder / "config.json").write_text(json.dumps({"currentContext": current} if current else {}))
    for name, address in contexts.items():
        meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
        meta.parent.mkdir(parents=True)
        meta.write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": address}}}))
    return {"DOCKER_CONFIG": str(folder)}


def trouble_of(path: str, timeout: float = 120.0) -> EngineError:
    with pytest.raises(EngineError) as caught:
        ping(path, timeout)
    assert "\n" not in caught.value.message
    return caught.value


def answers_ping(path: str) -> bool:
    try:
        ping(path)
    except EngineError:
        return False
    return True


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


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:2375", "ssh://user@elsewhere", "npipe:////./pipe/docker_engine", "10.0.0.1:2375"]
)
def test_f41_a_remote_engine_is_refused_in_one_line(address: str, tmp_path: Path) -> None:
    for environment in ({"DOCKER_HOST": address}, docker_config(tmp_path, "far", far=address)):
        with pytest.raises(EngineError) as caught:
            socket_path(environment)
        assert caught.value.kind is ErrorKind.REMOTE
        assert address in caught.value.message
        assert "\n" not in caught.value.message


def test_an_engine_that_answers_is_no_trouble() -> None:
    with listening(answer("200 OK", b"OK")) as path:
        assert answers_ping(path)


def test_no_socket_means_no_engine() -> None:
    error = trouble_of("/nonexistent/docker.sock")
    assert error.kind is ErrorKind.ABSENT
    assert "scripts/up.sh" in error.message


def test_a_socket_left_by_a_dead_engine_means_no_engine(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
    error = trouble_of(str(tmp_path / "sock"))
    assert error.kind is ErrorKind.ABSENT
    assert "connection refused" in error.message


def test_an_engine_that_hangs_is_given_up_after_the_timeout() -> None:
    with listening(None) as path:
        error = trouble_of(path, timeout=0.05)
    assert error.kind is ErrorKind.SILENT
    assert "does not answer within 0.05 s" in error.message


def test_an_engine_in_trouble_is_quoted() -> None:
    with listening(answer("503 Service Unavailable", b"")) as path:
        assert "503 Service Unavailable" in trouble_of(path).message


def test_something_else_at_the_socket_is_told_from_an_engine() -> None:
    with listening(b"+OK redis\r\n") as path:
        assert "is not a Docker engine" in trouble_of(path).message


def test_connect_says_in_one_line_that_no_engine_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(EngineError, match=r"no Docker engine answers at /nonexistent/docker\.sock"):
        connect()


@pytest.mark.parametrize("kind", ["missing", "no socket", "nobody listens"])
def test_advice_is_about_what_names_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "sock"
    if kind == "no socket":
        path.write_text("")
    elif kind == "nobody listens":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with pytest.raises(EngineError) as by_host:
        connect()
    assert str(path) in by_host.value.message
    assert "DOCKER_HOST names this socket" in by_host.value.message
    monkeypatch.delenv("DOCKER_HOST")
    for key, value in docker_config(tmp_path, "mine", mine=f"unix://{path}").items():
        monkeypatch.setenv(key, value)
    with pytest.raises(EngineError) as by_context:
        connect()
    assert "the docker context 'mine' names this socket" in by_context.value.message
    assert "systemctl" not in by_host.value.message + by_context.value.message
