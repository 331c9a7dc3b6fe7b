"""Task files: YAML of lm-eval's kind, in recipes/tasks or beside the recipe, and the local files that decide a task."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.errors import DataError
from pipelines.recipe.paths import expand, find


@dataclass(frozen=True)
class LocalTask:
    """A task of ours, as far as it is read before anything runs."""

    values: Mapping[str, Any]
    """Of the file and of what it includes, merged."""
    files: tuple[Path, ...]
    """The file itself, what it includes, and its rows."""


def find_task(name: str, recipe: Path) -> LocalTask | None:
    """The task of a name; None where only a library may know it. Raises DataError where a file is no good."""
    path = find(name, "tasks", ".yaml", recipe)
    if path is None:
        return None
    read: list[Path] = []
    values = read_task(path, read)
    return LocalTask(values, (*read, *dict.fromkeys(_rows(path, values))))


def read_task(path: Path, read: list[Path] | None = None) -> dict[str, Any]:
    """Plain values only: a tag such as lm-eval's `!function` would run code of somebody's. `read` collects files."""
    read = [] if read is None else read
    if path.resolve() in map(Path.resolve, read):
        raise DataError(f"{path}: include: goes in a circle")
    read.append(path)
    values = _load(path)
    included = values.pop("include", None)
    if included is None:
        return values
    if not isinstance(included, str):
        raise DataError(f"{path}: include: needs one file name, relative to this file")
    return read_task(path.parent / included, read) | values


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).strip().partition("\n")[0]
        if "!function" in text:
            what = "`!function` is not read, since it would run code; write the rows as they are to be asked"
        raise DataError(f"{path}{place}: {what}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: a task file is a mapping of keys to values")
    if "group" in values:
        raise DataError(f"{path}: groups are not read; name the tasks one by one in the recipe")
    return values


def _rows(path: Path, values: Mapping[str, Any]) -> Iterator[Path]:
    """The files that `dataset_kwargs: data_files` names, relative to the task file."""
    given = values.get("dataset_kwargs")
    for pattern in _patterns(given.get("data_files") if isinstance(given, Mapping) else None):
        if "://" not in pattern:
            found = expand([pattern], path.resolve().parent)[pattern]
            if not found:
                raise DataError(f"{path}: data_files: no file matches '{pattern}' (looked from {path.parent}/)")
            yield from found


def _patterns(data_files: Any) -> Iterator[str]:
    if isinstance(data_files, str):
        yield data_files
    elif isinstance(data_files, Mapping | list):
        for item in data_files.values() if isinstance(data_files, Mapping) else data_files:
            yield from _patterns(item)
