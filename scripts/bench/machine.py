"""The machine a bench ran on and the versions of what it measured, for the result."""

import os
import platform
import re
import subprocess
import sysconfig
from pathlib import Path


def describe() -> dict[str, str | int | float]:
    """What a reader needs to judge the figures by."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "python": interpreter(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def interpreter() -> str:
    """The Python that runs this and the LB: builds of one version differ by tens of percent, so how it was configured belongs to it."""
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    build = ", --enable-optimizations" if optimised else ""
    return f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()}{build})"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def version(*command: str) -> str:
    """The first line that a command says about its version; 'unknown' when it says nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown"


def number(*command: str) -> str:
    """What of that line is the version: from its first figure to the next space; the whole line where it has none."""
    line = version(*command)
    found = re.search(r"\d+\.\d\S*", line)
    return found[0] if found else line


def commit(root: Path) -> str:
    """The commit of the clone, with a plus when files differ from it."""
    known = version("git", "-C", str(root), "rev-parse", "--short", "HEAD")
    changed = subprocess.run(
        ["git", "-C", str(root), "status", "--porcelain", "lb", "comet", "worker_app"], capture_output=True, check=False
    )
    return known + ("+" if changed.stdout.strip() else "")
