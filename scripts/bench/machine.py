"""Describes the machine of a bench and the versions of what it measured, for the result."""

import platform
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from comet.report.machine import describe


def facts() -> dict[str, Any]:
    """Return what a reader needs to judge the figures."""
    return describe() | {"python": interpreter()}


def interpreter() -> str:
    """Return the Python that runs the bench and the load balancer.

    Includes how it was configured, because builds of one version differ by tens of percent.
    """
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    build = ", --enable-optimizations" if optimised else ""
    return f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()}{build})"


def version(*command: str) -> str:
    """Return the first line that a command prints about its version; "unknown" if it prints none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown"


def number(*command: str) -> str:
    """Return the version in that line: from its first digit to the next space; the whole line if it has none."""
    line = version(*command)
    found = re.search(r"\d+\.\d\S*", line)
    return found[0] if found else line


def commit(root: Path) -> str:
    """Return the commit of the clone, with a plus if files differ from it."""
    known = version("git", "-C", str(root), "rev-parse", "--short", "HEAD")
    changed = subprocess.run(
        ["git", "-C", str(root), "status", "--porcelain", "lb", "comet", "fault_rules", "worker_app"],
        capture_output=True,
        check=False,
    )
    return known + ("+" if changed.stdout.strip() else "")
