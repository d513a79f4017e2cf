"""Prints to the terminal or a pipe, whose reader may be gone."""

from rich.console import Console


class OutputConsole(Console):
    """A console that leaves a closed pipe to the command: rich would end the process as a failure, without a word."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
