"""The shipped nginx configuration, run by the nginx of this machine behind a load balancer: what clients get of it is
usable.
"""

import contextlib
import gzip
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lb.interface.settings import Settings, UpstreamSpec
from tests.support.cluster import ROOT, free_ports, open_folder
from tests.support.lb import Balancer, Client
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def balancer() -> Iterator[Balancer]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert program is not None, "nginx is missing: scripts/test.sh installs it"
    port = free_ports(1)
    with open_folder() as folder, running(program, folder, port):
        wait_until(lambda: _answers(port), what="nginx answers")
        # The site has nothing at the path of the checks, which would take it out of rotation.
        balancer = Balancer((UpstreamSpec("worker-0", "127.0.0.1", port),), Settings(health_interval=3600))
        try:
            yield balancer
        finally:
            balancer.close()


@contextlib.contextmanager
def running(program: str, folder: Path, port: int) -> Iterator[None]:
    shutil.copytree(ROOT / "examples" / "nginx" / "site", folder / "site")
    (folder / "site" / "deeper").mkdir()
    (folder / "site" / "large.html").write_text("<p>much of the same</p>\n" * 500)
    text = (ROOT / "examples" / "nginx" / "nginx.conf").read_text()
    for shipped, here in (
        ("/tmp/", f"{folder}/"),
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        ("/srv/site", f"{folder}/site"),
    ):
        text = text.replace(shipped, here)
    (folder / "nginx.conf").write_text(text)
    with subprocess.Popen([program, "-c", folder / "nginx.conf", "-e", "stderr"], stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), Client(port):
        return True
    return False


def test_nginx_redirects_to_the_requested_host(balancer: Balancer) -> None:
    """Not to its own port, which no client reaches."""
    answer = balancer.ask(b"GET /deeper HTTP/1.1\r\nHost: front.example:5110\r\n\r\n")
    assert (answer.status, answer["Location"]) == (301, "/deeper/")


def test_nginx_compresses_for_clients_that_accept_it(balancer: Balancer) -> None:
    """Behind a proxy nginx does not, unless it is told to."""
    ask = b"GET /large.html HTTP/1.1\r\nHost: front.example\r\nAccept-Encoding: gzip\r\n\r\n"
    answer = balancer.ask(ask)
    assert answer["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.body) == b"<p>much of the same</p>\n" * 500
    assert balancer.ask(ask.replace(b"Accept-Encoding: gzip\r\n", b""))["Content-Encoding"] is None
