"""Times the first start by step: `python3 scripts/first_start.py [RUNS]`.

Each run is `scripts/up.sh --detach` in a fresh clone of the last commit, then `stop` and `clean`. A step lasts from the
line that names it to the next line. The engine must be running: installing one is the distribution's work. Other load
on the machine affects the figures.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "load-balancer-port: 24610\nworker-port: 24620\nadmin-port: 0\n"
MIB = 1 << 20
DOWNLOADED = re.compile(r"Downloading \S+ \(([\d.]+) (kB|MB)\)")
LOCAL = re.compile(r"Processing (/\S+\.whl)")


def size(folder: Path) -> float:
    """Return the MiB of the files below a folder, each counted once."""
    if not folder.exists():
        return 0.0
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file()) / MIB


def packages(log: Path) -> float:
    """Return the MiB of packages that pip has fetched, from its log; files offered by its settings count too."""
    text = log.read_text() if log.exists() else ""
    fetched = sum(float(number) * (1000 if unit == "kB" else 1_000_000) for number, unit in DOWNLOADED.findall(text))
    return (fetched + sum(os.path.getsize(path) for path in set(LOCAL.findall(text)) if os.path.exists(path))) / MIB


def images() -> dict[str, str]:
    """Return our images in the engine, and their sizes."""
    command = ["docker", "images", "--filter", "label=comet.image", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in listed.splitlines())


def run(folder: Path) -> list[tuple[str, str]]:
    """Run one first start; return rows of names and amounts."""
    clone = folder / "comet"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    (clone / "config.yaml").write_text(CONFIG)
    before, log = images(), folder / "pip.log"
    environment = os.environ | {"PIP_CACHE_DIR": str(folder / "pip"), "PIP_LOG": str(log)}
    lines: list[tuple[float, str]] = []
    began = time.monotonic()
    try:
        with subprocess.Popen(
            [clone / "scripts/up.sh", "--detach"],
            env=environment, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            said = (line.strip() for line in process.stdout)
            lines += [(time.monotonic() - began, line) for line in said if not line.endswith("so far")]
        ended = time.monotonic() - began
        assert process.returncode == 0, lines
        ends = [*(at for at, _ in lines[1:]), ended]
        rows = [(line, f"{end - at:.1f} s") for (at, line), end in zip(lines, ends, strict=True) if end - at >= 0.5]
        rows += [("all", f"{ended:.1f} s")]
        rows += [("packages fetched by pip", f"{packages(log):.0f} MiB")]
        rows += [("packages fetched for the image", f"{size(clone / '.comet/cache'):.0f} MiB")]
        rows += [("the environment .venv", f"{size(clone / '.venv'):.0f} MiB")]
        made = {name: amount for name, amount in images().items() if name not in before}
        rows += [(f"image {name}", amount) for name, amount in made.items()]
    finally:
        python = clone / ".venv/bin/python"
        subprocess.run([python, clone / "supervisor.py", "stop"], cwd=clone, capture_output=True, check=False)
    rows += [("left in .comet/ after stop", f"{size(clone / '.comet'):.1f} MiB")]
    subprocess.run([python, clone / "supervisor.py", "clean"], cwd=clone, capture_output=True, check=True)
    rows += [("left in .comet/ after clean", f"{size(clone / '.comet'):.1f} MiB")]
    left = [name for name in made if name in images()]
    return [*rows, ("images left after clean", ", ".join(left) or "none")]


def main() -> int:
    for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        with tempfile.TemporaryDirectory(prefix="comet-first-", dir="/tmp") as folder:
            os.chmod(folder, 0o755)
            print(f"\nrun {number + 1}, load {os.getloadavg()[0]:.1f}\n\n| what | how much |\n| --- | --- |")
            for what, amount in run(Path(folder)):
                print(f"| {what.replace('|', ' ')} | {amount} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
