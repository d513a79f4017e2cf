"""The command `python supervisor.py compare`: takes options, prints the report, returns the exit code."""

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path

from comet.common.errors import UserError
from comet.compare import report, study, words
from comet.report import page, terminal

MAX_ROUNDS = 100


def compare(options: argparse.Namespace) -> int:
    """Compare and report; return the exit code. A comparison that is interrupted reports its whole rounds.

    The output files are tried before the first round, since a typing error must not cost a quarter of an hour.
    """
    if not 1 <= options.rounds <= MAX_ROUNDS:
        raise UserError(f"--rounds {options.rounds}: from 1 to {MAX_ROUNDS} (3 take at most 8 minutes)", 2)
    if None not in (options.json, options.html) and os.path.realpath(options.json) == os.path.realpath(options.html):
        raise UserError(f"--json and --html name the same file, {options.html} (give each its own)", 2)
    for path in (options.json, options.html):
        if path is not None:
            _require_writable(path)
    started = time.monotonic()

    def progress(text: str) -> None:
        with contextlib.suppress(OSError):  # A closed terminal must not prevent the cleanup.
            print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    code = 0
    try:
        findings = study.run(options.rounds, progress, options.question)
    except study.Interrupted as interrupted:
        code = 128 + interrupted.number
        if interrupted.findings is None:
            return code
        findings = interrupted.findings
    except OSError as error:
        raise UserError(f"compare: the engine or this machine failed: {' '.join(str(error).split())}") from None
    found = report.made(findings, time.strftime("%Y-%m-%d %H:%M %Z"))
    try:
        terminal.show(found)
    finally:  # The terminal may be gone: a hang-up interrupts, too.
        if options.json is not None:
            _write(options.json, json.dumps(words.document(findings), indent=1) + "\n")
        if options.html is not None:
            _write(options.html, page.render(found))
    return code


def _require_writable(path: Path) -> None:
    """Raise UserError where a file cannot be written; it is left as it is, and so is a missing one."""
    target = os.path.realpath(path)
    is_new = not os.path.exists(target)
    try:
        with open(target, "a"):
            pass
        if is_new:
            os.unlink(target)
    except OSError as error:
        raise _not_writable(path, error) from None


def _not_writable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written: {error.strerror}", 2)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise _not_writable(path, error) from None
