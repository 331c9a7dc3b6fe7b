"""The whole recipe with every value that holds, written or not, and where each comes from."""

import json
import re
from collections.abc import Iterator
from typing import Any

from pipelines.errors import KeyPath
from pipelines.recipe.load import LoadedRecipe
from pipelines.recipe.tree import format_path, plain_scalar

_COMMENT_COLUMN = 44


def show_recipe(loaded: LoadedRecipe) -> str:
    """The recipe as YAML that means the same, with each value's origin as a comment."""
    lines = []
    for text, path in _lines(loaded.recipe.model_dump(mode="json"), ()):
        origin = loaded.origin(path) if path else ""
        lines.append(f"{text:<{_COMMENT_COLUMN}} # {origin}" if origin else text)
    return "\n".join(lines) + "\n"


def show_json(loaded: LoadedRecipe) -> dict[str, Any]:
    """{"recipe": the values, "origins": key path -> where its value comes from}"""
    recipe = loaded.recipe.model_dump(mode="json")
    origins = {format_path(path): loaded.origin(path) for path in _paths(recipe, ())}
    return {"recipe": recipe, "origins": origins}


def _lines(value: Any, path: KeyPath) -> Iterator[tuple[str, KeyPath]]:
    """(line, path of the value on it, or nothing for a line that only opens a block)"""
    indent = "  " * len(path)
    for key, below in _in_order(value):
        here = (*path, key)
        start = f"{indent}{_word(key)}:" if isinstance(key, str) else f"{indent}-"
        if isinstance(below, dict) and isinstance(key, int):
            (first, at), *others = _lines(below, here)
            yield f"{start} {first.lstrip()}", at
            yield from others
        elif (isinstance(below, dict) and below) or _holds_blocks(below):
            yield start, ()
            yield from _lines(below, here)
        else:
            yield f"{start} {_flow(below)}", here


def _holds_blocks(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _in_order(value: Any) -> list[tuple[str | int, Any]]:
    """A stage's kind first: it says how to read the rest."""
    if isinstance(value, list):
        return list(enumerate(value))
    return sorted(value.items(), key=lambda item: item[0] != "kind")


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    return "{}" if value == {} else _word(value)


def _word(value: Any) -> str:
    """A scalar as our loader reads it back: quoted where it would be taken for something else."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_./-][\w./ +-]*(?<! )", value) and value[0] != "-":
        return value if plain_scalar(value) == value else json.dumps(value)
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return f"{value:.1f}"
    return json.dumps(value)


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(value, dict | list) and value:
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(below, (*path, key))
    else:
        yield path
