"""The entry point of Comet's command line: `python supervisor.py`.

Nothing may be imported at module level: multiprocessing's forkserver imports the main script again in every load
balancer that it forks, so each import here would delay every restart of one (`import requests` takes about 120 ms).
"""


def main() -> int:
    """Run the command line and return its exit code, with a Python that has Comet's dependencies."""
    from comet.bootstrap import command_line, ensure_dependencies
    from comet.host.process_setup import prepare_process, remove_marks

    remove_marks()
    prepare_process()
    ensure_dependencies(__file__)
    return command_line()


if __name__ == "__main__":
    raise SystemExit(main())
