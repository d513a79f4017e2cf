"""What the image's tag depends on, what a failed build says, and how long a registry may keep us waiting. No engine is
needed here.
"""

from __future__ import annotations

import io
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import docker
import pytest

from comet.common.errors import UserError
from comet.host.checkout import resource
from comet.images import base_image, wheels, worker_image
from comet.images.base_image import Base, BuildCancelled
from tests.support.fake_engine import answer, listening

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
    monkeypatch.setattr(worker_image, "SOURCES", tmp_path)
    return folder


def tag(requirements: tuple[str, ...] = ("Flask >=3",), base: str = "base") -> str:
    return worker_image.image_tag(worker_image.image_inputs(requirements), base)


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


def test_a_source_whose_name_is_no_utf_8_is_packed(sources: Path) -> None:
    before, name = tag(), os.fsdecode(b"bad\xffname.py")
    (sources / name).touch()
    assert tag() != before
    packed = worker_image.context(worker_image.image_inputs(["Flask"]), [])
    with tarfile.open(fileobj=packed) as tar:
        assert f"worker_app/{name}" in tar.getnames()


def test_what_python_compiles_and_touched_files_change_nothing(sources: Path) -> None:
    before = tag()
    (sources / "__pycache__").mkdir()
    (sources / "__pycache__" / "stats.cpython-311.pyc").write_bytes(b"\0")
    os.utime(sources / "__init__.py", (1, 1))
    assert tag() == before


def test_the_context_does_not_depend_on_the_clones_modes(sources: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(b"wheel")
    first = worker_image.context(worker_image.image_inputs(["Flask"]), [wheel]).getvalue()
    for path in (sources / "__init__.py", wheel):
        path.chmod(0o600)
        os.utime(path, (1, 1))
    assert worker_image.context(worker_image.image_inputs(["Flask"]), [wheel]).getvalue() == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert {entry.mode for entry in tar if entry.isfile()} == {0o644}
        assert_every_parent_comes_first(tar)
        assert {"Dockerfile", "requirements.txt", "wheels/some.whl", "worker_app/parts/stats.py"} <= set(tar.getnames())


def assert_every_parent_comes_first(tar: tarfile.TarFile) -> None:
    """Some engines give a folder that has no entry of its own the mode 0600, and nothing in it can be read then."""
    seen = dict[str, tarfile.TarInfo]()
    for entry in tar:
        for parent in list(PurePosixPath(entry.name).parents)[:-1]:
            above = seen.get(str(parent))
            assert above is not None, f"{entry.name} comes before {parent}"
            assert above.issym() or (above.isdir() and above.mode & 0o555 == 0o555)
        assert entry.name not in seen
        seen[entry.name] = entry


def test_an_error_in_the_stream_fails_the_build_with_its_output() -> None:
    messages = [
        {"stream": "Step 1/2 : FROM base\n"},
        {"stream": " ---> 0123456789ab\n"},
        {"stream": "Step 2/2 : RUN   pip\tinstall\n"},
        {"stream": "Collecting Flask\nERROR: no matching distribution\n"},
        {"errorDetail": {"code": 1}, "error": "The command returned a non-zero code: 1"},
    ]
    steps: list[str] = []
    with pytest.raises(UserError) as caught:
        worker_image.follow(messages, steps.append)
    assert steps == ["Step 1/2 : FROM base", "Step 2/2 : RUN pip install"]
    first, *quoted = caught.value.message.splitlines()
    assert (
        first
        == "building the worker image failed at Step 2/2 : RUN pip install: The command returned a non-zero code: 1"
    )
    assert quoted == ["    Collecting Flask", "    ERROR: no matching distribution"]


def test_a_build_of_podmans_is_reported_line_by_line() -> None:
    messages = [
        {"stream": "[1/2] STEP 1/2: FROM base AS python\n"},
        {"stream": "[1/2] STEP 2/2: RUN make"},
        {"stream": "\n"},
        {"stream": "one li"},
        {"stream": "ne\n\nSTEP 1/1: RUN false"},
        {"stream": "\nlast words"},
        {"errorDetail": {"message": "exit status 1"}},
    ]
    steps: list[str] = []
    with pytest.raises(UserError) as caught:
        worker_image.follow(messages, steps.append)
    assert steps == ["[1/2] STEP 1/2: FROM base AS python", "[1/2] STEP 2/2: RUN make", "STEP 1/1: RUN false"]
    assert caught.value.message.splitlines() == [
        "building the worker image failed at STEP 1/1: RUN false: exit status 1",
        "    last words",
    ]


def test_a_pull_fails_with_the_detail_of_newer_engines() -> None:
    body = b'{"status":"Pulling"}\r\n{"errorDetail":{"message":"no such host"}}\r\n'
    with listening(answer("200 OK", body)) as path, pytest.raises(OSError, match="no such host"):
        list(base_image.pull(path, "python:3.12-slim", 120.0))


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


def test_only_the_newest_and_running_builds_stages_are_kept() -> None:
    now, removed = time.time(), []

    class Api:
        def images(self, filters: dict[str, Any]) -> list[dict[str, Any]]:
            assert filters == {"dangling": True, "label": "comet.image=build"}
            return [
                {"Id": name, "Created": now - age} for name, age in (("newest", 9e3), ("old", 1e4), ("in use", 2e4))
            ]

        def remove_image(self, name: str) -> None:
            if name == "in use":
                raise docker.errors.APIError("conflict")
            removed.append(name)

    class Client:
        api = Api()

    worker_image.remove_old_stages(Client())  # type: ignore[arg-type]
    assert removed == ["old"]


# What is asked of setup.cfg and of pip


def test_requirements_are_the_lines_of_setup_cfg(tmp_path: Path) -> None:
    setup = tmp_path / "setup.cfg"
    setup.write_text(
        "[options]\ninstall_requires =\n    docker >=7\n    flask >=3,<4\n    waitress\n    SQLAlchemy >=2.0,<3\n    "
        "psycopg[binary]\n"
    )
    assert wheels.requirements(setup) == ["flask >=3,<4", "waitress", "SQLAlchemy >=2.0,<3", "psycopg[binary]"]


def test_a_package_that_setup_cfg_does_not_name_is_an_error(tmp_path: Path) -> None:
    setup = tmp_path / "setup.cfg"
    setup.write_text("[options]\ninstall_requires =\n    Flask-Login\n    waitress\n")
    with pytest.raises(UserError, match="does not name Flask, SQLAlchemy, psycopg"):
        wheels.requirements(setup)
    with pytest.raises(UserError, match=r"nowhere\.cfg is missing: .*install Comet again"):
        wheels.requirements(tmp_path / "nowhere.cfg")


def test_the_projects_own_setup_cfg_names_all_packages() -> None:
    assert len(wheels.requirements(resource("setup.cfg"))) == len(wheels.WORKER_PACKAGES)


def test_platform_tags_go_from_the_c_library_down_to_the_oldest() -> None:
    tags = wheels.platforms("x86_64", 19)
    assert tags[:4] == [
        "manylinux_2_19_x86_64",
        "manylinux_2_18_x86_64",
        "manylinux_2_17_x86_64",
        "manylinux2014_x86_64",
    ]
    assert tags[-1] == "linux_x86_64"
    assert not any("manylinux1" in tag for tag in wheels.platforms("aarch64", 36))


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


def test_wheels_that_another_process_collected_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, command: list[str], cancelled: threading.Event) -> None:
        Path(command[command.index("--dest") + 1]).mkdir()

    def rename(self: Path, target: Path) -> Path:
        target.mkdir()
        (target / "a.whl").touch()
        (target / wheels.COMPLETE).touch()
        return former(self, target)

    former = Path.rename
    monkeypatch.setattr(wheels, "run_step", download)
    monkeypatch.setattr(Path, "rename", rename)
    found = wheels.collect(["Flask"], Base("b", "k", "3.12", 36), tmp_path, quiet, NEVER)
    assert [path.name for path in found] == ["a.whl"]
    assert [path.name for path in tmp_path.iterdir()] == [found[0].parent.name]


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
    monkeypatch.setattr(base_image, "PULL_TIMEOUT", 120.0)

    def pull_official(path: str) -> list[str]:
        said: list[str] = []
        assert base_image.pull_official(Unlucky(path), tmp_path / ".comet" / "cache", said.append, NEVER) is None  # type: ignore[arg-type]
        return said

    return pull_official


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (None, "no sign of life for 0.05 s"),
        (
            answer("500 Internal Server Error", b'{"message":"lookup registry-1.docker.io: no such host"}'),
            "no such host",
        ),
        (answer("200 OK", b'{"status":"Pulling"}\r\n{"error":"manifest unknown"}\r\n'), "manifest unknown"),
        (answer("200 OK", b"<html>"), "Expecting value"),
        (b"", "RemoteDisconnected|closed connection"),
    ],
)
def test_a_registry_out_of_reach_is_given_up_and_remembered(
    pull_from: Any, monkeypatch: pytest.MonkeyPatch, reply: bytes | None, reason: str
) -> None:
    if reply is None:
        monkeypatch.setattr(base_image, "PULL_TIMEOUT", 0.05)
    with listening(reply) as path:
        said = pull_from(path)
    assert said[0] == "pulling python:3.12-slim"
    assert any(word in said[1] for word in reason.split("|"))
    assert pull_from("/nonexistent") == []  # for a day


def test_a_failed_pull_is_forgotten_after_a_day(pull_from: Any, tmp_path: Path) -> None:
    with listening(answer("500 Internal Server Error", b'{"message":"no"}')) as path:
        pull_from(path)
    yesterday = time.time() - base_image.RETRY_PULL_AFTER - 1
    os.utime(tmp_path / ".comet" / "cache" / "pull-failed", (yesterday, yesterday))
    assert pull_from("/nonexistent")[0] == "pulling python:3.12-slim"
