"""The image for real: built without a network, not built twice, never run from an old state, runnable as locked down as
the workers are.

A small stand-in takes the worker's place, so that these tests build images of their own and remove them again.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from comet.cli import cleanup
from comet.common.errors import UserError
from comet.engine.connection import connect
from comet.host.checkout import resource
from comet.images import base_image, wheels, worker_image
from comet.images.base_image import BuildCancelled
from comet.state.directory import Cluster
from tests.support.engines import private_engine

MAIN = """
import os, sqlite3, sys
import flask, sqlalchemy, waitress
import importlib.metadata, importlib.util
caches = [importlib.util.cache_from_source(each.__file__) for each in (os, flask, sqlalchemy, waitress)]
compiled = all(map(os.path.exists, caches))
version = importlib.metadata.version("waitress").split(".")[0]
print("greeting", os.getuid(), os.getcwd(), *sys.argv[1:], compiled, version)
"""


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    client = connect()
    yield client
    client.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cluster folder for all, so that wheels are collected once."""
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "worker_app"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "__main__.py").write_text(MAIN)
    (tmp_path / "fault_rules").mkdir()
    (tmp_path / "fault_rules" / "__init__.py").write_text("")
    monkeypatch.setattr(worker_image, "SOURCES", tmp_path)
    return folder


@pytest.fixture
def built(client: docker.DockerClient) -> Iterator[list[str]]:
    """Tags to remove at the end; a test adds its own."""
    tags: list[str] = []
    yield tags
    for tag in tags:
        client.images.remove(tag, force=True)


def due(client: docker.DockerClient) -> str:
    """The tag that the present inputs ask for."""
    inputs = worker_image.image_inputs(wheels.requirements(resource("setup.cfg")))
    return worker_image.image_tag(inputs, (base_image.present(client) or base_image.own_base()).key)


def run(client: docker.DockerClient, tag: str, *arguments: str) -> str:
    output = client.containers.run(
        tag,
        list(arguments),
        remove=True,
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs={"/tmp": "size=8m"},
        init=True,
    )
    return bytes(output).decode().strip()


def test_the_image_is_not_roots_and_rebuilt_only_on_change(
    client: docker.DockerClient, root: Path, sources: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    first = worker_image.ensure_image(client, root, said.append)
    built.append(first)
    assert said[-1].startswith(f"built {first} in ")
    assert run(client, first, "--name", "worker-0") == "greeting 10001 /app --name worker-0 True 3"
    config = client.images.get(first).attrs["Config"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["comet.image"] == "worker"
    assert "8080/tcp" in config["ExposedPorts"]

    said.clear()
    identity = client.images.get(first).id
    assert worker_image.ensure_image(client, root, said.append) == first
    assert client.images.get(first).id == identity
    assert said == []

    # From here on no index is within reach: what was collected is all there is.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (sources / "__main__.py").write_text("print('changed')\n")
    second = worker_image.ensure_image(client, root, said.append)
    built.append(second)
    assert second != first
    assert run(client, second) == "changed"
    assert run(client, first).startswith("greeting")


def test_f34_a_failing_build_stops_with_the_failing_steps_output(
    client: docker.DockerClient, root: Path, sources: Path
) -> None:
    (sources / "broken.py").write_text("def greet(:\n")
    said: list[str] = []
    with pytest.raises(UserError) as caught:
        worker_image.ensure_image(client, root, said.append)
    first, *quoted = caught.value.message.splitlines()
    assert first.startswith("building the worker image failed at Step ")
    assert "compileall" in first
    assert any("SyntaxError" in line for line in quoted)
    assert not worker_image.has_image(client, due(client))


def test_a_build_that_is_cancelled_leaves_no_image(
    client: docker.DockerClient, root: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sources / "__main__.py").write_text(f"print({str(sources)!r})\n")
    endless = tmp_path / "Dockerfile"  # However late the engine hears of it, it has not built the image before.
    endless.write_text(worker_image.DOCKERFILE.read_text() + 'RUN ["python3", "-c", "import time; time.sleep(3600)"]\n')
    monkeypatch.setattr(worker_image, "DOCKERFILE", endless)
    cancelled = threading.Event()

    def progress(line: str) -> None:
        if line.startswith("Step 2/"):
            cancelled.set()

    with pytest.raises(BuildCancelled):
        worker_image.ensure_image(client, root, progress, cancelled)
    assert not worker_image.has_image(client, due(client))


@pytest.mark.usefixtures("sources")
def test_a_cache_that_cannot_be_written_is_one_line(client: docker.DockerClient, tmp_path: Path) -> None:
    (tmp_path / ".comet").write_text("a file where the folder should be")
    (worker_image.SOURCES / "worker_app" / "__main__.py").write_text(f"print({str(tmp_path)!r})\n")
    with pytest.raises(UserError, match=r"^the worker image cannot be made: .*\.comet") as caught:
        worker_image.ensure_image(client, tmp_path, lambda _: None)
    assert "\n" not in caught.value.message


@pytest.mark.root
def test_an_empty_engine_gets_all_images_and_loses_them_again(
    root: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base made here, on an engine that has never seen it; and the official one where it is present, although it is
    not compiled. `clean` removes all that was made, whatever depends on what, and nothing else.
    """
    assert sources.exists()
    with private_engine() as engine:
        said: list[str] = []
        tag = worker_image.ensure_image(engine.client, root, said.append)
        assert any(line.startswith("making a base image of this machine's Python") for line in said)
        assert run(engine.client, tag).startswith("greeting 10001 /app True")

        version = "{}.{}.{}".format(*sys.version_info[:3])
        stripped = engine.client.containers.run(
            base_image.own_base().reference,
            [
                "python3",
                "-c",
                (
                    "import os, shutil; [shutil.rmtree(top) for top, _, _ in os.walk(os.path.dirname(os.__file__)) if "
                    "'__pyc' in top]"
                ),
            ],
            detach=True,
            network_mode="none",
        )
        assert stripped.wait()["StatusCode"] == 0
        stripped.commit("python", "3.12-slim", changes=[f"ENV PYTHON_VERSION={version}"])
        on_official = worker_image.ensure_image(engine.client, root, said.append)
        assert on_official != tag
        assert f"building {on_official} on python:3.12-slim" in said
        assert run(engine.client, on_official).startswith("greeting 10001 /app True")

        # This "official" image stands on our base, which a real one does not.
        stripped.remove()
        engine.client.images.remove("python:3.12-slim")
        monkeypatch.setenv("DOCKER_HOST", engine.environment["DOCKER_HOST"])
        (tmp_path / ".comet/cache").mkdir(parents=True)
        shutil.copy(root / ".comet/cache/images", tmp_path / ".comet/cache/images")
        list(cleanup.remove_all(Cluster(tmp_path)))
        assert [image.tags for image in engine.client.images.list(all=True)] == []


def test_the_base_is_built_from_an_uncompiled_library_too(tmp_path: Path) -> None:
    """As some interpreters are installed: every start of a worker would compile the library again."""
    maker: dict[str, object] = {"__name__": "make_base"}
    exec(compile(base_image.MAKER.read_text(), str(base_image.MAKER), "exec"), maker)
    bare = tmp_path / "stdlib"
    bare.mkdir()
    (bare / "os.py").write_text("name = 'posix'\n")
    (bare / "test").mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    copy = Path(maker["compiled_stdlib"](str(bare), str(scratch)))  # type: ignore[operator]
    assert list(copy.glob("__pycache__/os.*.pyc"))
    assert not (copy / "test").exists()
    shutil.copytree(copy, bare, dirs_exist_ok=True)
    assert maker["compiled_stdlib"](str(bare), str(scratch)) == str(bare)  # type: ignore[operator]
