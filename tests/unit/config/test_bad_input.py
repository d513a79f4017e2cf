"""Input that nobody would write ends in one clear line and loses nothing: no traceback, no hang, no endless start."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from comet.common.yaml_lines import ConfigError
from comet.config.schema import load, parse
from lb import __main__ as balancer

LETTERS = "abcdefghij"
ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise(LETTERS)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n" for before, name in itertools.pairwise(LETTERS)
)


def problems(content: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(content, Path("/folder/config.yaml"))
    assert caught.value.exit_code == 2
    return caught.value.problems


CONTROL = [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F]


@pytest.mark.parametrize(
    "where", ["# a comment {}", "worker: {}3", "wor{}ker: 3", "faults: {{worker-0: {{hang: '{}'}}}}", "{}"]
)
def test_each_control_character_in_the_config_is_named_by_line(where: str) -> None:
    for code in CONTROL:
        first, second = problems(f"pool: 1\n{where.format(chr(code))}\nretries: many\n")
        assert first.startswith("config.yaml:2: ")
        assert (
            f"character U+{code:04X} at column "
            f"{where.replace('{{', '{').index('{}') + 1} is a control character (allowed: "
        ) in first
        assert second.startswith("config.yaml:3: retries: 'many' is not a whole number (allowed: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "worker: 3\xe9\n".encode("latin-1"),
            "config.yaml:1: worker: byte 0xe9 at column 10 is not UTF-8 (allowed: UTF-8 text)",
        ),
        (b"pool: 1\n# caf\xe9\n", "config.yaml:2: byte 0xe9 at column 6 is not UTF-8"),
        ("worker: 3".encode("utf-16"), "config.yaml:1: the file is UTF-16 text (allowed: UTF-8; save it as that)"),
        ("worker: 3".encode("utf-16-be"), "config.yaml:1: character U+0000 at column 1"),
        (b"\xef\xbb\xbfworker: x", "config.yaml:1: worker: 'x' is not a whole number"),
        (b"\xef\xbb\xbf", "config.yaml:1: the file is empty"),
        (
            "worker: !!bool x",
            "config.yaml:1: worker: 'x' is not of the type bool (allowed: a whole number from 0 to 200)",
        ),
        ("worker: !!int ''", "config.yaml:1: worker: '' is not of the type int"),
        ("worker: !!float x", "config.yaml:1: worker: 'x' is not of the type float"),
        ("worker: !!timestamp x", "config.yaml:1: worker: 'x' is not of the type timestamp"),
        ("worker: !!binary '%'", "config.yaml:1: worker: "),
        ("worker: !!set {a}", "config.yaml:1: worker: {'a'} is not a whole number"),
        ("worker: !!omap [a]", "config.yaml:1: worker: expected a mapping of length 1"),
        (
            "worker: !!python/object/apply:os.system [id]",
            "config.yaml:1: worker: the tag tag:yaml.org,2002:python/object/apply:os.system is",
        ),
        ("worker: !mine 3", "config.yaml:1: worker: the tag !mine is not known"),
        ("worker: " + "9" * 5000, "config.yaml:1: worker: '99999"),
        ("worker-memory: " + "9" * 5000 + "m", "config.yaml:1: worker-memory: '99999"),
        ("worker: 1:30", "config.yaml:1: worker: '1:30' is not a whole number"),
        ("worker-port: 06000", "config.yaml:1: worker-port: '06000' is not a whole number"),
        ("health-interval: 1e999", "config.yaml:1: health-interval: '1e999' is not a number"),
        ("health-interval: .inf", "config.yaml:1: health-interval: inf is out of range"),
        ("worker: '٣'", "config.yaml:1: worker: '٣' is not a whole number"),
        ("worker-memory: ٩٩m", "config.yaml:1: worker-memory: '٩٩m' is not an amount of memory"),
        ("? [a]\n: 1", "config.yaml:1: ['a']: unknown key"),
        ("{[a]: 1}", "config.yaml:1: ['a']: unknown key"),
        ('"a\\nb": 1', "config.yaml:1: 'a\\nb': unknown key"),
        ('stats-dir: "a\\0b"', "config.yaml:1: stats-dir: 'a\\x00b' holds a NUL, which is no text"),
        (
            'stats-dir: "\\ud800"',
            "config.yaml:1: stats-dir: '\\ud800' holds half of a surrogate pair, which is no text",
        ),
        ("worker: 1\n---\nworker: 2", "config.yaml:2: the file holds a second document (allowed: one; "),
        ('worker: 1\n"\\U00110000": 1', "config.yaml:2: not valid YAML: a number in it is too large"),
        ('pool: "\\UFFFFFFFF"', "config.yaml:1: not valid YAML: a number in it is too large"),
        (f"%YAML 1.{'9' * 5000}\n---\nworker: 1", "config.yaml:1: not valid YAML: a number in it is too large"),
        ("<<: 5", "config.yaml:1: not valid YAML: expected a mapping or list of mappings for merging"),
        ("a: &a [*a]", "config.yaml:1: not valid YAML: nested more than 20 levels deep, aliases included"),
        ("a: &a {b: *a}", "config.yaml:1: not valid YAML: nested more than 20 levels deep, aliases included"),
        (ALIASES, "config.yaml:1: not valid YAML: more than 20000 values, aliases included"),
        (MERGES, "config.yaml:3: not valid YAML: more than 20000 values, aliases included"),
        pytest.param(
            "worker: " + "[" * 100_000,
            "config.yaml:1: not valid YAML: nested more than 20 levels deep",
            marks=pytest.mark.slow,
        ),
        ("- " * 20_000, "config.yaml:1: not valid YAML: nested more than 20 levels deep"),
        (b"#" * 300_000, "config.yaml:1: the file has 300000 bytes (allowed: at most 262144)"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_one_line_with_place_and_remedy(content: str | bytes, said: str) -> None:
    (problem,) = problems(content)
    assert problem.startswith(said)
    assert len(problem) < 1500


def test_all_problems_come_at_once_whatever_their_kind() -> None:
    found = problems(
        b"worker: !!bool x\npool: 3\x01\nretries: many\nwroker: 1\nbalance: \xff\nfaults:\n  worker-9: {hang: 1}\n"
    )
    assert [problem.split(":")[1] for problem in found] == ["2", "5", "1", "3", "4", "7"]


def test_what_is_written_otherwise_and_meant_well_is_taken() -> None:
    def given(content: str) -> Any:
        return parse(content, Path("/folder/config.yaml"))

    assert (
        given("<<: {worker: 2, pool: 1}\nworker: 5").worker == 5
    )  # A merged key gives way to one that is written out.
    assert given("worker: &n 4\nretries: *n").retries == 4
    own = "runtime: process\nworker-command: serve {port}\nfault-point: lb\n"
    variables = given(own + "worker-environment: {ZIP: 01234, AT: 1:30, DAY: 2026-01-01, N: 7}").worker_environment
    assert dict(variables) == {"ZIP": "01234", "AT": "1:30", "DAY": "2026-01-01", "N": "7"}
    (twice,) = problems(own + "worker-environment: {A: 1, A: 2}")
    assert twice.startswith("config.yaml:4: worker-environment: A appears twice in it")


def test_a_config_that_is_no_file_is_refused_without_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)
    wrong = {
        "fifo": "is no regular file",
        "folder": "is a directory",
        "zeros": "is no regular file",
        "loop": "cannot be read: Too many levels of symbolic links",
        "missing": "there is no such file",
        "large": "config.yaml",
        "a" * 300: "cannot be read: File name too long",
        "nul\0": "cannot be read: embedded null byte",
    }
    for name, said in wrong.items():
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name)
        assert (said if name != "large" else "large:1: the file has 262145 bytes") in caught.value.message
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "options",
    [
        ["--idle-timeout", "nan"],
        ["--request-timeout", "inf"],
        ["--retries", "-1"],
        ["--name", "a\r\nX-Injected: 1"],
        ["--max-head", "9" * 5000],
        ["--health-path", "no path"],
        ["--listen", "127.0.0.1:²"],
        ["--listen", "127.0.0.1:99999"],
    ],
)
def test_a_load_balancer_alone_refuses_options_out_of_range(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        balancer.main(["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", *options])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("python -m lb: error: ")
