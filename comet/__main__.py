"""`python -m comet`: the command line, where no supervisor.py is at hand."""

if __name__ == "__main__":
    from comet.bootstrap import console

    raise SystemExit(console())
