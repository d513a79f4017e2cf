"""Reads YAML with the line of every key, so that an error deep in a file is reported at its line.

A file is checked in parts. Text that cannot be decoded, characters that YAML forbids and values that cannot be
constructed each become a problem of their own line. The rest is read all the same, so that one reading finds every
problem. The cost of a file is bounded before it is built: its size, its depth, and the number of its values with every
alias expanded. The functions have no side effects.

Two forms that YAML 1.1 takes for numbers are text here: 0123 (octal) and 1:30 (sexagesimal). So are dates. A user who
writes them in a config does not mean those numbers.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from comet.common.errors import UserError
from comet.common.redaction import concealed
from comet.common.values import brief, shown

MAPPING, SEQUENCE, MERGE = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:merge"

MAX_BYTES = 256 << 10
"""The size of a file in bytes; a config with settings for each of 200 workers takes 60 KiB."""

MAX_DEPTH = 20
MAX_VALUES = 20_000
"""MAX_DEPTH is the levels of nesting, MAX_VALUES the number of values, with every alias expanded."""

MAX_BAD_LINES = 20
"""The number of reported lines that are not text, so that a file of another kind has few problems, not thousands."""

# The first pattern is what YAML forbids (production c-printable), the second what would break a line or a path later.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
_KEY = re.compile(r"\s*(?:- +)?([A-Za-z][\w.\-]*) *:(?:\s|$)")
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)\Z")
_INT, _FLOAT, _TIMESTAMP = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))


class ConfigError(UserError):
    """A file cannot be used; exit code 2.

    There is one line per problem, each `FILE:LINE: key: what is wrong (what is allowed)`.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems), exit_code=2)
        self.problems = [concealed(problem) for problem in problems]


class Entries(list[tuple[int, str, Any]]):
    """A mapping as written in the file: (line, key, value) in its order."""


@dataclass(frozen=True)
class Unreadable:
    """Stands in place of a value that YAML could not construct; `reason` says why."""

    reason: str


class _Loader(yaml.SafeLoader):
    """A SafeLoader that composes no deeper than MAX_DEPTH."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} levels deep", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


_Loader.yaml_implicit_resolvers = {
    first: [
        (
            tag,
            _NUMBER
            if tag == _INT
            else re.compile(rf"(?![^.]*:){pattern.pattern}", re.VERBOSE)
            if tag == _FLOAT
            else pattern,
        )
        for tag, pattern in resolvers
        if tag != _TIMESTAMP
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def text_of(data: bytes, name: str) -> tuple[str, list[str]]:
    """Return the readable text of a file, and a problem for each line that is not text."""
    if len(data) > MAX_BYTES:
        raise ConfigError([f"{name}:1: the file has {len(data)} bytes (allowed: at most {MAX_BYTES})"])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError([f"{name}:1: the file is UTF-16 text (allowed: UTF-8; save it as that)"])
    problems, lines = [], data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    texts = []
    for number, line in enumerate(lines, 1):
        text = line.decode(errors="replace")
        bad = _FORBIDDEN.search(text)
        if (wrong := _not_text(line, bad)) is not None:
            key = _KEY.match(text)
            problems.append(f"{name}:{number}: {f'{key[1]}: ' if key else ''}{wrong}")
            # The line stays, but empty, so that the following lines keep their numbers.
            text = ""
        texts.append(text)
    if len(problems) > MAX_BAD_LINES:
        more = len(problems) - MAX_BAD_LINES
        problems = [*problems[:MAX_BAD_LINES], f"{name}:1: {more} more lines are not text (allowed: UTF-8 text)"]
    return "\n".join(texts), problems


def _not_text(line: bytes, bad: re.Match[str] | None) -> str | None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"byte 0x{line[error.start]:02x} at column {error.start + 1} is not UTF-8 (allowed: UTF-8 text)"
    if bad is None:
        return None
    return (
        f"character U+{ord(bad[0]):04X} at column {bad.start() + 1} is a control character (allowed: text; remove it)"
    )


def entries(
    content: str | bytes, name: str, empty: str = "`worker: 3` is a beginning; every key has a default"
) -> Entries:
    """Return the top mapping of a file with every mapping within it.

    Raise ConfigError if it is not YAML or not a mapping; `empty` is the advice for an empty file.
    """
    found, problems = read(content, name, empty)
    if problems:
        raise ConfigError(problems)
    return found


def read(
    content: str | bytes, name: str, empty: str = "`worker: 3` is a beginning; every key has a default"
) -> tuple[Entries, list[str]]:
    """Return what can be read of a file like `entries`, and a problem for each line that is not text.

    Raise ConfigError if nothing can be read.
    """
    text, problems = text_of(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"), name)
    try:
        return _parsed(text, name, empty), problems
    except ConfigError as error:
        # The lines that are not text are the cause if the rest is not valid or is empty.
        raise ConfigError(problems or error.problems) from None


def _parsed(text: str, name: str, empty: str) -> Entries:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise ConfigError([f"{name}:1: the file is empty ({empty})"])
        if not isinstance(node, yaml.MappingNode) or node.tag != MAPPING:
            line = node.start_mark.line + 1
            raise ConfigError([f"{name}:{line}: the file holds no keys (allowed: lines of the form `key: value`)"])
        _require_bounds(node)
        return _located(loader, node)
    except yaml.composer.ComposerError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        one = "the file holds a second document (allowed: one; remove what follows the line `---`)"
        raise ConfigError(
            [f"{name}:{line}: {one if 'document' in str(error.problem) else f'not valid YAML: {error.problem}'}"]
        ) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([f"{name}:{line}: not valid YAML: {error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{name}:1: not valid YAML: {' '.join(str(error).split())}"]) from None
    except (ValueError, OverflowError):
        # Causes are an escape beyond the last character (\UFFFFFFFF) and a version number of thousands of digits.
        raise ConfigError([f"{name}:{loader.line + 1}: not valid YAML: a number in it is too large"]) from None
    finally:
        loader.dispose()


def plain(value: Any) -> Any:
    """Return the value as YAML would have given it, without lines.

    Raise ValueError if there is none, or if its text cannot be part of a path or a command.
    """
    if isinstance(value, Unreadable):
        raise ValueError(value.reason)
    if isinstance(value, Entries):
        made: dict[str, Any] = {}
        for _, key, below in value:
            if key in made:
                raise ValueError(f"{brief(key)} appears twice in it")
            made[_usable(key)] = plain(below)
        return made
    if isinstance(value, list):
        return [plain(each) for each in value]
    return _usable(value) if isinstance(value, str) else value


def quoted(value: Any) -> str:
    """Return a value as a message quotes it, or the reason why there is none."""
    try:
        return shown(plain(value))
    except ValueError as error:
        return str(error)


def label(key: str) -> str:
    """Return a key as a message names it, quoted if it has special characters, so that a problem is one line."""
    return brief(key)


def _usable(text: str) -> str:
    bad = _UNUSABLE.search(text)
    if bad is not None:
        raise ValueError(
            f"{shown(text)} holds {'a NUL' if bad[0] == chr(0) else 'half of a surrogate pair'}, which is no text"
        )
    return text


def _require_bounds(top: yaml.Node) -> None:
    """Raise MarkedYAMLError for a file with too many nodes; each visit of a node counts.

    A node within itself is visited without end, so this also stops there.
    """
    visits = 0
    rest: list[Iterator[yaml.Node]] = [iter((top,))]
    while rest:
        node = next(rest[-1], None)
        if node is None:
            rest.pop()
            continue
        visits += 1
        if visits > MAX_VALUES or len(rest) > MAX_DEPTH + 1:
            many = (
                f"more than {MAX_VALUES} values" if visits > MAX_VALUES else f"nested more than {MAX_DEPTH} levels deep"
            )
            raise yaml.MarkedYAMLError(problem=f"{many}, aliases included", problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            rest.append(iter([part for pair in node.value for part in pair]))
        elif isinstance(node, yaml.SequenceNode):
            rest.append(iter(node.value))


def _located(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Entries:
    own = sum(key.tag != MERGE for key, _ in node.value)
    loader.flatten_mapping(node)
    found = [(key.start_mark.line + 1, _key(loader, key), _value(loader, below)) for key, below in node.value]
    # Merged keys (`<<`) come first, and count only if the mapping does not set the key itself.
    said = {key for _, key, _ in found[len(found) - own :]}
    merged = {key: (line, key, value) for line, key, value in found[: len(found) - own] if key not in said}
    return Entries([*merged.values(), *found[len(found) - own :]])


def _key(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    made = _made(loader, node)
    return str(node.value) if isinstance(made, Unreadable) else made if isinstance(made, str) else brief(made)


def _value(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    # The loader handles every node with a tag of its own, and refuses what is not plain data.
    if isinstance(node, yaml.SequenceNode) and node.tag == SEQUENCE:
        return [_value(loader, below) for below in node.value]
    if isinstance(node, yaml.MappingNode) and node.tag == MAPPING:
        return _located(loader, node)
    return _made(loader, node)


def _made(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """Return the value of a node, or the reason why there is none.

    A tag may precede any node (`!!bool x`), and PyYAML's constructors then fail with arbitrary errors.
    """
    try:
        return loader.construct_object(node, deep=True)
    except yaml.MarkedYAMLError as error:
        unknown = "could not determine a constructor" in str(error.problem)
        return Unreadable(f"the tag {brief(node.tag)} is not known" if unknown else str(error.problem or error.context))
    except Exception:
        kind = node.tag.rpartition(":")[2]
        return Unreadable(
            f"{shown(node.value) if isinstance(node, yaml.ScalarNode) else 'this'} is not of the type {brief(kind)}"
        )
