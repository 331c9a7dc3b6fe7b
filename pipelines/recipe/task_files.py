"""Task files: YAML of lm-eval's kind, in recipes/tasks or beside the recipe, and the local files that decide a task."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.errors import DataError
from pipelines.recipe.paths import expand, find, is_file
from pipelines.recipe.words import did_you_mean

OURS = ("builtin", "size", "seed", "chat")
"""Keys of our own: a built-in item generator with its size and seed; `chat: true` always asks in chat form."""
_KINDS = {"size": (int, "a whole number"), "seed": (int, "a whole number"), "chat": (bool, "true or false")}
CODE = ("custom_dataset", "process_docs", "process_results", "unsafe_code")
"""Keys whose values would be Python: a task file holds none."""
# These two mirror lm-eval's TaskConfig and `pipelines.evaluation.tasks.BUILTIN`; a contract test keeps them equal.
KEYS = (
    *("task", "task_alias", "tag", "metadata", "description", "dataset_path", "dataset_name", "dataset_kwargs"),
    *("training_split", "validation_split", "test_split", "fewshot_split", "fewshot_config", "num_fewshot"),
    *("doc_to_text", "doc_to_target", "doc_to_choice", "doc_to_image", "doc_to_audio", "use_prompt", "gen_prefix"),
    *("target_delimiter", "fewshot_delimiter", "output_type", "generation_kwargs", "repeats", "filter_list"),
    *("metric_list", "should_decontaminate", "doc_to_decontamination_query"),
)
BUILTIN_TASKS = (
    "microworld/comprehension",
    "microworld/reasoning",
    "microworld/generation",
    "microworld/chat_answers",
)


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
    """The values of a file and of what it includes. `read` collects files. DataError names what is wrong with them."""
    values = _merged(path, [] if read is None else read)
    for fault in _faults(values):
        raise DataError(f"{path}: {fault}")
    return values


def _merged(path: Path, read: list[Path]) -> dict[str, Any]:
    if path.resolve() in map(Path.resolve, read):
        raise DataError(f"{path}: include: goes in a circle")
    read.append(path)
    values = _load(path)
    included = values.pop("include", None)
    if included is None:
        return values
    if not isinstance(included, str):
        raise DataError(f"{path}: include: needs one file name, relative to this file")
    if not is_file(path.parent / included):
        raise DataError(f"{path}: include: there is no file '{included}' (looked from {path.parent}/)")
    return _merged(path.parent / included, read) | values


def _faults(values: Mapping[str, Any]) -> Iterator[str]:
    for key in values:
        if key in CODE:
            yield f"{key}: a task file holds no code; write the rows as they are to be asked"
        elif key not in (*KEYS, *OURS):
            hint = did_you_mean(str(key), (*KEYS, *OURS)) or f"; lm-eval's task keys and {', '.join(OURS)} are known"
            yield f"unknown key '{key}'{hint}"
    builtin, kwargs = values.get("builtin"), values.get("dataset_kwargs")
    if builtin is not None and builtin not in BUILTIN_TASKS:
        yield f"builtin: '{builtin}' is none of {', '.join(BUILTIN_TASKS)}"
    if (builtin is None) == (values.get("dataset_path") is None):
        yield "give one of builtin and dataset_path"
    for key, (kind, needed) in _KINDS.items():
        if key in values and type(values[key]) is not kind:
            yield f"{key}: needs {needed}, not '{values[key]}'"
    if values.get("size", 1) < 1:
        yield f"size: needs at least 1 item, not {values['size']}"
    if kwargs is not None and not isinstance(kwargs, Mapping):
        yield "dataset_kwargs: needs a mapping, such as {data_files: {test: items.jsonl}}"


def _load(path: Path) -> dict[str, Any]:
    """Plain values only: a tag such as lm-eval's `!function` would run code of somebody's."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).strip().partition("\n")[0]
        if "!function" in text:
            what = "`!function` is not read, since it would run code; write the rows as they are to be asked"
        raise DataError(f"{path}{place}: {what}") from error
    except (ValueError, RecursionError) as error:  # a date that is none; brackets without end
        raise DataError(f"{path}: is not YAML that can be read ({error}); put dates in quotes") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: a task file is a mapping of keys to values")
    if "group" in values:
        raise DataError(f"{path}: groups are not read; name the tasks one by one in the recipe")
    return values


def _rows(path: Path, values: Mapping[str, Any]) -> Iterator[Path]:
    """The files that `dataset_kwargs: data_files` names, relative to the task file."""
    given = values.get("dataset_kwargs")
    for pattern in _patterns(path, given.get("data_files") if isinstance(given, Mapping) else None):
        if "://" not in pattern:
            found = expand([pattern], path.resolve().parent)[pattern]
            if not found:
                raise DataError(f"{path}: data_files: no file matches '{pattern}' (looked from {path.parent}/)")
            yield from found


def _patterns(path: Path, data_files: Any) -> Iterator[str]:
    if isinstance(data_files, str):
        yield data_files
    elif isinstance(data_files, Mapping | list):
        for item in data_files.values() if isinstance(data_files, Mapping) else data_files:
            yield from _patterns(path, item)
    elif data_files is not None:
        raise DataError(f"{path}: data_files: needs names of files, not '{data_files}'")
