"""Imports what the forkserver needs before it forks load balancers: the data path alone.

The forkserver leaves the session of its parent, so that Ctrl-C or a closed terminal, which signal the whole foreground
group, do not end it. In any other process importing this module only imports `lb.process.server`.
"""

import contextlib
import gc
import importlib
import os
import sys

import lb.process.fork_entry
import lb.process.server
import lb.process.standby
import lb.process.warm_up

# Each fork would import these otherwise.
for module in ("multiprocessing.popen_fork", "multiprocessing.popen_forkserver"):
    importlib.import_module(module)

__all__ = ["lb"]

if any(argument.startswith("from multiprocessing.forkserver import") for argument in sys.orig_argv):
    with contextlib.suppress(PermissionError):  # Already a session leader.
        os.setsid()
    # The collector writes to each object that it looks at, and so would have every load balancer copy its page.
    gc.freeze()
