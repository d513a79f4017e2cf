"""Counts the system calls of a process tree during a block, with strace. Counts per request hardly depend on what else
the machine does, so a few hundred requests are enough.
"""

import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comet.compare.questions import meter
from scripts.bench.proc import BenchError

_LINE = re.compile(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)").fullmatch


@contextmanager
def counted(pid: int) -> Iterator[Counter[str]]:
    """Return a counter that has the calls by name after the block. BenchError without strace."""
    if not shutil.which("strace"):
        raise BenchError("system calls are counted with strace, which is not installed")
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="comet-bench-") as folder:
        output = Path(folder) / "calls"
        words = [word for each in meter.tree(pid) for word in ("-p", str(each))]
        process = subprocess.Popen(["strace", "-f", "-c", "-o", str(output), *words], stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            process.stderr.readline()  # It says that it is attached.
            yield found
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()
        for line in output.read_text().splitlines():
            if (match := _LINE(line)) is not None and match[2] != "total":
                found[match[2]] += int(match[1])


def shown(calls: Counter[str], requests: int) -> str:
    """Return how many of each there were per request, the most frequent first; rare ones are left out."""
    return ", ".join(f"{name} {count / requests:.2f}" for name, count in calls.most_common() if count >= requests / 100)
