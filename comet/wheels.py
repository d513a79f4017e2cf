"""The worker's Python packages as wheels, collected on the host by pip for the Python inside the image.

The image's build has no network, so what it installs has to be there before. pip on the host resolves and fetches (with the host's own
configuration: indexes, proxies, caches), for the version and platform of the image and never for its own. setup.cfg stays the only place
that says which versions: here stand only the names of those that the worker imports.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import platform
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from comet.base_image import Base, make_private, run_step
from comet.errors import UserError

WORKER_PACKAGES = ("Flask", "waitress", "SQLAlchemy", "psycopg")
INSTALLER = "pip"  # it travels along, as a base of our own has none
COMPLETE = ".complete"
OLDEST_GLIBC = 17  # manylinux2014's; wheels older than that are of other names


def requirements(setup_cfg: Path) -> list[str]:
    """The lines of setup.cfg's install_requires for what the worker imports; raises UserError where one is missing."""
    parser = configparser.ConfigParser()
    if not parser.read(setup_cfg):
        raise UserError(f"{setup_cfg} is missing: the worker image can be built only from a clone of the project")
    lines = parser.get("options", "install_requires", fallback="").split("\n")
    named = {match[0].lower(): line.strip() for line in lines if (match := re.match(r"[\w.-]+", line.strip()))}
    missing = [name for name in WORKER_PACKAGES if name.lower() not in named]
    if missing:
        raise UserError(f"{setup_cfg}: install_requires does not name {', '.join(missing)}, which the worker needs")
    return [named[name.lower()] for name in WORKER_PACKAGES]


def platforms(machine: str, glibc: int) -> list[str]:
    """The platform tags of wheels that run on this machine type with the C library 2.`glibc`, newest first (PEP 600)."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, OLDEST_GLIBC - 1, -1)]
    tags.append(f"manylinux2014_{machine}")
    if machine == "x86_64":
        tags += [f"manylinux_2_12_{machine}", f"manylinux2010_{machine}", f"manylinux_2_5_{machine}", f"manylinux1_{machine}"]
    return [*tags, f"linux_{machine}"]


def collect(lines: list[str], base: Base, cache: Path, progress: Callable[[str], None], cancelled: threading.Event) -> list[Path]:
    """The wheels to install, from the cache or fetched by pip; raises UserError with pip's last words when they cannot be had."""
    wanted = [*lines, INSTALLER]
    tags = platforms(platform.machine(), base.glibc)
    key = hashlib.sha256("\n".join([*wanted, base.python, *tags]).encode()).hexdigest()[:12]
    folder = cache / f"wheels-{key}"
    if not (folder / COMPLETE).exists():
        progress(f"collecting {', '.join(WORKER_PACKAGES)} for Python {base.python}")
        fetch(wanted, base.python, tags, folder, cancelled)
    return sorted(folder.glob("*.whl"))


def fetch(wanted: list[str], python: str, tags: list[str], folder: Path, cancelled: threading.Event) -> None:
    """Fill the folder by `pip download`. It gets its name only when it is complete, so an interrupted download leaves nothing behind."""
    make_private(folder.parent)
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", python, "--dest", str(scratch)]
    for tag in tags:
        command += ["--platform", tag]
    try:
        run_step("collecting the worker's Python packages (pip download)", [*command, *wanted], cancelled)
        (scratch / COMPLETE).touch()
        if not folder.exists():
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
