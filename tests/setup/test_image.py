"""What the image's tag depends on, what a failed build says, and how long a registry may keep us waiting. No engine is needed here."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from comet import base_image, image, wheels
from comet.base_image import Base, BuildCancelled
from comet.errors import UserError
from tests.setup.fake_engine import answer, listening

NEVER = threading.Event()


def quiet(_: str) -> None:
    pass


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker of two files in place of ours."""
    folder = tmp_path / "worker_app"
    (folder / "parts").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "parts" / "stats.py").write_text("one = 1\n")
    monkeypatch.setattr(image, "SOURCES", folder)
    return folder


def tag(requirements: tuple[str, ...] = ("Flask >=3",), base: str = "base") -> str:
    return image.image_tag(image.image_inputs(requirements), base)


def test_f39_the_tag_is_a_hash_of_the_inputs(sources: Path) -> None:
    first = tag()
    repository, _, digest = first.partition(":")
    assert repository == "comet-worker"
    assert len(digest) == 12
    assert tag() == first


@pytest.mark.usefixtures("sources")
def test_other_packages_or_another_base_give_another_tag() -> None:
    assert len({tag(), tag(("Flask >=4",)), tag(base="other")}) == 3


@pytest.mark.parametrize("change", ["edit", "add", "rename", "delete", "move text between files"])
def test_every_change_of_the_sources_gives_another_tag(sources: Path, change: str) -> None:
    before, stats = tag(), sources / "parts" / "stats.py"
    match change:
        case "edit":
            stats.write_text("one = 2\n")
        case "add":
            (sources / "new.py").write_text("")
        case "rename":
            stats.rename(sources / "parts" / "counts.py")
        case "delete":
            stats.unlink()
        case _:
            (sources / "__init__.py").write_text(stats.read_text())
            stats.write_text("")
    assert tag() != before


def test_what_python_compiles_and_touched_files_change_nothing(sources: Path) -> None:
    before = tag()
    (sources / "__pycache__").mkdir()
    (sources / "__pycache__" / "stats.cpython-311.pyc").write_bytes(b"\0")
    os.utime(sources / "__init__.py", (1, 1))
    assert tag() == before


def test_the_context_does_not_depend_on_the_clones_modes(sources: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(b"wheel")
    first = image.context(image.image_inputs(["Flask"]), [wheel]).getvalue()
    for path in (sources / "__init__.py", wheel):
        path.chmod(0o600)
        os.utime(path, (1, 1))
    assert image.context(image.image_inputs(["Flask"]), [wheel]).getvalue() == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert {entry.mode for entry in tar} == {0o644}
        assert {"Dockerfile", "requirements.txt", "wheels/some.whl", "worker_app/parts/stats.py"} <= set(tar.getnames())


def test_f34_an_error_inside_the_stream_fails_the_build_with_the_steps_output() -> None:
    messages = [
        {"stream": "Step 1/2 : FROM base\n"},
        {"stream": " ---> 0123456789ab\n"},
        {"stream": "Step 2/2 : RUN   pip\tinstall\n"},
        {"stream": "Collecting Flask\nERROR: no matching distribution\n"},
        {"errorDetail": {"code": 1}, "error": "The command returned a non-zero code: 1"},
    ]
    steps: list[str] = []
    with pytest.raises(UserError) as caught:
        image.follow(messages, steps.append)
    assert steps == ["Step 1/2 : FROM base", "Step 2/2 : RUN pip install"]
    first, *quoted = caught.value.message.splitlines()
    assert first == "building the worker image failed at Step 2/2 : RUN pip install: The command returned a non-zero code: 1"
    assert quoted == ["    Collecting Flask", "    ERROR: no matching distribution"]


def test_a_build_can_be_cancelled_while_the_engine_is_silent() -> None:
    cancelled, released = threading.Event(), threading.Event()

    def messages() -> Iterator[dict[str, Any]]:
        yield {"stream": "Step 1/1 : RUN sleep\n"}
        cancelled.set()
        released.wait(10)

    with pytest.raises(BuildCancelled):
        list(base_image.interruptible(messages(), cancelled))
    released.set()


def test_the_messages_reader_hands_on_what_goes_wrong() -> None:
    def messages() -> Iterator[dict[str, Any]]:
        yield {"status": "Pulling"}
        raise OSError("connection reset")

    arriving = base_image.interruptible(messages(), NEVER)
    assert next(arriving) == {"status": "Pulling"}
    with pytest.raises(OSError, match="connection reset"):
        next(arriving)


def test_only_the_newest_stage_and_those_of_running_builds_are_kept() -> None:
    now, removed = time.time(), []

    class Api:
        def images(self, filters: dict[str, Any]) -> list[dict[str, Any]]:
            assert filters == {"dangling": True, "label": "comet.image=build"}
            return [{"Id": name, "Created": now - age} for name, age in (("newest", 9e3), ("old", 1e4), ("in use", 2e4))]

        def remove_image(self, name: str) -> None:
            if name == "in use":
                raise docker.errors.APIError("conflict")
            removed.append(name)

    class Client:
        api = Api()

    image.forget_old_stages(Client())  # type: ignore[arg-type]
    assert removed == ["old"]


# What is asked of setup.cfg and of pip


def test_requirements_are_the_lines_of_setup_cfg(tmp_path: Path) -> None:
    setup = tmp_path / "setup.cfg"
    setup.write_text(
        "[options]\ninstall_requires =\n    docker >=7\n    flask >=3,<4\n    waitress\n    SQLAlchemy >=2.0,<3\n    psycopg[binary]\n"
    )
    assert wheels.requirements(setup) == ["flask >=3,<4", "waitress", "SQLAlchemy >=2.0,<3", "psycopg[binary]"]


def test_a_package_that_setup_cfg_does_not_name_is_an_error(tmp_path: Path) -> None:
    setup = tmp_path / "setup.cfg"
    setup.write_text("[options]\ninstall_requires =\n    Flask-Login\n    waitress\n")
    with pytest.raises(UserError, match="does not name Flask, SQLAlchemy, psycopg"):
        wheels.requirements(setup)
    with pytest.raises(UserError, match="only from a clone"):
        wheels.requirements(tmp_path / "nowhere.cfg")


def test_the_projects_own_setup_cfg_names_all_packages() -> None:
    assert len(wheels.requirements(image.PROJECT / "setup.cfg")) == len(wheels.WORKER_PACKAGES)


def test_platform_tags_go_from_the_c_library_down_to_the_oldest() -> None:
    tags = wheels.platforms("x86_64", 19)
    assert tags[:4] == ["manylinux_2_19_x86_64", "manylinux_2_18_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
    assert tags[-1] == "linux_x86_64"
    assert not any("manylinux1" in tag for tag in wheels.platforms("aarch64", 36))


@pytest.mark.slow
def test_a_failing_pip_is_quoted_and_leaves_no_half_filled_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    cache = tmp_path / ".comet" / "cache"
    with pytest.raises(UserError, match=r"(?s)collecting the worker's Python packages .*failed.*no-such-package-of-ours"):
        wheels.collect(["no-such-package-of-ours"], Base("b", "k", "3.12", 36), cache, quiet, NEVER)
    assert list(cache.iterdir()) == []
    assert cache.stat().st_mode & 0o777 == 0o700


def test_collected_wheels_are_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(wanted: list[str], python: str, tags: list[str], folder: Path, cancelled: threading.Event) -> None:
        fetched.append(python)
        folder.mkdir(parents=True)
        (folder / "a.whl").touch()
        (folder / wheels.COMPLETE).touch()

    monkeypatch.setattr(wheels, "fetch", fetch)
    for python in ("3.12", "3.12", "3.11"):
        found = wheels.collect(["Flask"], Base("b", "k", python, 36), tmp_path, quiet, NEVER)
        assert [path.name for path in found] == ["a.whl"]
    assert fetched == ["3.12", "3.11"]


def test_a_step_on_the_host_can_be_cancelled() -> None:
    cancelled = threading.Event()
    threading.Timer(0.05, cancelled.set).start()
    with pytest.raises(BuildCancelled):
        base_image.run_step("waiting", [sys.executable, "-c", "import time; time.sleep(60)"], cancelled)


# A registry out of reach


class Unlucky:
    """A client of an engine whose socket is a script's, without the official image."""

    def __init__(self, path: str) -> None:
        self.images = self
        self.path = path

    def get(self, name: str) -> None:
        raise docker.errors.ImageNotFound(name)


@pytest.fixture
def pull_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(base_image, "socket_of", lambda client: client.path)
    monkeypatch.setattr(base_image, "SILENCE", 0.05)

    def pulled(path: str) -> list[str]:
        said: list[str] = []
        assert base_image.pulled(Unlucky(path), tmp_path / ".comet" / "cache", said.append, NEVER) is None  # type: ignore[arg-type]
        return said

    return pulled


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (None, "no sign of life for 0.05 s"),
        (answer("500 Internal Server Error", b'{"message":"lookup registry-1.docker.io: no such host"}'), "no such host"),
        (answer("200 OK", b'{"status":"Pulling"}\r\n{"error":"manifest unknown"}\r\n'), "manifest unknown"),
        (answer("200 OK", b"<html>"), "Expecting value"),
        (b"", "RemoteDisconnected|closed connection"),
    ],
)
def test_a_registry_out_of_reach_is_given_up_and_remembered(pull_from: Any, reply: bytes | None, reason: str) -> None:
    with listening(reply) as path:
        said = pull_from(path)
    assert said[0] == "pulling python:3.12-slim"
    assert any(word in said[1] for word in reason.split("|"))
    assert pull_from("/nonexistent") == []  # for a day


def test_a_failed_pull_is_forgotten_after_a_day(pull_from: Any, tmp_path: Path) -> None:
    with listening(answer("500 Internal Server Error", b'{"message":"no"}')) as path:
        pull_from(path)
    yesterday = time.time() - base_image.REMEMBERED - 1
    os.utime(tmp_path / ".comet" / "cache" / "pull-failed", (yesterday, yesterday))
    assert pull_from("/nonexistent")[0] == "pulling python:3.12-slim"
