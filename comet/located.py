"""YAML with the line of every key, so that a mistake deep within a file can be told where it stands. Pure."""

from typing import Any

import yaml

from comet.errors import UserError

MAPPING, SEQUENCE = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"


class ConfigError(UserError):
    """A file cannot be used. One line per problem, each `FILE:LINE: key: what is wrong (what is allowed)`; exit code 2."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems), exit_code=2)
        self.problems = problems


class Entries(list[tuple[int, str, Any]]):
    """A mapping as it stands in the file: (line, key, value) in its order."""


def entries(content: str, name: str, empty: str = "`worker: 3` is a beginning; every key has a default") -> Entries:
    """The top mapping of a file, and every mapping within it. ConfigError: no YAML, or no mapping; `empty` helps where there is nothing."""
    loader = yaml.SafeLoader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            raise ConfigError([f"{name}:1: the file is empty ({empty})"])
        if not isinstance(node, yaml.MappingNode) or node.tag != MAPPING:
            line = node.start_mark.line + 1
            raise ConfigError([f"{name}:{line}: the file holds no keys (allowed: lines of the form `key: value`)"])
        return Entries(_located(loader, node))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([f"{name}:{line}: not valid YAML: {error.problem or error.context}"]) from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"{name}:1: not valid YAML: {reason}"]) from None
    except RecursionError:
        raise ConfigError([f"{name}:1: not valid YAML: nested too deeply"]) from None
    finally:
        loader.dispose()


def plain(value: Any) -> Any:
    """The value as YAML would have given it, without lines."""
    if isinstance(value, Entries):
        return {key: plain(below) for _, key, below in value}
    return [plain(each) for each in value] if isinstance(value, list) else value


def _located(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    # Anything with a tag of its own is the loader's to judge: it refuses what is no plain data.
    if isinstance(node, yaml.SequenceNode) and node.tag == SEQUENCE:
        return [_located(loader, below) for below in node.value]
    if not isinstance(node, yaml.MappingNode) or node.tag != MAPPING:
        return loader.construct_object(node, deep=True)
    loader.flatten_mapping(node)
    pairs = ((key_node.start_mark.line + 1, loader.construct_object(key_node, deep=True), below) for key_node, below in node.value)
    return Entries((line, str(key), _located(loader, below)) for line, key, below in pairs)
