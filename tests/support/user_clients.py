"""Clients of an HTTP server that are other users of this machine."""

import subprocess

from tests.support.users import argv_as

ALICE, BOB = 24242, 24243
"""Two ordinary users."""


def curl(uid: int, url: str, *options: str, timeout: float = 80) -> subprocess.CompletedProcess[str]:
    """Ask as this user; the head of the answer stands before its body."""
    command = argv_as(uid, "curl", "--silent", "--show-error", "--include", "--max-time", str(timeout), *options, url)
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def status(answer: subprocess.CompletedProcess[str]) -> int:
    assert answer.returncode == 0, answer.stderr
    return int(answer.stdout.split(" ", 2)[1])


def cookies(answer: subprocess.CompletedProcess[str]) -> list[str]:
    """`name=value` of each cookie that the answer sets."""
    head = answer.stdout.split("\n\n", 1)[0].splitlines()
    return [line.partition(": ")[2].partition(";")[0] for line in head if line.lower().startswith("set-cookie:")]
