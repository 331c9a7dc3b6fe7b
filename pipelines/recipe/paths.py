"""Where the files lie that a recipe names: beside it, or among the project's own recipes."""

import errno
import json
from collections.abc import Iterable, Iterator
from functools import cache
from glob import iglob
from os.path import isdir, realpath
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parents[2] / "recipes"
"""The project's own recipes folder, for files that are not beside the recipe."""


def is_file(path: Path) -> bool:
    """Whether there is such a file; there is none of a name that is too long for any."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def expand(patterns: Iterable[str], folder: Path) -> dict[str, list[Path]]:
    """Pattern -> the files it names, sorted; relative patterns start at `folder`."""
    return {pattern: _expand_one(folder / pattern) for pattern in patterns}


def _expand_one(pattern: Path) -> list[Path]:
    if is_file(pattern):  # a name may hold `[` or `*` and still be a name
        return [pattern]
    if saved := _saved_files(pattern):
        return saved
    return _once(path for path in _globbed(*_literal(pattern)) if path.is_file())


def _literal(pattern: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that a pattern starts in, and the rest: a folder that is there is meant by its name, whatever signs
    that holds."""
    folder, parts = Path(pattern.anchor), list(pattern.parts[bool(pattern.anchor) :])
    while len(parts) > 1 and isdir(folder / parts[0]):  # noqa: PTH112  Path.is_dir raises where a name is too long
        folder /= parts.pop(0)
    return folder, tuple(parts)


def _globbed(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """What the parts of a pattern name below a folder. As `glob` has it, but for `**`: that follows links back, two of
    which in one folder have a million paths."""
    at = parts.index("**") if "**" in parts else len(parts)
    heads = iglob(str(Path(*parts[:at])), root_dir=folder) if at else [""]  # noqa: PTH207  Path.glob knows no root_dir
    for head in heads:
        if at == len(parts):
            yield folder / head
            continue
        for inner in _folders(folder / head):
            yield from _globbed(inner, parts[at + 1 :] or ("*",))


def _folders(top: Path) -> Iterator[Path]:
    """A folder and all below it, the shortest paths first; each once, whatever links lead to it."""
    waiting, seen = [top], set[str]()
    for folder in waiting:
        real = realpath(folder)
        if real in seen or not isdir(folder):  # noqa: PTH112  Path.is_dir raises where a name is too long
            continue
        seen.add(real)
        yield folder
        try:
            waiting += sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError:
            continue  # a folder that nobody may look into


def _once(paths: Iterable[Path]) -> list[Path]:
    """Sorted; of one file that several ways lead to, as with a link to a folder that holds it, the shortest way."""
    real = cache(Path.resolve)
    found: dict[tuple[Path, str], Path] = {}
    for path in sorted(paths, key=lambda path: (len(path.parts), str(path))):
        found.setdefault((real(path.parent), path.name), path)
    return sorted(found.values(), key=str)


def _saved_files(folder: Path) -> list[Path]:
    """The files of a dataset that `datasets` saved with `save_to_disk`, in their order; none where it did not."""
    state = _json_of(folder / "state.json")
    names = [file.get("filename") for file in state.get("_data_files") or [] if isinstance(file, dict)]
    return [folder / name for name in names if isinstance(name, str) and Path(name).name == name]


def saved_splits(folder: Path) -> list[str]:
    """Names of the splits, each a folder, that `datasets` saved together; none where it did not."""
    splits = _json_of(folder / "dataset_dict.json").get("splits")
    return [name for name in splits if isinstance(name, str)] if isinstance(splits, list) else []


def _json_of(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if is_file(path) else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


MODEL_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "info.json"),
)
"""What is read of a model made elsewhere."""


def model_files(folder: Path) -> list[Path]:
    """Files of a model's folder that decide what it is, sorted."""
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})


TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("config.json", "chat_template.jinja"),
)
"""What is read of a tokenizer made elsewhere."""


def tokenizer_files(path: Path) -> list[Path]:
    """Files that decide what a tokenizer is: one of ranks, or those of a folder. Empty where there is none."""
    if is_file(path):
        return [path]
    found = [path / name for name in TOKENIZER_FILES if is_file(path / name)]
    return sorted(found) if is_file(path / TOKENIZER_FILES[0]) else []


def missing_of_model(folder: Path) -> str:
    """What a folder lacks to be a model's; empty where nothing."""
    names = [path.name for path in model_files(folder)]
    needed = ("config.json", "tokenizer.json", ".safetensors")
    return ", ".join(need for need in needed if not any(name.endswith(need) for name in names))


def find(name: str, folder: str, ending: str, recipe: Path) -> Path | None:
    """`<folder>/<name><ending>` beside the recipe, else among the project's own recipes."""
    for root in (recipe.resolve().parent, SHIPPED):
        path = root / folder / f"{name}{ending}"
        if is_file(path):
            return path
    return None


def names(folder: str, ending: str, recipe: Path) -> list[str]:
    """What could stand as `name` in `find`."""
    roots = (recipe.resolve().parent / folder, SHIPPED / folder)
    found = {path.relative_to(root).as_posix() for root in roots for path in root.rglob(f"*{ending}")}
    return sorted(name.removesuffix(ending) for name in found)


def chat_template(name: str, recipe: Path) -> Path | None:
    """The file of a chat template: a shipped name, or a path relative to the recipe."""
    beside = recipe.resolve().parent / name
    if is_file(beside):
        return beside
    return find(name.removesuffix(".jinja"), "chat_templates", ".jinja", recipe)
