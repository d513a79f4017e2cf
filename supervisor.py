"""The entry point of Comet's command line: `python supervisor.py`.

Nothing may be imported at module level: multiprocessing's forkserver imports the main script again in every load
balancer that it forks, so each import here would delay every restart of one (`import requests` takes about 120 ms).
"""


def main() -> int:
    """Run the command line and return its exit code, with a Python that has Comet's dependencies."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Until the commands are there: Ctrl-C shows no traceback.
    from comet.bootstrap import command_line, ensure_dependencies
    from comet.host.process_setup import prepare_process, remove_marks

    remove_marks()
    prepare_process()
    ensure_dependencies(__file__)
    return command_line()


if __name__ == "__main__":
    raise SystemExit(main())
