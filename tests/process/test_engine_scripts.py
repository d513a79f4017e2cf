"""The scripts and the engine: whether they need one, find one, or say what to do."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project_copy import bash, run


@pytest.mark.docker
def test_a_run_with_an_engine_and_nothing_to_set_up_says_nothing(clone: Path) -> None:
    result = run(clone, "scripts/up.sh", "--detach")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == [str(clone), ["--detach"]]


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        ("", True),
        ("--detach", True),
        ("run", True),
        ("--config config.yaml run -d", True),
        ("run --config=config.yaml", True),
        ("run --config process.yaml", False),
        ("run --config swarm.yaml", False),
        ("run --config mixed.yaml", True),
        ("--config=process.yaml", False),
        ("run --config missing.yaml", False),
        ("run --config broken.yaml", False),
        ("--config config.yaml ps", False),
        ("ps", False),
        ("stop", False),
        ("scale worker=4", False),
        ("check", False),
        ("logs run", False),
        ("--version", False),
        ("run --help", False),
        ("no-such-command", False),
    ],
)
def test_only_what_starts_containers_asks_for_an_engine(clone: Path, arguments: str, needed: bool) -> None:
    (clone / "process.yaml").write_text("worker: 2\nruntime: process  # no Docker here\n")
    (clone / "swarm.yaml").write_text("runtime: swarm\n")
    (clone / "mixed.yaml").write_text("runtime: mixed\n")
    (clone / "broken.yaml").write_text("worker: [\n")
    result = bash(clone, f"if needs_engine {arguments}; then echo needed; fi")
    assert result.stderr == ""
    assert result.stdout == ("needed\n" if needed else "")


@pytest.mark.parametrize(
    ("host", "line"),
    [
        (
            "tcp://10.0.0.1:2375",
            "up.sh: the Docker engine at tcp://10.0.0.1:2375, which DOCKER_HOST names, is not on this machine",
        ),
        (
            "unix:///nonexistent/sock",
            "up.sh: no Docker engine answers at /nonexistent/sock (no such socket): DOCKER_HOST names",
        ),
    ],
)
def test_somebody_elses_engine_is_neither_started_nor_installed(clone: Path, host: str, line: str) -> None:
    result = run(clone, "scripts/up.sh", DOCKER_HOST=host)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1


NO_ENGINE = 'probe_engine() { ENGINE_SOCKET=$SYSTEM_SOCKET ENGINE_ERROR="no engine"; return 10; }; '


@pytest.mark.parametrize(
    ("circumstances", "line"),
    [
        ("has_dockerd() { false; }; has_apt() { false; }; ", "no Docker engine is installed: install one"),
        (
            "has_dockerd() { false; }; has_apt() { true; }; can_be_root() { false; }; ",
            "no Docker engine is installed: run 'sudo apt-get install",
        ),
        ("has_dockerd() { true; }; can_be_root() { false; }; ", "the Docker engine does not run: start it"),
    ],
)
def test_manual_steps_are_named_in_one_line(clone: Path, circumstances: str, line: str) -> None:
    result = bash(clone, f"{NO_ENGINE}{circumstances}ensure_engine")
    assert result.returncode == 1
    assert line in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_engine_that_never_answers_is_given_up_with_its_log(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("failed to start daemon: no space left on device\n")
    script = (
        f"{NO_ENGINE}has_dockerd() {{ true; }}; can_be_root() {{ true; }}; start_engine() {{ true; }}; has_systemd() "
        f"{{ false; }}; "
        f"ENGINE_LOG='{tmp_path}/log'; ensure_engine"
    )
    result = bash(clone, script, COMET_ENGINE_DEADLINE="0")
    assert result.returncode == 1
    assert result.stderr.splitlines()[0].strip() == "failed to start daemon: no space left on device"
    assert "does not answer after 0 s: its own words stand above" in result.stderr


def test_a_session_older_than_its_group_goes_on_with_the_group(clone: Path) -> None:
    """`sg` stands for a fresh log-in; the second time round there is no third."""
    script = (
        'probe_engine() { ENGINE_ERROR="no permission"; return 11; }; is_root() { false; }; sg() { :; }; '
        'id() { echo users docker; }; exec() { echo "$@"; exit 0; }; '
        "ensure_engine run --config 'a b'"
    )
    entered = bash(
        clone,
        script.replace("id() { echo users docker; }", "id() { [ $1 = -gn ] && echo users || echo users docker; }"),
    ).stdout
    first, last = entered.split(" -c exec sg users  -c ", 1)
    assert first == "sg docker"
    (inner,) = shlex.split(last)
    assert re.fullmatch(r"exec \S+ run --config a\\ b ", inner)
    again = bash(clone, script, COMET_REGROUPED="1")
    assert again.returncode == 1
    assert again.stderr.endswith(": no permission\n")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, as pytest's own may not be."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.root
def test_the_step_into_the_group_keeps_the_primary_group(clone: Path, open_folder: Path) -> None:
    """With real groups and users: a mount namespace shows sg(1) the test's own files of them."""

    def write(name: str, content: str) -> Path:
        (open_folder / name).write_text(content)
        (open_folder / name).chmod(0o755)
        return open_folder / name

    write("passwd", "root:x:0:0::/root:/bin/sh\nsomebody:x:4321:4321::/tmp:/bin/sh\n")
    write("group", "root:x:0:\nsomebody:x:4321:\ndocker:x:4322:somebody\n")
    write("gshadow", "root:*::\nsomebody:!::\ndocker:!::somebody\n")
    program = write("program", '#!/bin/sh\nid -gn; id -Gn | tr " " "\\n" | sort\nprintf "%s\\n" "$@"\n')
    library = (clone / "scripts/lib/engine.sh").read_text()
    function = library[library.index("enter_docker_group()") : library.index("# ensure_engine [")]
    # The function runs $0 again, which stands for up.sh.
    caller = write(
        "caller",
        f'#!/bin/bash\nif [ -n "${{COMET_REGROUPED:-}}" ]; then exec {program} "$@"; fi\n'
        f'say() {{ :; }}; is_root() {{ false; }}\n{function}\nenter_docker_group "$@"\n',
    )
    mounts = " && ".join(f"mount --bind {open_folder}/{name} /etc/{name}" for name in ("passwd", "group", "gshadow"))
    inside = (
        f"mount --make-rprivate / && {mounts} && exec setpriv --reuid 4321 --regid 4321 --clear-groups "
        f"{caller} run 'a  b' '$x'"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inside], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["somebody", "docker", "somebody", "run", "a  b", "$x"], done.stderr
