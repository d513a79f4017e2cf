"""The packages: everything is in them, and a cluster runs from the wheel in an empty folder, far from any checkout."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import requests

from tests.support.cluster import ROOT, open_folder

TEST = """
import requests


def test_my_client_sees_a_failure(comet_cluster):
    comet_cluster.faults("all", failure=100)
    assert requests.get(f"{comet_cluster.url}/api/v1/hello", timeout=60).status_code == 500
"""


def pip(*arguments: str, cwd: Path = ROOT) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of a copy of the checkout's files, so that building leaves nothing in it."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("comet", "fault_rules", "lb", "worker_app", "docker", "scenarios"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(folder)]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel that is built from the sdist alone."""
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(sdist.parent), str(sdist), cwd=sdist.parent)
    (made,) = sdist.parent.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Path]:
    """The folder of a virtual environment with the wheel; the packages that it requires are those of this one."""
    with open_folder() as folder:
        venv.create(folder / "venv", symlinks=True)
        site = next((folder / "venv" / "lib").glob("python3*")) / "site-packages"
        pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(site), str(wheel))
        (site / "required.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command = folder / "venv" / "bin" / "comet"
        command.write_text(
            f"#!{folder}/venv/bin/python\nfrom comet.bootstrap import console\nraise SystemExit(console())\n"
        )
        command.chmod(0o755)
        yield folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    (folder / "work").mkdir(exist_ok=True)
    return subprocess.run(
        [str(folder / "venv" / "bin" / command[0]), *command[1:]], cwd=folder / "work", capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip


def test_an_editable_install_adds_no_finder_to_each_start() -> None:
    """A finder of modules, which setuptools writes for packages outside one folder, costs as much as Python's start."""
    asked = "import sys; print([name for name in sys.modules if 'editable' in name])"
    told = subprocess.run([sys.executable, "-I", "-c", asked], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == "[]\n"


def test_an_index_accepts_both_packages(sdist: Path, wheel: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout + done.stderr


def test_the_wheel_has_every_source_and_all_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        str(path.relative_to(ROOT))
        for room in ("comet", "fault_rules", "lb", "worker_app")
        for path in (ROOT / room).rglob("*.py")
    }
    page = {str(path.relative_to(ROOT)) for path in (ROOT / "comet/admin/page").iterdir()}
    assert sources | page <= names
    assert [name for name in names if name.startswith("lb/compiled/") and name.endswith(EXTENSION_SUFFIXES[0])]
    data = {f"{folder}/{path.name}" for folder in ("docker", "scenarios") for path in (ROOT / folder).glob("*.*")}
    wanted = {f"comet/data/{name}" for name in data} | {"comet/data/docker/Dockerfile", "comet/data/setup.cfg"}
    assert wanted | {"comet/py.typed", "comet/__init__.pyi", "comet/report/page.html.j2"} <= names
    assert not [name for name in names if name.startswith(("tests/", "scripts/")) or name.endswith(".pyc")]


def test_a_cluster_runs_from_the_wheel_in_an_empty_folder(installed: Path, runtime: str) -> None:
    assert "Usage" in (shown := run(installed, "comet", "--help").stdout).title()
    assert "supervisor.py" not in shown
    config = installed / "work" / "config.yaml"
    config.unlink(missing_ok=True)
    assert run(installed, "comet", "init").returncode == 0
    changes = {"runtime": runtime, "load-balancer-port": "0", "worker-port": "0", "admin-port": "0", "failure": "0"}
    text = config.read_text()
    for key, value in changes.items():
        text = re.sub(rf"(?m)^{key}: .*", f"{key}: {value}", text)
    config.write_text(text)
    started = run(installed, "comet", "run", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        url = next(word for word in started.stdout.split() if word.startswith("http://") and "hello" in word)
        assert requests.get(url, timeout=60).status_code == 200
        assert "does not" not in run(installed, "comet", "ps").stderr
        missing = run(installed, "comet", "inspect", "worker-9")
        assert missing.returncode == 2
        assert "supervisor.py" not in missing.stderr
    finally:
        assert run(installed, "comet", "stop").returncode == 0


@pytest.mark.parametrize("name", ["lb", "worker_app"])
def test_anothers_package_of_the_same_name_is_one_line(installed: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("VERSION = 1\n")
    done = subprocess.run(
        [installed / "venv/bin/comet", "--version"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        f"comet: the package {name} in {tmp_path} is not Comet's; install Comet into an environment of its own, and "
        "see that PYTHONPATH names none\n"
    )


@pytest.mark.parametrize("without", ["compiled", "nothing"])
def test_the_start_says_where_the_data_path_is_not_compiled(installed: Path, without: str) -> None:
    """The wheel for this platform brings it; without it the start names what compiles it."""
    asked = "from comet.balancers import data_path; print(data_path.absence())"
    (package,) = (installed / "venv/lib").glob("python3*/site-packages/lb")
    aside = installed / "aside"
    if without == "compiled":
        (package / "compiled").rename(aside)
    try:
        told = run(installed, "python", "-c", asked)
    finally:
        if aside.exists():
            aside.rename(package / "compiled")
    assert told.returncode == 0, told.stderr
    if without == "nothing":
        assert told.stdout == "None\n"
    else:
        assert "pip install 'comet-cluster[compiled]' and python -m lb.build" in told.stdout


def test_a_scenario_that_comes_with_it_is_known_by_its_name(installed: Path) -> None:
    done = run(installed, "comet", "scenario", "no-such-scenario")
    assert done.returncode == 2
    path = installed / "venv" / "bin" / "python"
    asked = "from comet.host.checkout import resource; print(resource('scenarios') / 'slow-worker.yaml')"
    found = subprocess.run([path, "-c", asked], cwd=installed, capture_output=True, text=True, timeout=60, check=True)
    assert Path(found.stdout.strip()).is_file()


def test_a_test_of_ten_lines_passes(installed: Path) -> None:
    (installed / "work").mkdir(exist_ok=True)
    (installed / "work" / "test_mine.py").write_text(TEST)
    done = run(installed, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
