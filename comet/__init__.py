"""Comet: a small cluster of workers and load balancers under one supervisor, from the command line and from Python.

The names of the Python API are imported when they are first used: load balancers import this package again at each
start. Type checkers read them from __init__.pyi.
"""

__version__ = "0.8.0"


def __getattr__(name):
    """Import a name of the API: `cluster`, `RunningCluster`, `UserError`."""
    rooms = {
        "cluster": "comet.api.running_cluster",
        "RunningCluster": "comet.api.running_cluster",
        "UserError": "comet.common.errors",
    }
    if name not in rooms:
        raise AttributeError(f"module 'comet' has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(rooms[name]), name)
    return found
