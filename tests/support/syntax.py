"""The syntax trees of the project's sources, each parsed once for all tests that read them."""

import ast
import functools
from pathlib import Path


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a module, the module itself first. Nobody changes them."""
    return tuple(ast.walk(ast.parse(path.read_text())))
