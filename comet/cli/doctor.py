"""Implements `doctor`: what Comet needs and what this machine has, as one text for a bug report.

It only reads: it creates no file, starts no engine and builds no image. Each finding is one line; where something is
missing, a second line says what to do. A check that fails is itself a finding and does not stop the others. The report
contains no secret: of the environment and the config it shows only what is listed here, and it masks passwords in every
line.

`bad` marks what prevents a cluster of this config from running, `note` what has a cost. The exit code is 1 if any
finding is bad.
"""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import pwd
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comet import __version__
from comet.balancers import data_path
from comet.common.errors import UserError
from comet.common.redaction import concealed
from comet.config.ports import PORT_KEYS, port_ranges, span
from comet.config.schema import Config, load
from comet.engine import connection as engine
from comet.engine import traits as engine_traits
from comet.host.checkout import SOURCES
from comet.host.packages import DISTRIBUTION, missing_packages
from comet.host.process_setup import shortage_of_files, shortage_of_size
from comet.host.sockets import port_problems
from comet.state.directory import Cluster
from comet.state.lock import Lock

GOOD, NOTE, BAD = "ok", "note", "bad"

MIN_FREE_DISK = 1 << 30
"""Bytes of free disk space for the worker image, the packages and the logs."""

SECURITY_OPTIONS = ("rootless", "userns", "seccomp", "apparmor", "selinux", "cgroupns")
MIB = 1 << 20


@dataclass(frozen=True)
class Finding:
    """One finding, reported as `topic: text`; `advice` says what to do about it."""

    topic: str
    text: str
    state: str = GOOD
    advice: str = ""


@dataclass(frozen=True)
class Subject:
    """What is examined: the path of the config file, and the config or the problems of reading it."""

    path: Path
    config: Config | None
    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: Path) -> "Subject":
        try:
            return cls(path.absolute(), load(path))
        except UserError as error:
            return cls(path.absolute(), None, tuple(error.message.splitlines()))

    @property
    def needs_engine(self) -> bool:
        return self.config is None or self.config.traits.uses_engine


def findings(subject: Subject) -> list[Finding]:
    """Return every finding, in the order in which one would ask."""
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check(subject)
        except Exception as error:  # A check may fail in any way on a machine that has problems.
            topic = check.__name__.strip("_").replace("_", " ")
            found.append(Finding(topic, f"check failed: {type(error).__name__}: {error}", NOTE))
    return [Finding(each.topic, concealed(each.text), each.state, concealed(each.advice)) for each in found]


def report(found: Iterable[Finding]) -> str:
    """Return the findings as text: one line each, with the advice below."""
    lines = []
    for each in found:
        lines.append(f"{each.state:<5} {each.topic}: {each.text}")
        if each.advice:
            lines.append(f"      -> {each.advice}")
    return "\n".join(lines)


def as_dict(found: Iterable[Finding]) -> dict[str, Any]:
    every = list(found)
    return {"healthy": all(each.state != BAD for each in every), "findings": [asdict(each) for each in every]}


def _versions(_: Subject) -> Iterator[Finding]:
    yield Finding("comet", f"{__version__} in {SOURCES}")
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    libc = " ".join(platform.libc_ver()) or "not glibc"
    yield Finding(
        "system", f"{system}, Linux {platform.release()} {platform.machine()}, {libc}, {os.cpu_count()} cores"
    )
    yield Finding("python", f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})")
    packages = []
    for name in _required():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages.append(f"{name} {importlib.metadata.version(name)}")
    yield Finding("packages", ", ".join(packages))
    if missing := missing_packages():
        yield Finding("packages", f"missing: {', '.join(missing)}", BAD, "run scripts/up.sh, which installs them")


def _required() -> Iterator[str]:
    """Yield the packages that setup.cfg requires."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.requires(DISTRIBUTION) or ():
            if "extra ==" not in line:
                yield re.split(r"[^\w.-]", line, maxsplit=1)[0]


def _user(_: Subject) -> Iterator[Finding]:
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = "without an entry in the user database"
    groups = ", ".join(str(group) for group in sorted(os.getgroups())) or "none"
    yield Finding("user", f"{name} (uid {os.getuid()}, gid {os.getgid()}, groups {groups})")
    if os.getuid() == 0:
        yield Finding("user", "root: workers run as 10001:10001, `worker-user` names another one for a service")


def _kernel(_: Subject) -> Iterator[Finding]:
    release = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    if release < (5, 3):
        yield Finding(
            "kernel", f"{platform.release()} has no pidfds", BAD, "Comet needs Linux 5.3 or newer (pidfd_open(2))"
        )
    features = {
        "pidfd_open": hasattr(os, "pidfd_open") and _works(lambda: os.close(os.pidfd_open(os.getpid()))),
        "child subreaper": ctypes.CDLL(None).prctl(37, ctypes.byref(ctypes.c_int()), 0, 0, 0) == 0,
        "mount namespaces": Path("/proc/self/ns/mnt").exists(),
        "user namespaces": _number("/proc/sys/user/max_user_namespaces") > 0,
        "seccomp": Path("/proc/sys/kernel/seccomp/actions_avail").exists(),
    }
    have = ", ".join(name for name, there in features.items() if there)
    absent = ", ".join(name for name, there in features.items() if not there)
    yield Finding("kernel", f"has {have}" + (f"; lacks {absent}" if absent else ""), NOTE if absent else GOOD)


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError:
        return False
    return True


def _number(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return 0


def _cgroups(_: Subject) -> Iterator[Finding]:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
        yield Finding("cgroups", f"version 2 with {', '.join(controllers) or 'no controllers'}")
        absent = {"memory", "pids", "cpu"} - set(controllers)
    else:
        enabled = {
            line.split()[0]
            for line in Path("/proc/cgroups").read_text().splitlines()
            if not line.startswith("#") and line.split()[3] == "1"
        }
        yield Finding("cgroups", f"version 1 with {', '.join(sorted(enabled)) or 'no controllers'}")
        absent = {"memory", "pids", "cpu"} - enabled
    if absent:
        yield Finding(
            "cgroups",
            f"no controller for {', '.join(sorted(absent))}",
            NOTE,
            "limits of workers on these have no effect",
        )


def _limits(subject: Subject) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shortfall, limits = shortage_of_files(soft), f"{_limit(soft)} (hard limit {_limit(hard)})"
    if shortfall is None:
        yield Finding("open files", limits)
    else:
        yield Finding("open files", f"{limits}: {shortfall.text}", BAD if shortfall.fatal else NOTE, shortfall.advice)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if (shortfall := shortage_of_size(soft)) is not None:
        limits = f"{soft} bytes (hard limit {_limit(hard)})"
        yield Finding("file size", f"{limits}: {shortfall.text}", BAD, shortfall.advice)
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available, total = (int(memory[name].split()[0]) // 1024 for name in ("MemAvailable", "MemTotal"))
    yield Finding("memory", f"{available} MiB of {total} MiB available")
    folder = next(each for each in (subject.path.parent, *subject.path.parent.parents) if each.is_dir())
    free = shutil.disk_usage(folder).free
    yield Finding(
        "disk",
        f"{free // MIB} MiB free in {folder}",
        GOOD if free >= MIN_FREE_DISK else NOTE,
        "" if free >= MIN_FREE_DISK else "image, packages and logs need about 1 GiB: free some space",
    )
    if not os.access(folder, os.W_OK):
        yield Finding(
            "disk",
            f"{folder} is not writable for this user",
            BAD,
            "a cluster keeps its state there: choose another folder",
        )


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _engine(subject: Subject) -> Iterator[Finding]:
    chosen = engine.chosen_by(os.environ)
    yield Finding("engine", f"at {engine.address_of(os.environ)} ({f'named by {chosen}' if chosen else 'the default'})")
    try:
        client = (
            engine.connect_manager()
            if subject.config is not None and subject.config.traits.remote and subject.config.traits.uses_engine
            else engine.connect()
        )
    except UserError as error:
        needed = subject.needs_engine
        yield Finding(
            "engine", error.message, BAD if needed else NOTE, "" if needed else "`runtime: process` needs no engine"
        )
        return
    with contextlib.closing(client):
        info, version = client.info(), client.version()
        traits = engine_traits.read(info, version)
        components = ", ".join(
            " ".join((each["Name"], *each["Version"].splitlines()[:1])) for each in version.get("Components") or ()
        )
        yield Finding("engine", f"{traits.title} ({components}), API {version.get('ApiVersion')}")
        security = [
            name for name in SECURITY_OPTIONS if any(name in option for option in info.get("SecurityOptions") or ())
        ]
        yield Finding(
            "engine",
            f"storage {traits.storage}, cgroups {info.get('CgroupDriver')} v{traits.cgroups}, "
            f"runtime {info.get('DefaultRuntime')}, security {', '.join(security) or 'none'}, "
            f"{info.get('Containers')} containers, {info.get('Images')} images",
        )
        for warning in (*(info.get("Warnings") or ()), *traits.lacks):
            yield Finding("engine", warning, NOTE)


def _compiler(_: Subject) -> Iterator[Finding]:
    absence = data_path.absence()
    yield (
        Finding("data path", "compiled")
        if absence is None
        else Finding("data path", absence.reason, NOTE, absence.advice)
    )


def _config(subject: Subject) -> Iterator[Finding]:
    if subject.config is None:
        for problem in subject.problems:
            yield Finding("config", problem, BAD)
        return
    config = subject.config
    yield Finding(
        "config", f"{config.path}: runtime {config.runtime}, {config.worker} workers, {config.pool} load balancers"
    )


def _cluster(subject: Subject) -> Iterator[Finding]:
    cluster = Cluster(subject.path.parent)
    holder = Lock(cluster).holder() if cluster.state.exists() else None
    if holder is not None:
        yield Finding("cluster", f"id {cluster.id}, its supervisor runs (PID {holder})")
        return
    yield Finding(
        "cluster", "none has run in this folder" if cluster.id is None else f"id {cluster.id}, no supervisor runs"
    )
    if subject.config is not None:
        yield from _ports(subject.config)


def _ports(config: Config) -> Iterator[Finding]:
    balancers = config.load_balancer_host
    hosts = {"load-balancer-port": balancers, "front-port": balancers, "worker-port": config.worker_host}
    values = {key: getattr(config, key.replace("-", "_")) for key in (*PORT_KEYS, "pool", "worker", "runtime")}
    ranges = list(port_ranges(values))
    wanted = [
        (key, hosts.get(key, "127.0.0.1"), port) for key, first, count in ranges for port in range(first, first + count)
    ]
    problems = list(port_problems(wanted))
    for problem in problems:
        yield Finding("ports", problem, BAD)
    if not problems:
        free = f"{', '.join(f'{key} {span(first, count)}' for key, first, count in ranges)} are free"
        yield Finding("ports", free if ranges else "chosen among the free ones at the start")


CHECKS = (_versions, _user, _kernel, _cgroups, _limits, _engine, _compiler, _config, _cluster)
