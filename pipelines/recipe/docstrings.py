"""The sentence under each field of a section, which is its help in editors, messages and the reference."""

import ast
import inspect
import sys
from functools import cache
from pathlib import Path

from pipelines.recipe.base import Section


def docstrings(section: type[Section]) -> dict[str, str]:
    """Field -> its docstring, inherited ones included."""
    found: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        if issubclass(cls, Section):
            found |= _of_module(cls.__module__).get(cls.__name__, {})
    return {name: found[name] for name in section.model_fields if name in found}


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence, without it."""
    end = next((i for i in range(len(text)) if text[i] == "." and text[i + 1 : i + 2] in ("", " ", "\n")), len(text))
    return " ".join(text[:end].split())


@cache
def _of_module(module: str) -> dict[str, dict[str, str]]:
    """Class -> field -> docstring, of everything written in a module."""
    tree = ast.parse(Path(sys.modules[module].__file__ or "").read_text(encoding="utf-8"))
    return {node.name: dict(_of_class(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _of_class(node: ast.ClassDef) -> list[tuple[str, str]]:
    found = []
    for field, after in zip(node.body, node.body[1:], strict=False):
        text = after.value if isinstance(after, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant) and isinstance(text.value, str):
            found.append((ast.unparse(field.target), inspect.cleandoc(text.value)))
    return found
