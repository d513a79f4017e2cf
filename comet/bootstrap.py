"""Before anything else: find a Python that has Comet's dependencies.

`python supervisor.py` is typed with whatever Python a user has at hand. Where that one lacks the packages, the project's own
`.venv` beside supervisor.py takes over (same process, same arguments); where there is none, one line says what to run.
Nothing is imported at module level, for the reason that supervisor.py gives.
"""


def ensure_dependencies(script: str) -> None:
    """Return if the dependencies are importable, else re-execute with `.venv/bin/python`; exit 1 where that cannot help."""
    import importlib.util
    import os
    import sys

    needed = ("yaml", "docker", "requests", "waitress", "flask", "psutil", "rich", "setproctitle", "sqlalchemy", "prometheus_client")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if not missing:
        return
    root = os.path.dirname(os.path.realpath(script))
    python = os.path.join(root, ".venv", "bin", "python")
    # Not realpath: .venv/bin/python is a link to the very interpreter that lacks the packages.
    if os.access(python, os.X_OK) and os.path.abspath(sys.executable) != python:
        os.execv(python, [python, os.path.realpath(script), *sys.argv[1:]])
    sys.stderr.write(f"comet: {', '.join(missing)} not installed for {sys.executable}; run scripts/up.sh once, it sets everything up\n")
    raise SystemExit(1)


def console() -> int:
    """Entry of the installed `comet` command."""
    from comet.cli import main

    return main()
