"""`python supervisor.py`: the whole of Comet's command line.

Nothing is imported at module level, and that is a rule: multiprocessing's forkserver imports the main script again in every
load balancer it forks, so each import here would be paid at each restart of one (an `import requests` costs some 120 ms).
"""


def main() -> int:
    """Run the command line and return its exit code, under a Python that has Comet's dependencies."""
    from comet.bootstrap import ensure_dependencies

    ensure_dependencies(__file__)
    from comet.cli import main as command_line

    return command_line()


if __name__ == "__main__":
    raise SystemExit(main())
