"""Ways to a manager on another machine: by ssh, and by TCP with TLS."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.support.waiting import wait_until
from tests.swarm.hosts import NETWORK, Hosts, sh
from tests.swarm.scenes import listens

MANAGER = f"{NETWORK}.1"
TLS_PORT = 2376

SSHD = """
ListenAddress {address}:22
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
MaxStartups 100
SetEnv DOCKER_HOST={socket}
"""

SSH = """#!/bin/sh
exec /usr/bin/ssh -o IdentityFile={folder}/user -o UserKnownHostsFile={folder}/known "$@"
"""
"""The user's own ssh command, with the keys of this test for ~/.ssh."""


def tls_options(folder: Path) -> str:
    """What has an engine listen on TCP to those alone who bring the key in `folder`, which is made."""
    folder.mkdir()

    def openssl(*words: str) -> None:
        sh("openssl", *words)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *key, "-keyout", f"{folder}/ca-key.pem", "-out", f"{folder}/ca.pem", "-subj", "/CN=ca", "-days",
        "2",
        "-addext", "keyUsage=critical,keyCertSign",
    )  # fmt: skip
    for name, uses in (
        ("server", f"subjectAltName=IP:{MANAGER}\nextendedKeyUsage=serverAuth\n"),
        ("", "extendedKeyUsage=clientAuth\n"),
    ):
        stem = f"{folder}/{name}"
        Path(f"{stem}uses").write_text(uses)
        openssl("req", *key, "-keyout", f"{stem}key.pem", "-out", f"{stem}asked", "-subj", f"/CN={name or 'client'}")
        openssl(
            "x509", "-req", "-in", f"{stem}asked", "-CA", f"{folder}/ca.pem", "-CAkey", f"{folder}/ca-key.pem",
            "-CAcreateserial",
            "-days", "2", "-extfile", f"{stem}uses", "-out", f"{stem}cert.pem",
        )  # fmt: skip
    files = f"--tlscacert {folder}/ca.pem --tlscert {folder}/servercert.pem --tlskey {folder}/serverkey.pem"
    return f"-H tcp://{MANAGER}:{TLS_PORT} --tlsverify {files}"


def by_tls(folder: Path) -> dict[str, str]:
    """The environment that leads to that engine, of somebody whose other programs trust other authorities."""
    others = {"REQUESTS_CA_BUNDLE": f"{folder}/cert.pem"}
    return {
        "DOCKER_HOST": f"tcp://{MANAGER}:{TLS_PORT}",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(folder),
        **others,
    }


@contextlib.contextmanager
def by_ssh(lab: Hosts, folder: Path) -> Iterator[dict[str, str]]:
    """The environment that leads to h1's engine by an ssh server, which runs there meanwhile. The user's own files are
    not touched.
    """
    folder.mkdir()
    for name in ("host", "user"):
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    (folder / "known").write_text(f"{MANAGER} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(SSHD.format(address=MANAGER, folder=folder, socket=lab.socket(1)))
    (folder / "ssh").write_text(SSH.format(folder=folder))
    (folder / "ssh").chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)  # Where sshd's unprivileged part lives; the service makes it otherwise.
    command = [
        *lab.enter(1),
        "setpriv",
        "--pdeathsig",
        "KILL",
        "/usr/sbin/sshd",
        "-D",
        "-e",
        "-f",
        str(folder / "sshd_config"),
    ]
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as server,
    ):
        try:
            wait_until(lambda: listens(lab, f"{MANAGER}:22"), what="the ssh server")
            yield {"DOCKER_HOST": f"ssh://root@{MANAGER}", "PATH": f"{folder}:{os.environ['PATH']}"}
        finally:
            # Each connection has a server of its own, which outlives the first one.
            servers = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
            for each in servers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
