"""Draws docs/terminal.svg: a short session with a real cluster, as a terminal shows it.

    .venv/bin/python scripts/picture.py

Runs the default cluster in a temporary folder, on its ports, and stops it again. The picture refers to no other file.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
FORMAT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
 font-family="DejaVu Sans Mono, Menlo, Consolas, monospace">
<style>.{unique_id}-matrix {{ font-size: {char_height}px; line-height: {line_height}px; white-space: pre; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; }}
{styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">
{matrix}</g></g></svg>
"""


class Session:
    """Commands in one folder, and their output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.console = Console(record=True, width=112, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115

    def type(self, command: str, keep: int | None = None) -> None:
        """Run a command and record it; of a long output only the last `keep` lines."""
        shell = command.replace("python supervisor.py", f"{sys.executable} {ROOT}/supervisor.py")
        environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "112"}
        done = subprocess.run(
            shell,
            shell=True,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        output = done.stdout.decode().rstrip().splitlines()
        self.console.print(Text("$ ", style="bold cyan") + Text(command, style="bold"))
        self.console.print(Text.from_ansi("\n".join(output[-keep:] if keep else output)))


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copy(ROOT / "config.yaml", folder)
        session = Session(folder)
        session.type("python supervisor.py run --detach", keep=6)
        session.type("for i in 1 2 3 4; do curl -s localhost:5050/api/v1/hello; echo; done")
        session.type("python supervisor.py kill lb-0; python supervisor.py kill worker-1")
        time.sleep(2)  # The container takes a second to come back; the picture is to show it.
        session.type("python supervisor.py events --tail 7")
        session.type("python supervisor.py ps")
        session.type("python supervisor.py stop", keep=1)
        (ROOT / "docs").mkdir(exist_ok=True)
        session.console.save_svg(str(ROOT / "docs/terminal.svg"), title="comet", code_format=FORMAT)
    finally:
        subprocess.run(
            [sys.executable, str(ROOT / "supervisor.py"), "stop"], cwd=folder, capture_output=True, check=False
        )
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
