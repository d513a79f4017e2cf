"""Parses the command line, runs one command, and returns its exit code.

`comet.commands.table` declares the commands; this module only turns its arguments into a parser.

Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 nothing of this cluster runs, 130 interrupted.
"""

import argparse
import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from comet import __version__
from comet.cli.completion import Completed, script
from comet.cli.options import cluster_of
from comet.commands.command import Argument, Command, file_path
from comet.commands.table import COMMANDS, CONFIG, on_command_line
from comet.common.errors import UserError, os_error_text
from comet.common.program import IN_CHECKOUT, called, spoken
from comet.common.redaction import concealed
from comet.common.wording import hint
from comet.host.process_setup import inherited

EXAMPLES = """examples:
  python supervisor.py                 run the cluster of ./config.yaml in the foreground
  python supervisor.py run --detach    the same in the background; returns once all are ready
  python supervisor.py ps              supervisor, load balancers and workers, side by side
  python supervisor.py events --follow the events, as they happen
  python supervisor.py stop            drain, stop and remove everything
"""


OF_ALL = ("help", "completion")
"""The commands that are about all others."""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports bad usage in one line on stderr, with exit code 2.

    Options must be written in full. An abbreviation is ambiguous (`--delay` is not `--delay-distribution`), and a new
    option must not change the meaning of an existing script.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r}: unknown ({hint(str(value), action.choices)})")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print a help text or the version; argparse itself ignores that it could not be written."""
        if file is sys.stdout:
            print(message, end="", flush=True)
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {concealed(message)} (see --help)\n")


def parser(only: str = "") -> argparse.ArgumentParser:
    """Return the parser of all commands, or of `only` this one: declaring all takes a third of a short command."""
    top = Parser(
        prog="supervisor.py" if called() == IN_CHECKOUT else called(),
        description="A mini-cluster in one command: workers in containers, load balancers as processes, one "
        "supervisor.",
        epilog=spoken(EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"comet {__version__}")
    _add(top, (CONFIG, *COMMANDS["run"].arguments))
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    for command in on_command_line().values():
        if only in ("", command.name):
            _add_command(subparsers, command)
    if not only:
        subparsers.choices["help"].set_defaults(parsers={"": top, **subparsers.choices})
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options: argparse.Namespace | None = None
    try:
        given, client = own_and_client(list(sys.argv[1:] if arguments is None else arguments))
        given = command_first(given)
        top = parser(given[0] if given and given[0] in on_command_line() and given[0] not in OF_ALL else "")
        options = top.parse_args(given)
        options.client = client
        _require_folder(options.config)
        if options.command == "completion" and options.shell != "names":
            print(script(options.shell, described(top)))
            code = 0
        else:
            code = implementation(options.command or "run")(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        # A background start hands its message on to the command, which knows what it was called.
        in_background = getattr(options, "notify_fd", None) is not None
        print(error.message if in_background else spoken(error.message), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        _drop_output()  # Its reader has closed it (`| head`).
        return 0
    except OSError as error:
        if not (error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
            raise
        text = _os_error_line(error, options)
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)
        notify_fd = getattr(options, "notify_fd", None)
        if notify_fd is not None:  # The log of a detached start is on the same disk.
            os.write(notify_fd, json.dumps({"kind": "failed", "text": text, "exit_code": 1}).encode() + b"\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from comet.cli.commands import permission_message

        line = permission_message(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        return 1


def _os_error_line(error: OSError, options: argparse.Namespace | None) -> str:
    from comet.cli.commands import permission_message
    from comet.events.event import visible

    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else _full_place(options)
    return permission_message(error) or f"{visible(place)}: {os_error_text(error)}"


def _full_place(options: argparse.Namespace | None) -> str:
    """Return what could not be written to where the error does not say it, as those of the cluster's files do.

    Without `options`, it is the help or the version, which the parser prints.
    """
    if options is not None and options.command in (None, "run"):
        return str(cluster_of(options).state)
    _drop_output()
    return "the output"


def _drop_output() -> None:
    """Write nothing more of what was printed: Python would report the failure again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def own_and_client(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments of `scenario`, and the command after `--`, which is the user's client."""
    if "--" not in arguments or "scenario" not in arguments[: arguments.index("--")]:
        return arguments, []
    end = arguments.index("--")
    return arguments[:end], arguments[end + 1 :]


def _require_folder(config: Path | None) -> None:
    """Raise UserError if the command depends on a working folder that has been removed."""
    if inherited.folder is None and (config is None or not config.is_absolute()):
        raise UserError(
            "the working folder has been removed: change to another one, or name the config by its full path "
            "(--config)",
            2,
        )


def implementation(command: str) -> Callable[[argparse.Namespace], int]:
    """Return the function that runs a command."""
    module, _, function = COMMANDS[command].run.partition(":")
    found: Callable[[argparse.Namespace], int] = getattr(import_module(f"comet.{module}"), function)
    return found


def command_first(arguments: list[str]) -> list[str]:
    """Move the command to the front of the arguments: its options may stand before or after it."""
    leading = (CONFIG, *COMMANDS["run"].arguments, *COMMANDS["ps"].arguments)
    valued = {flag for each in leading if "action" not in each.settings for flag in each.flags}
    skip = False
    for index, word in enumerate(arguments):
        if skip or word.startswith("-"):
            skip = not skip and word in valued
        elif word in on_command_line():
            return [word, *arguments[:index], *arguments[index + 1 :]]
        else:
            break
    return arguments


def described(top: argparse.ArgumentParser) -> dict[str, Completed]:
    """Describe the command line for completion; "" has the options that stand before any command."""
    subparsers = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    names = list(subparsers.choices)
    found = {name: _described(parser, COMMANDS[name], names) for name, parser in subparsers.choices.items()}
    return {"": _described(top, Command("", arguments=COMMANDS["run"].arguments), names), **found}


def _described(parser: argparse.ArgumentParser, command: Command, names: list[str]) -> Completed:
    known = {each.flags[0]: each for each in (CONFIG, *command.arguments)}
    options = [action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS]
    positional = [each for each in command.arguments if not each.flags[0].startswith("-")]
    words = " ".join([*filter(None, (each.words for each in positional)), *(names if command.name == "help" else ())])
    return Completed(
        [flag for action in options for flag in action.option_strings if flag.startswith("--")],
        {
            flag: _values(known[action.option_strings[0]], action)
            for action in options
            if action.nargs != 0
            for flag in action.option_strings
        },
        words,
        any(each.replicas for each in positional),
        any(each.read is file_path for each in positional),
    )


def _values(argument: Argument, action: argparse.Action) -> str | None:
    return None if argument.read is file_path else argument.words or " ".join(action.choices or ())


def _add_command(subparsers: "argparse._SubParsersAction[Parser]", command: Command) -> None:
    examples = "".join(f"  {called()} {spoken(example)}".rstrip() + "\n" for example in command.examples)
    parser = subparsers.add_parser(
        command.name,
        help=command.help,
        description=command.help[0].upper() + command.help[1:] + ".",
        epilog=f"examples:\n{examples}".replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # What stands before the command is an option of the whole: one that is not given again sets nothing.
    _add(parser, (CONFIG,), default=argparse.SUPPRESS)
    _add(parser, command.arguments, **({"default": argparse.SUPPRESS} if command.name == "run" else {}))


def _add(to: argparse.ArgumentParser, arguments: Iterable[Argument], **more: Any) -> None:
    for each in arguments:
        read = {} if each.read is None else {"type": _reader(each.read)}
        # argparse interprets a percent sign in help texts.
        help = argparse.SUPPRESS if each.help is None else each.help.replace("%", "%%")
        to.add_argument(*each.flags, help=help, **{**each.settings, **read, **more})


def _reader(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked
