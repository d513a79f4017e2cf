"""Finds a Python that has Comet's dependencies before anything else is imported.

`python supervisor.py` is run with any Python. If that one lacks the packages, the project's own `.venv` next to
supervisor.py takes over (same process, same arguments); if there is none, one line says what to run. Nothing is
imported at module level, for the reason given in supervisor.py.
"""

NEEDED = (
    "yaml",
    "docker",
    "requests",
    "urllib3",
    "waitress",
    "flask",
    "werkzeug",
    "jinja2",
    "markupsafe",
    "psutil",
    "psycopg",
    "rich",
    "setproctitle",
    "sqlalchemy",
    "prometheus_client",
)
"""The packages of setup.cfg by their import names; uvloop may be missing."""


def ensure_dependencies(script: str) -> None:
    """Return if the dependencies are importable; otherwise re-execute with `.venv/bin/python`, or exit with 1."""
    import importlib.util
    import os
    import sys

    # A folder of that name, as docker/ next to supervisor.py, makes a spec too, one without an origin.
    missing = [name for name in NEEDED if (spec := importlib.util.find_spec(name)) is None or spec.origin is None]
    if not missing:
        return
    root = os.path.dirname(os.path.realpath(script))
    python = os.path.join(root, ".venv", "bin", "python")
    # Not realpath: .venv/bin/python is a link to the very interpreter that lacks the packages.
    if os.access(python, os.X_OK) and os.path.abspath(sys.executable) != python:
        os.execv(python, [python, os.path.realpath(script), *sys.argv[1:]])
    sys.stderr.write(
        f"comet: {', '.join(missing)} not installed for {sys.executable}; run scripts/up.sh once, it sets everything "
        "up\n"
    )
    raise SystemExit(1)


OURS = {"lb": "interface", "worker_app": "stats"}
"""The packages with common names that come with Comet, each with a part by which it is known."""


def foreign_package() -> str:
    """Return which package that another project installed, or that PYTHONPATH names, hides ours; "" if none does."""
    import importlib.util
    import os

    for name, part in OURS.items():
        spec = importlib.util.find_spec(name)
        folder = os.path.dirname(spec.origin) if spec is not None and spec.origin else ""
        if folder and not os.path.isdir(os.path.join(folder, part)):
            return f"the package {name} in {os.path.dirname(folder)} is not Comet's"
    return ""


def command_line() -> int:
    """Run the command line and return its exit code; if an installed package cannot be imported, print one line."""
    import gc
    import signal
    import sys

    gc.disable()  # What is imported stays: to search it for garbage is a twentieth of a start.
    try:
        from comet.cli.main import main

        gc.freeze()
        gc.enable()
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = main()
        gc.freeze()  # The interpreter's end would search all objects for cycles: a tenth of what a short command costs.
        return code
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("comet", "fault_rules", "lb", "worker_app"):
            raise
        reason = " ".join(str(error).split())
        sys.stderr.write(
            f"comet: a package cannot be used with {sys.executable}: {reason}; run scripts/up.sh, or install it again\n"
        )
        return 1


def console() -> int:
    """Run the installed `comet` command."""
    import sys

    if foreign := foreign_package():
        sys.stderr.write(
            f"comet: {foreign}; install Comet into an environment of its own, and see that PYTHONPATH names none\n"
        )
        return 1
    from comet.host.process_setup import prepare_process, remove_marks

    remove_marks()
    prepare_process()
    return command_line()
