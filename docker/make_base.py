"""Write a small root file system with the running Python in it, as a tar for `docker import`.

Usage: make_base.py OUT.tar

For machines that cannot pull python:slim. In it: the interpreter, its standard library with the compiled files (else
every start of a read-only container would compile it again), the libraries that ldd names, a shell and a handful of
tools. The layout has /bin, /lib and /lib64 as links into /usr, as distributions have it, whatever the host's own layout
is.

Two seconds and some 100 MB; made of nothing but what the host has, so it runs on the host's kernel and architecture by
construction.
"""

from __future__ import annotations

import compileall
import glob
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import PurePosixPath

VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
TOOLS = ("cat", "ls", "sleep", "env", "mkdir", "rm")
# What binary wheels take for granted on any system (PEP 513, PEP 599), and what the C library opens by name to end a
# thread.
GUARANTEED = (
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
    "libstdc++.so.6",
    "libutil.so.1",
    "libz.so.1",
)
# Nothing that a worker imports, and half of the library's size.
LEFT_OUT = re.compile(
    r"/(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|site-packages|dist-packages|config-3[^/]*)(/|$)|/_tkinter\.|\.a$|\.opt-[12]\.pyc$"
)
FILES = {
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\nworker:x:10001:10001:worker:/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\nworker:x:10001:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
LINKS = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
FOLDERS = {"tmp": 0o1777, "proc": 0o755, "sys": 0o755, "dev": 0o755, "run": 0o755, "etc": 0o755, "usr/bin": 0o755}


def libraries(binary: str) -> list[str]:
    """The shared libraries that a binary loads, the loader included, as ldd prints them."""
    listing = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(0x", listing)


def guaranteed() -> list[str]:
    """Where the loader's cache says that the libraries lie which no ldd of ours mentions, but one of a wheel may."""
    ldconfig = shutil.which("ldconfig", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if ldconfig is None:
        return []
    listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
    found = {}
    for name, path in re.findall(r"^\s*(\S+) \(libc6,[^)]*\) => (/\S+)$", listing, re.MULTILINE):
        found.setdefault(name, path)
    return [found[name] for name in GUARANTEED if name in found]


def extensions(stdlib: str) -> list[str]:
    """Return the compiled modules of the standard library, without LEFT_OUT (tkinter would bring half a desktop)."""
    return [path for path in glob.glob(f"{stdlib}/lib-dynload/*.so") if not LEFT_OUT.search(path)]


def inside(path: str) -> str:
    """The place of a host's path in the image, where /lib is a link to /usr/lib."""
    return re.sub(r"^/(bin|sbin|lib|lib64)/", r"/usr/\1/", path).replace("/usr/sbin/", "/usr/bin/").lstrip("/")


def binaries(interpreter: str, stdlib: str) -> dict[str, str]:
    """Every file outside the standard library that the image needs: its place in the image -> its place here."""
    tools = {f"usr/bin/{tool}": path for tool in TOOLS if (path := shutil.which(tool))}
    files = {"usr/local/bin/python3": interpreter, "usr/bin/sh": "/bin/sh", **tools}
    assumed = guaranteed()
    for binary in [*files.values(), *extensions(stdlib), *assumed]:
        for library in libraries(binary):
            files[inside(library)] = library
            if library.startswith(sys.base_prefix + "/lib/libpython"):
                # Some interpreters look for it next to themselves ($ORIGIN/../lib) rather than at its place on this
                # machine.
                files[f"usr/local/lib/{os.path.basename(library)}"] = library
    files.update({inside(library): library for library in assumed})
    if os.path.exists("/etc/ld.so.cache"):
        files["etc/ld.so.cache"] = "/etc/ld.so.cache"
    return files


def compiled_stdlib(stdlib: str, scratch: str) -> str:
    """The standard library with its compiled files: where it is, or a compiled copy when it has none."""
    if os.path.exists(importlib.util.cache_from_source(f"{stdlib}/os.py")):
        return stdlib
    copy = os.path.join(scratch, VERSION)
    shutil.copytree(
        stdlib, copy, ignore=lambda folder, names: [name for name in names if LEFT_OUT.search(f"{folder}/{name}")]
    )
    compileall.compile_dir(copy, quiet=2, workers=0, stripdir=scratch, prependdir="/usr/local/lib")
    return copy


def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """What goes into the tar: nothing that is left out, all of it root's and readable by everybody."""
    if LEFT_OUT.search(f"/{entry.name}"):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode |= 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def add_parents(tar: tarfile.TarFile, name: str, there: set[str]) -> None:
    """Add an entry for each folder above `name`: engines create missing ones with their own modes, some with 0600."""
    for folder in reversed([str(parent) for parent in PurePosixPath(name).parents][:-1]):
        if folder not in there and folder not in LINKS:
            add_folder(tar, folder, 0o755)
            there.add(folder)


def add_folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def write(out: str) -> None:
    """Write the tar. Raises OSError when it cannot be written or something on the host cannot be read."""
    stdlib = os.path.dirname(os.__file__)
    interpreter = os.path.realpath(f"{sys.base_prefix}/bin/{VERSION}")
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(out, "w") as tar:
        there: set[str] = set()
        for name, mode in FOLDERS.items():
            add_parents(tar, name, there)
            add_folder(tar, name, mode)
            there.add(name)
        for name, target in LINKS.items():
            add_link(tar, name, target)
        for name, text in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
        stored: dict[str, str] = {}
        for name, path in sorted(binaries(interpreter, stdlib).items()):
            source = os.path.realpath(path)
            add_parents(tar, name, there)
            if source in stored:
                add_link(tar, name, f"/{stored[source]}")
            else:
                stored[source] = name
                tar.add(source, name, filter=owned_by_root)
        add_parents(tar, f"usr/local/lib/{VERSION}", there)
        tar.add(compiled_stdlib(stdlib, scratch), f"usr/local/lib/{VERSION}", filter=owned_by_root)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_base.py OUT.tar")
    try:
        write(sys.argv[1])
    except OSError as problem:
        sys.exit(f"make_base.py: {problem}")
