"""Collects the worker's Python packages as wheels, with the host's pip, for the Python inside the image.

The image's build has no network, so everything that it installs must be there before. pip on the host resolves and
downloads (with the host's own configuration: indexes, proxies, caches) for the version and platform of the image, not
for its own. Only setup.cfg names versions; this module lists only the names of the packages that the worker imports.
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

from comet.common.errors import UserError
from comet.images.base_image import Base, make_private, run_step

WORKER_PACKAGES = ("Flask", "waitress", "SQLAlchemy", "psycopg")
INSTALLER = "pip"
"""Collected too, since a self-made base has no pip."""

COMPLETE = ".complete"
OLDEST_GLIBC = 17
"""Minor version of manylinux2014's glibc; the tags of older wheels have other names."""


def requirements(setup_cfg: Path) -> list[str]:
    """Return the lines of setup.cfg's install_requires for what the worker imports; UserError if one is missing."""
    parser = configparser.ConfigParser()
    if not parser.read(setup_cfg):
        raise UserError(f"{setup_cfg} is missing: the worker image cannot be built (install Comet again)")
    lines = parser.get("options", "install_requires", fallback="").split("\n")
    by_name = {match[0].lower(): line.strip() for line in lines if (match := re.match(r"[\w.-]+", line.strip()))}
    missing = [name for name in WORKER_PACKAGES if name.lower() not in by_name]
    if missing:
        raise UserError(f"{setup_cfg}: install_requires does not name {', '.join(missing)}, which the worker needs")
    return [by_name[name.lower()] for name in WORKER_PACKAGES]


def platforms(machine: str, glibc: int) -> list[str]:
    """Return the platform tags of wheels that run on this machine type with glibc 2.`glibc`, newest first (PEP 600)."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, OLDEST_GLIBC - 1, -1)]
    tags.append(f"manylinux2014_{machine}")
    if machine == "x86_64":
        tags += [
            f"manylinux_2_12_{machine}",
            f"manylinux2010_{machine}",
            f"manylinux_2_5_{machine}",
            f"manylinux1_{machine}",
        ]
    return [*tags, f"linux_{machine}"]


def collect(
    lines: list[str], base: Base, cache: Path, progress: Callable[[str], None], cancelled: threading.Event
) -> list[Path]:
    """Return the wheels to install, from the cache or downloaded; UserError with pip's last lines where that fails."""
    wanted = [*lines, INSTALLER]
    tags = platforms(platform.machine(), base.glibc)
    key = hashlib.sha256("\n".join([*wanted, base.python, *tags]).encode()).hexdigest()[:12]
    folder = cache / f"wheels-{key}"
    if not (folder / COMPLETE).exists():
        progress(f"collecting {', '.join(WORKER_PACKAGES)} for Python {base.python}")
        fetch(wanted, base.python, tags, folder, cancelled)
    return sorted(folder.glob("*.whl"))


def fetch(wanted: list[str], python: str, tags: list[str], folder: Path, cancelled: threading.Event) -> None:
    """Fill the folder by `pip download`.

    The folder gets its name only when it is complete, so that an interrupted download leaves nothing behind.
    """
    make_private(folder.parent)
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--only-binary=:all:",
    ]
    command += ["--implementation", "cp", "--python-version", python, "--dest", str(scratch)]
    for tag in tags:
        command += ["--platform", tag]
    try:
        run_step("collecting the worker's Python packages (pip download)", [*command, *wanted], cancelled)
        (scratch / COMPLETE).touch()
        try:
            scratch.rename(folder)
        except OSError:  # Another process has collected them meanwhile.
            if not (folder / COMPLETE).exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
