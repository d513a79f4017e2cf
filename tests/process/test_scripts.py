"""The scripts, run as a person runs them: in a copy of the project, mostly with a .venv that is there already in place
of pip's work.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.copies import copy_modules
from tests.support.waiting import PATIENCE

PROJECT = Path(__file__).resolve().parents[2]
PARTS = (
    "scripts",
    ".ci",
    "comet",
    "fault_rules",
    "lb",
    "worker_app",
    "docker",
    "setup.cfg",
    "setup.py",
    "supervisor.py",
    "config.yaml",
    "README.md",
)


def copy_project(folder: Path) -> Path:
    """What a clone has, and nothing that git ignores."""
    folder.mkdir(parents=True)
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy whose .venv is that of these tests and counts as up to date, and whose supervisor prints what it was
    given.
    """
    folder = copy_project(tmp_path / "a clone")
    (folder / "supervisor.py").write_text("import json, os, sys\nprint(json.dumps([os.getcwd(), sys.argv[1:]]))\n")
    shutil.rmtree(folder / "comet")
    copy_modules(folder, "comet.engine.connection", "comet.host.packages")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def bash(clone: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of shell with the library read in."""
    library = "".join(f". 'scripts/lib/{name}.sh'; " for name in ("common", "venv", "engine", "needs"))
    command = ["bash", "-euo", "pipefail", "-c", library + script]
    return subprocess.run(command, cwd=clone, env=os.environ | environment, capture_output=True, text=True, check=False)


def run(
    clone: Path, script: str, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with pip out of the way: the .venv counts as up to date."""
    pretend = clone / "scripts/lib/venv.sh"
    if "pretends" not in pretend.read_text():
        with pretend.open("a") as file:
            file.write("\nis_installed() { true; } # the test pretends\n")
    command = [str(clone / script), *arguments]
    return subprocess.run(
        command, cwd=cwd or clone, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_arguments_pass_through_untouched_from_any_directory(clone: Path, tmp_path: Path) -> None:
    arguments = ["ps", "--config", "some where/config.yaml", "it's", 'a "word"', "$HOME", "*", "", "--json"]
    result = run(clone, "scripts/up.sh", *arguments, cwd=tmp_path)
    assert result.stderr == ""
    assert json.loads(result.stdout) == [str(tmp_path), arguments]


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


def test_the_stamp_covers_all_inputs_of_the_environment(clone: Path) -> None:
    """pip runs again when the requirements, the extras or the place of the clone have changed, and only then."""
    (clone / ".venv").unlink()
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin/python").symlink_to(sys.executable)
    stamp = 'printf "%s\\n%s\\n" "$(wanted_stamp)" none >"$STAMP"; '
    check = "is_installed none && echo yes || echo no; is_installed test && echo yes || echo no"

    def state(prepare: str = "") -> list[str]:
        return bash(clone, prepare + check).stdout.split()

    assert state() == ["no", "no"]
    assert state(stamp) == ["yes", "no"]
    assert state(stamp.replace("none", "test")) == ["yes", "yes"]
    with (clone / "setup.cfg").open("a") as file:
        file.write("\n# changed\n")
    assert state() == ["no", "no"]
    assert state(stamp.replace("none", "test")) == ["yes", "yes"]
    clone.rename(clone.with_name("moved"))
    clone = clone.with_name("moved")
    assert state() == ["no", "no"]


def test_a_venv_that_lost_a_package_or_pip_is_repaired(clone: Path) -> None:
    """What the supervisor says of a missing package is to run up.sh: it must not find all done."""
    (clone / ".venv").unlink()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(clone / ".venv")], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(clone / ".venv")}))
    for name, needs in (("comet_cluster", "left"), ("left", "right"), ("right", "")):
        (packages / f"{name}-1.dist-info").mkdir()
        required = f"Requires-Dist: {needs} >=1; extra == 'x'\nRequires-Dist: {needs} >=1\n" if needs else ""
        (packages / f"{name}-1.dist-info/METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{required}"
        )
    pretend = 'install_project() { "$VENV/bin/python" -m pip --version >/dev/null; echo by pip; }; write_stamp none; '
    assert bash(clone, pretend + "ensure_venv none").stdout == ""
    shutil.rmtree(packages / "right-1.dist-info")
    made = bash(clone, pretend + "ensure_venv none")
    assert (made.returncode, made.stdout) == (0, "by pip\n"), made.stderr
    assert made.stderr.startswith("bash: creating .venv (Python ")


def test_a_python_that_is_too_old_is_refused_by_name(clone: Path) -> None:
    old = clone / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = bash(clone, "find_python", PYTHON=str(old))
    assert result.returncode == 1
    assert f"PYTHON={old} is not a Python 3.11 or newer" in result.stderr


BARE_PYTHON = (
    'has_ensurepip() { [ -e installed ]; }; apt_install() { echo "$@" >>installed; }; has_apt() { true; '
    "}; can_be_root() { true; }; "
)


def test_a_python_without_ensurepip_gets_its_package(clone: Path) -> None:
    """Debian's python3 alone cannot make a virtual environment."""
    result = bash(clone, BARE_PYTHON + "ensure_python")
    assert result.returncode == 0, result.stderr
    python = result.stdout.strip()
    version = "{}.{}".format(
        *subprocess.check_output([python, "-c", "import sys; print(*sys.version_info[:2])"], text=True).split()
    )
    assert (clone / "installed").read_text() == f"{python} lacks ensurepip python{version}-venv\n"


def test_a_python_without_ensurepip_is_named_without_apt(clone: Path) -> None:
    result = bash(clone, BARE_PYTHON + "can_be_root() { false; }; ensure_python")
    assert result.returncode == 1
    assert "cannot make a virtual environment (no ensurepip): install the package python3-venv" in result.stderr
    assert result.stderr.count("\n") == 1


REPORT = "<testsuites><testsuite>{}</testsuite></testsuites>"
PASSED, FAILED = "<testcase/>", "<testcase><failure/></testcase>"
ERROR, SKIPPED = "<testcase><error/></testcase>", "<testcase><skipped/></testcase>"


@pytest.mark.parametrize(
    ("cases", "pytest_status", "checks_status", "closing", "status"),
    [
        (PASSED * 3, 0, 0, "3 passed, 0 failed, 0 skipped", 0),
        (PASSED * 2 + FAILED + ERROR, 1, 0, "2 passed, 2 failed, 0 skipped", 1),
        (PASSED + SKIPPED, 0, 0, "1 passed, 0 failed, 1 skipped", 1),
        (PASSED, 0, 1, "1 passed, 0 failed, 0 skipped", 1),
        (PASSED, 2, 0, "1 passed, 0 failed, 0 skipped", 1),
        ("", 5, 0, "0 passed, 0 failed, 0 skipped", 1),
        ("", 0, 0, "0 passed, 0 failed, 0 skipped", 1),
        (None, 3, 0, "0 passed, 0 failed, 0 skipped", 1),
    ],
)
def test_the_closing_line_counts_and_a_skip_is_a_failure(
    cases: str | None, pytest_status: int, checks_status: int, closing: str, status: int, tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    if cases is not None:
        report.write_text(REPORT.format(cases))
    command = [
        sys.executable,
        str(PROJECT / "scripts/lib/tally.py"),
        str(report),
        str(pytest_status),
        str(checks_status),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1] == closing
    assert result.returncode == status


def test_test_sh_counts_a_skipped_test_as_a_failure(clone: Path) -> None:
    (clone / "tests").mkdir()
    (clone / "tests/test_it.py").write_text(
        "import pytest\n\npytestmark = pytest.mark.unit\n\n"
        "def test_one():\n    pass\n\n@pytest.mark.skip\ndef test_two():\n    pass\n"
    )
    result = run(clone, ".ci/run", "--unit", "-p", "no:cacheprovider")
    assert result.stdout.splitlines()[-2:] == [
        "test.sh: a skipped test counts as a failure",
        "1 passed, 0 failed, 1 skipped",
    ]
    assert result.returncode == 1
    chosen = run(clone, "scripts/test.sh", "--unit", "-p", "no:cacheprovider", "-k", "one")
    assert chosen.stdout.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"
    assert chosen.returncode == 0


def test_a_fresh_copy_is_set_up_once(tmp_path: Path) -> None:
    """The whole way, pip and compiler included; the second time there is nothing left to say or do.

    One module stands for those of the data path: the environment of these tests was compiled from all of them.
    """
    clone = copy_project(tmp_path / "fresh")
    named = clone / "lb/system/compiled.py"
    text, count = re.subn(r"(?s)(MODULES: Final = \().*?\n\)", r'\1"lb.http.chunked",)', named.read_text())
    assert count == 1
    named.write_text(text)
    compiled = (
        "compiling the load balancers' data path" if bash(PROJECT, "has_compiler").returncode == 0 else "no C compiler"
    )
    for expected in (["creating .venv", "installing the project into .venv", compiled], []):
        result = subprocess.run(
            [clone / "scripts/up.sh", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("comet ")
        said = [line for line in result.stderr.splitlines() if not line.endswith(" s so far")]
        assert len(said) == len(expected), result.stderr
        assert all(line.startswith(f"up.sh: {words}") for line, words in zip(said, expected, strict=True))
    # Workers of another user could not write it.
    assert [*clone.glob(".venv/lib/python*/site-packages/flask/__pycache__/app.*.pyc")]
    in_use = [clone / ".venv/bin/python", "-c", "import lb.system.compiled; print(lb.system.compiled.in_use())"]
    told = subprocess.run(
        in_use, cwd=clone, env=os.environ | {"COMET_LB": ""}, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [str(compiled.startswith("compiling"))]
    assert sorted(path.name for path in clone.iterdir() if path.name.startswith(".")) == [".ci", ".venv"]
    # A folder that is moved brings all that is needed with it: no network, no compiler.
    moved = clone.rename(tmp_path / "moved to a new place")
    offline = os.environ | {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    for line in (f"up.sh: the project has moved here from {clone}: pointing .venv here\n", ""):
        result = subprocess.run(
            [moved / "scripts/up.sh", "--version"],
            cwd=tmp_path,
            env=offline,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stdout[:6]) == (0, "comet "), result.stderr
        assert "".join(each for each in result.stderr.splitlines(True) if not each.endswith(" s so far\n")) == line
    in_use[0] = moved / ".venv/bin/python"
    told = subprocess.run(
        in_use, cwd=moved, env=os.environ | {"COMET_LB": ""}, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [str(compiled.startswith("compiling"))]
    entry = subprocess.run(
        [moved / ".venv/bin/comet", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (entry.returncode, entry.stdout[:6]) == (0, "comet "), entry.stderr
    named = subprocess.run(
        ["grep", "-rIlF", "--", str(clone), moved / ".venv"], capture_output=True, text=True, check=False
    )
    assert [line for line in named.stdout.splitlines() if not line.endswith(("/pyvenv.cfg", "/.comet-installed"))] == []


def path_without(folder: Path, *left_out: str) -> str:
    """A PATH with every program of this machine but these."""
    folder.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*") if os.path.isdir(directory) else ():
            if program.name not in left_out and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


def own_environment(clone: Path) -> None:
    """A .venv that the test may write to: the same interpreter and packages, other stamps."""
    (clone / ".venv").unlink()
    (clone / ".venv/bin").mkdir(parents=True)
    python = clone / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)


def assert_ends(pid: int) -> None:
    """A zombie has ended: who reaps it, and when, is not the script's matter."""
    deadline = time.monotonic() + 10 * PATIENCE
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline, f"{pid} runs on"
            time.sleep(0.01)


COMPILERS = ("cc", "gcc", "c99", "c89", "clang", "gcc-12", "x86_64-linux-gnu-gcc", "x86_64-linux-gnu-gcc-12")


def test_a_machine_without_a_c_compiler_is_told_so_and_goes_on(clone: Path, tmp_path: Path) -> None:
    own_environment(clone)
    bare = path_without(tmp_path / "bin", *COMPILERS)
    first = run(clone, "scripts/up.sh", "ps", PATH=bare)
    assert (first.returncode, json.loads(first.stdout)) == (0, [str(clone), ["ps"]])
    assert first.stderr.count("\n") == 1
    assert "no C compiler with Python's headers" in first.stderr
    again = run(clone, "scripts/up.sh", "ps", PATH=bare)
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("has_compiler() { false; }", "no C compiler with Python's headers"),
        ("has_compiler() { true; }; compile() { return 1; }", "load balancers run interpreted"),
        ("has_compiler() { true; }; compile() { true; }; COMPILED=/proc/version", "the next start compiles again"),
        ("has_compiler() { true; }; compile() { true; }; COMPILED=/nowhere/stamp", "the next start compiles again"),
        (
            "has_compiler() { true; }; compile() { true; }; sha256sum() { cat >/dev/null; return 1; }",
            "load balancers run interpreted",
        ),
    ],
)
def test_an_optional_step_that_fails_is_one_line_and_no_end(clone: Path, trouble: str, said: str) -> None:
    own_environment(clone)
    result = bash(clone, f"{trouble}; ensure_compiled; echo went on")
    assert (result.returncode, result.stdout) == (0, "went on\n")
    assert [line for line in result.stderr.splitlines() if "about 20 s" not in line and said not in line] == []
    assert said in result.stderr


def test_without_flock_the_steps_are_the_same(clone: Path, tmp_path: Path) -> None:
    own_environment(clone)
    result = run(clone, "scripts/up.sh", "ps", PATH=path_without(tmp_path / "bin", "flock", *COMPILERS))
    assert (result.returncode, json.loads(result.stdout)) == (0, [str(clone), ["ps"]])


@pytest.mark.parametrize("runtime", ["docker", "process"])
def test_called_from_another_folder_it_reads_the_same_config(clone: Path, tmp_path: Path, runtime: str) -> None:
    """Where no config lies in the working folder, the one next to supervisor.py counts, as it does for supervisor.py
    itself.
    """
    (clone / "config.yaml").write_text(f"runtime: {runtime}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = run(clone, "scripts/up.sh", "--detach", cwd=elsewhere, DOCKER_HOST="unix:///nonexistent/sock")
    assert ("no Docker engine answers" in result.stderr) is (runtime == "docker")
    (elsewhere / "config.yaml").write_text("runtime: process\n")
    assert (
        run(clone, "scripts/up.sh", "--detach", cwd=elsewhere, DOCKER_HOST="unix:///nonexistent/sock").returncode == 0
    )


@pytest.mark.parametrize("how", ["dies", "INT", "TERM", "HUP"])
def test_an_ended_setup_leaves_no_process(clone: Path, how: str) -> None:
    """The compiler runs in the background while the engine is looked for; it ends with the script, whatever ended
    that.
    """
    own_environment(clone)
    mark = clone / "compiling"
    trouble = "die nothing answers" if how == "dies" else f"kill -{how} $$; while :; do sleep 0.01; done"
    for name, line in (
        ("venv", f"has_compiler() {{ true; }}; compile() {{ sh -c 'echo $$ >\"{mark}\"; exec sleep 300'; }}"),
        ("needs", "needs_engine() { true; }"),
        ("engine", f"ensure_engine() {{ while [ ! -s '{mark}' ]; do sleep 0.01; done; {trouble}; }}"),
    ):
        with (clone / f"scripts/lib/{name}.sh").open("a") as file:
            file.write(f"\n{line}\n")
    result = run(clone, "scripts/up.sh", "--detach")
    assert result.returncode != 0
    assert_ends(int(mark.read_text()))


def lay(clone: Path, **functions: str) -> None:
    """Put other functions in the place of some of the libraries'."""
    for name, line in functions.items():
        with (clone / f"scripts/lib/{name}.sh").open("a") as file:
            file.write(f"\n{line}\n")


def test_the_image_is_made_while_the_data_path_is_compiled(clone: Path) -> None:
    """Each waits for the other to have begun: one after the other they would wait in vain."""
    own_environment(clone)
    meet = "for _ in $(seq 6000); do if [ -e '{other}' ]; then echo met >>met; return 0; fi; sleep 0.01; done"
    lay(
        clone,
        venv=f"has_compiler() {{ true; }}; compile() {{ touch compiles; {meet.format(other='builds')}; }}",
        needs=f"needs_engine() {{ NEEDED_BY=config.yaml; }}; prepare_image() {{ touch builds; "
        f"{meet.format(other='compiles')}; }}",
        engine="ensure_engine() { true; }",
    )
    result = run(clone, "scripts/up.sh", "--detach")
    assert (result.returncode, (clone / "met").read_text()) == (0, "met\nmet\n")
    # Where nothing is to be compiled, the supervisor makes the image.
    (clone / "met").unlink()
    (clone / "builds").unlink()
    assert run(clone, "scripts/up.sh", "--detach").returncode == 0
    assert not (clone / "builds").exists()


def test_a_long_step_shows_progress_and_leaves_nothing(clone: Path) -> None:
    digs = "bash -c 'until [ \"$(grep -c digging signs)\" -ge 2 ]; do sleep 0.02; done'"
    script = (
        f"with_signs_of_life digging {digs} 2>signs || true; echo over; "
        "with_signs_of_life digging false 2>>signs || echo $?; wc -l <signs; sleep 0.5; wc -l <signs"
    )
    result = bash(clone, script, COMET_LIFE_SIGN="0.2")
    said, code, before, after = result.stdout.splitlines()
    assert (said, code, before) == ("over", "1", after), result.stderr
    signs = (clone / "signs").read_text().splitlines()
    assert [line for line in signs if not re.fullmatch(r"bash: digging: \d+ s so far", line)] == []
    assert (
        "what it printed" in bash(clone, "run_logged digging sh -c 'echo what it printed >&2; exit 3' || true").stderr
    )


@pytest.mark.parametrize("step", ["pip", "compiler", "engine"])
def test_ctrl_c_at_any_moment_is_one_line(clone: Path, step: str) -> None:
    """As pip does, the step takes the signal for an error of its own, and ends with words and exit code 1."""
    own_environment(clone)
    stuck = (
        "sh -c 'trap \"echo Operation cancelled by user; exit 1\" INT; echo $$ >>pids; while :; do sleep 0.05; done'"
    )
    lay(
        clone,
        venv="install_project() { "
        + (f"run_logged 'pip install' {stuck} || die 'could not install'" if step == "pip" else "true")
        + "; }; is_installed() { false; }; has_compiler() { true; }; compile() { "
        + (stuck if step == "compiler" else "true")
        + "; } # pretends",
        needs="needs_engine() { NEEDED_BY=config.yaml; }; prepare_image() { true; }",
        engine=f"ensure_engine() {{ {f'run_logged docker {stuck} || die failed' if step == 'engine' else 'true'}; }}",
    )
    command = [str(clone / "scripts/up.sh"), "--detach"]
    environment = os.environ | {"COMET_LIFE_SIGN": "0.1"}
    with subprocess.Popen(
        command,
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while not (clone / "pids").exists() or not (clone / "pids").read_text().endswith("\n"):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=20 * PATIENCE)
    assert (process.returncode, out) == (130, "")
    said = [line for line in errors.splitlines() if "so far" not in line and "compiling the load" not in line]
    assert said == ["up.sh: interrupted"]
    for pid in (clone / "pids").read_text().split():
        assert_ends(int(pid))
