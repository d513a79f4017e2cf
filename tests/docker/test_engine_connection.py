"""Where the engine is looked for, and the one line that says why it cannot be used."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from comet.engine.connection import connect
from comet.engine.engine_error import ErrorKind
from tests.support.copies import copy_modules
from tests.support.fake_engine import listening

SYSTEM_PYTHON = (
    "/usr/bin/python3"  # one that any user may run; comet.engine.connection needs nothing but the standard library
)


def test_no_permission_on_the_socket_names_its_group() -> None:
    with listening(None) as path, tempfile.TemporaryDirectory(dir="/tmp") as copy:
        # The clone may lie where nobody else can read it.
        os.chmod(copy, 0o755)
        copy_modules(Path(copy), "comet.engine.connection")
        os.chmod(path, 0o600 if os.getuid() == 0 else 0)
        command = [SYSTEM_PYTHON, "-m", "comet.engine.connection"]
        if os.getuid() == 0:  # whom no mode stops
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        environment = {"DOCKER_HOST": f"unix://{path}", "PATH": os.environ["PATH"], "HOME": "/", "PYTHONPATH": copy}
        result = subprocess.run(
            command, env=environment | {"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, check=False
        )
    assert result.returncode == ErrorKind.FORBIDDEN
    assert result.stderr.startswith(f"no permission on the Docker socket {path}: join its group")
    assert result.stderr.count("\n") == 1


def test_connect_gives_a_client_of_the_engine_here() -> None:
    client = connect()
    try:
        assert client.version()["ApiVersion"]
    finally:
        client.close()


def test_a_cluster_without_containers_costs_no_import_of_the_sdk() -> None:
    """It is 63 of the modules that a supervisor of plain processes would load at each start."""
    ask = "import sys; from comet.engine.connection import has_containers, has_services; "
    ask += "print(*(has_containers(label) for label in sys.argv[1:]), has_services('any'), 'docker' in sys.modules)"
    client = connect()
    try:
        empty = io.BytesIO()
        tarfile.open(fileobj=empty, mode="w").close()
        image = client.api.import_image_from_data(empty.getvalue(), repository="comet-test-empty")
        made = client.containers.create("comet-test-empty", "none", labels={"comet.test.found": 'é, "1"'})
        try:
            labels = ["comet.test.found", 'comet.test.found=é, "1"', "comet.test.found=2", "comet.test.absent"]
            done = subprocess.run([sys.executable, "-c", ask, *labels], capture_output=True, text=True, check=False)
            assert done.stdout.split() == ["True", "True", "False", "False", "False", "False"], (image, done.stderr)
        finally:
            made.remove()
            client.images.remove("comet-test-empty")
    finally:
        client.close()
