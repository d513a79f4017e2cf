"""What the forkserver imports before it forks load balancers: the hot path, and nothing else.

The forkserver leaves its starter's session, so that Ctrl-C or a closed terminal, which reach the whole foreground group, do not end
it. Importing this module elsewhere does nothing more than importing `lb.server`.
"""

import contextlib
import importlib
import os
import sys

import lb.forked
import lb.rehearsal
import lb.server
import lb.standby

# What a fork would import otherwise, each time anew.
for module in ("multiprocessing.popen_fork", "multiprocessing.popen_forkserver"):
    importlib.import_module(module)

__all__ = ["lb"]

if any(argument.startswith("from multiprocessing.forkserver import") for argument in sys.orig_argv):
    with contextlib.suppress(PermissionError):  # Already a session leader.
        os.setsid()
