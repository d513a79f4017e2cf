"""The one line about an engine on another machine that cannot be used."""

import socket
from pathlib import Path

import pytest

from comet.engine.connection import connect_manager
from comet.engine.engine_error import EngineError
from comet.engine.remote_errors import certificate_error


def line_for(monkeypatch: pytest.MonkeyPatch, address: str, **environment: str) -> str:
    for name in ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"DOCKER_HOST": address, **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EngineError) as caught:
        connect_manager()
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("tcp://127.0.0.1:99999", "Port out of range 0-65535"),
        ("tcp://127.0.0.1:notaport", "Port could not be cast to integer value as 'notaport'"),
        ("tcp://[::1:2375", "Invalid IPv6 URL"),
        ("foo://host", "Invalid bind address protocol: foo://host"),
    ],
)
def test_an_address_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str, why: str) -> None:
    assert line_for(monkeypatch, address) == f"the Docker engine at {address} cannot be used: {why}"


@pytest.mark.parametrize("address", ["unix://", "tcp://", "nonsense"])
def test_an_address_without_a_host_or_path_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    assert line_for(monkeypatch, address) == f"DOCKER_HOST names no engine: {address} has no host or path"


def test_a_refused_connection_is_said_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{sock.getsockname()[1]}"
        assert line_for(monkeypatch, address).endswith(" cannot be used: Connection refused")


@pytest.mark.slow
def test_a_silent_engine_is_said_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comet.engine.connection.MANAGER_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert line_for(monkeypatch, address).endswith(" cannot be used: no answer within 0.2 s")


def test_the_files_of_tls_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    for name in ("ca.pem", "cert.pem", "key.pem"):
        line = line_for(monkeypatch, "tcp://127.0.0.1:1", **settings)
        assert f"{tmp_path}/{name}: No such file or directory; for TLS, DOCKER_CERT_PATH names the folder" in line
        (tmp_path / name).write_text("nothing")
    assert f"{tmp_path}/ca.pem holds no certificate" in line_for(monkeypatch, "tcp://127.0.0.1:1", **settings)
    del settings["DOCKER_TLS_VERIFY"]
    assert f"{tmp_path}/cert.pem and {tmp_path}/key.pem hold no" in str(certificate_error(settings))
    assert certificate_error({**settings, "DOCKER_TLS_VERIFY": ""}) is None
    assert certificate_error({}) is None
