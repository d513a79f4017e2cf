"""`python supervisor.py compare`: options in, report out, exit code."""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

from comet.compare import page, study, terminal, words
from comet.errors import UserError

MOST_ROUNDS = 100


def compare(options: argparse.Namespace) -> int:
    """Compare and tell. The files are tried before the first round: a typing error must not cost a quarter of an hour."""
    if not 1 <= options.rounds <= MOST_ROUNDS:
        raise UserError(f"--rounds {options.rounds}: from 1 to {MOST_ROUNDS} (3 take some 6 minutes)", 2)
    for path in (options.json, options.html):
        if path is not None:
            _write(path, path.read_text() if path.is_file() else "")
    began = time.monotonic()

    def tell(told: str) -> None:
        with contextlib.suppress(OSError):  # A terminal that is gone must not keep us from cleaning up.
            print(f"{time.monotonic() - began:6.0f} s  {told}", file=sys.stderr, flush=True)

    try:
        findings = study.run(options.rounds, tell)
    except study.Interrupted as interrupted:
        return 128 + interrupted.number
    except OSError as error:
        raise UserError(f"compare: the engine or this machine did not go along: {' '.join(str(error).split())}") from None
    terminal.show(findings)
    if options.json is not None:
        _write(options.json, json.dumps(words.document(findings), indent=1) + "\n")
    if options.html is not None:
        _write(options.html, page.render(findings, time.strftime("%Y-%m-%d %H:%M %Z")))
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}", 2) from None
