"""Chapter `model` with a transformer of the researcher's own: `{python: my_models/thing.py, class: ThingConfig, ...}`.

The file is read as a syntax tree, never run here: what its classes are called, which settings they take, and a digest
of each of its definitions, which comments and layout do not change."""

import ast
import copy
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveInt

from pipelines.recipe.base import LocalFile, Section


class OwnModel(Section):
    """A transformer of your own: a Python file with a configuration class. Other fields are that class's settings."""

    model_config = ConfigDict(extra="allow", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    python: Annotated[str, LocalFile()]
    """The file, relative to the recipe; modules beside it may be imported by `from .other import ...`."""
    class_name: Annotated[str, Field(alias="class", pattern=r"^[A-Za-z_]\w*Config$")]
    """Its configuration class, `ThingConfig`; beside it stands `ThingForCausalLM`."""
    architecture: Literal["decoder"] = "decoder"
    """What it is: a decoder."""
    max_position_embeddings: PositiveInt = 1024
    """Longest sequence in tokens."""

    def meaning(self) -> dict[str, Any]:
        """Without the file's place: its code enters by content."""
        return {key: value for key, value in super().meaning().items() if key != "python"}

    @property
    def stem(self) -> str:
        """`Thing` of `ThingConfig`."""
        return self.class_name.removesuffix("Config")

    @property
    def settings(self) -> dict[str, Any]:
        """What the configuration class is given."""
        return {"max_position_embeddings": self.max_position_embeddings, **(self.model_extra or {})}


class UnfitSource(ValueError):
    """The file cannot be read, or does not fit: `line` says where."""

    def __init__(self, message: str, line: int = 1):
        super().__init__(message)
        self.line = line


GIVEN = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
"""Settings that the tokenizer decides."""


def modules_of(file: Path) -> dict[Path, ast.Module]:
    """The file, and the modules beside it that it imports relatively, each as a syntax tree."""
    found: dict[Path, ast.Module] = {}
    pending = [file]
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found[path] = tree = _parsed(path)
        for statement in ast.walk(tree):
            if isinstance(statement, ast.ImportFrom) and statement.level:
                pending += _siblings(path, statement)
    return found


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except OSError as error:
        raise UnfitSource(f"{path}: {error.strerror or error}") from None
    except (SyntaxError, ValueError) as error:
        raise UnfitSource(f"{path}:{getattr(error, 'lineno', 1)}: is no Python: {error}") from None


def _siblings(path: Path, statement: ast.ImportFrom) -> Iterator[Path]:
    names = [statement.module] if statement.module else [alias.name for alias in statement.names]
    for name in names:
        if statement.level > 1 or "." in name:
            message = f"{path}:{statement.lineno}: imports from another folder; a model travels with its own only"
            raise UnfitSource(message, statement.lineno)
        yield path.with_name(f"{name}.py")


def classes_of(modules: Mapping[Path, ast.Module]) -> dict[str, ast.ClassDef]:
    """Name -> class, over all modules."""
    return {node.name: node for tree in modules.values() for node in tree.body if isinstance(node, ast.ClassDef)}


def settings_of(name: str, classes: Mapping[str, ast.ClassDef]) -> list[str]:
    """The annotated fields of a configuration class and of its bases, as far as they are in these modules."""
    node = classes.get(name)
    if node is None:
        return []
    own = [
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and "ClassVar" not in ast.unparse(item)
    ]
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return [*own, *(setting for base in bases for setting in settings_of(base, classes))]


def definitions_of(file: Path) -> dict[str, str]:
    """`thing.ThingBlock.forward` -> digest of its code, without comments, layout and docstrings; what stands outside of
    functions is under the name of its class or module."""
    parts: dict[str, list[str]] = {}
    for path, tree in sorted(modules_of(file).items()):
        _collect(path.stem, _without_docstrings(tree).body, parts)
    return {name: hashlib.sha256("\n".join(code).encode()).hexdigest() for name, code in sorted(parts.items())}


def _collect(name: str, body: list[ast.stmt], parts: dict[str, list[str]]) -> None:
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            inner = f"{name}.{statement.name}"
            head = copy.copy(statement)
            head.body = [ast.Pass()]
            parts.setdefault(inner, []).append(ast.unparse(head))
            _collect(inner, statement.body, parts)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            parts.setdefault(f"{name}.{statement.name}", []).append(ast.unparse(statement))
        else:
            parts.setdefault(name, []).append(ast.unparse(statement))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    tree = ast.parse(ast.unparse(tree))  # a copy
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                statement
                for statement in node.body
                if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            ] or [ast.Pass()]
    return tree
