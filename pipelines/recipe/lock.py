"""`<recipe>.lock`: the commits of Hub datasets, so that a rerun reads the same rows."""

import json
import os
import re
from pathlib import Path
from typing import Any

from pipelines.errors import DataError


def lock_path(recipe_path: Path) -> Path:
    """recipes/mine.yaml -> recipes/mine.lock"""
    return recipe_path.with_suffix(".lock")


def read_lock(recipe_path: Path) -> dict[str, dict[str, Any]]:
    """Dataset's repository on the Hub -> what is pinned of it (`revision`); empty where nothing is pinned."""
    path = lock_path(recipe_path)
    if not path.exists():
        return {}
    again = "remove it and run `make data` to pin the data again"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); {again}") from None
    if not isinstance(found, dict) or not all(map(_is_pinned, found.values())):
        raise DataError(f"{path} is no lock file; {again}")
    return found


def _is_pinned(entry: Any) -> bool:
    revision = entry.get("revision") if isinstance(entry, dict) else None
    return isinstance(revision, str) and re.fullmatch("[0-9a-f]{40}", revision) is not None


def write_lock(recipe_path: Path, pinned: dict[str, dict[str, Any]]) -> Path:
    """Replace the lock as a whole: it is never half written."""
    path = lock_path(recipe_path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(pinned, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path
