"""Completion by real shells: what stands on the line after a press of Tab."""

import shutil
import sys
from pathlib import Path

import pytest

from comet.cli.completion import script
from comet.cli.main import described, parser
from comet.commands.table import on_command_line
from tests.support.terminal import terminal

ROOT = Path(__file__).resolve().parents[2]
SHELLS = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shutil.which(shell)])
def test_a_shell_completes_commands_options_values_and_names(tmp_path: Path, shell: str) -> None:
    (tmp_path / "config.yaml").write_text("worker: 2\npool: 1\n")
    (tmp_path / "completion").write_text(script(shell, described(parser())))
    (tmp_path / "it's one/.comet").mkdir(parents=True)
    (tmp_path / "it's one/config.yaml").write_text("worker: 2\npool: 1\n")
    shutil.copy(ROOT / "supervisor.py", tmp_path)
    (tmp_path / "python").symlink_to(sys.executable)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    with terminal(
        SHELLS[shell], tmp_path, 100, 40, PS1="ready> ", PATH=path, PYTHONPATH=str(ROOT), HOME=str(tmp_path)
    ) as shown:
        shown.shows("ready>")
        shown.type("source ./completion; echo loaded-$((1 + 1))\r")
        shown.shows("loaded-2")
        for typed, completed in (
            ("python supervisor.py scal\tw\t", "supervisor.py scale worker="),
            ("python supervisor.py relo\t--js\t", "supervisor.py reload --json "),
            ("python supervisor.py run --log-format j\t", "run --log-format json "),
            ("python supervisor.py ps --config conf\t", "ps --config config.yaml "),
            ("python supervisor.py kill l\t", "supervisor.py kill lb-0 "),
            ("python supervisor.py kill --signal SE\t worker-1", "--signal SEGV"),
            ("python supervisor.py chaos --kinds fr\t", "--kinds freeze "),
            ("python supervisor.py faults --delay-distribution ex\t", "--delay-distribution exponential "),
            ("comet wait worker-0 --for go\t", "--for gone "),
            ("comet wait worker-0 --for=go\t", "--for=gone "),
            ("comet --config=config.yaml kill --json l\t", "kill --json lb-0 "),
            ("comet logs --follow worker-\t\t", "worker-0"),
            ("comet kill --config ~/it\\'s\\ one/config.yaml l\t", "one/config.yaml lb-0 "),
            ('comet kill --config="it\'s one"/config.yaml l\t', 'one"/config.yaml lb-0 '),
            ("comet kill --config 'it'\\''s one' l\t", "s one' lb-0 "),
            ("python ~/'supervisor.py' kill l\t", "kill lb-0 "),
        ):
            shown.type(typed)
            assert completed.rstrip() in shown.shows(completed.rstrip())
            shown.type("\x15")
            shown.shows(lambda text: text.rstrip().endswith("ready>"))


@pytest.mark.parametrize("shell", list(SHELLS))
def test_every_command_and_option_is_known(shell: str) -> None:
    commands = described(parser())
    text = script(shell, commands)
    assert set(commands) - {""} == set(on_command_line())
    for name, command in commands.items():
        for word in (name, *command.flags):
            assert word in text
