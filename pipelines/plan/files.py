"""Local files as content: what a job reads, and a cache of digests such as git keeps."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.recipe.data import PACKED, Dataset
from pipelines.recipe.paths import expand

_RACY_NANOSECONDS = 2_000_000_000
"""A file younger than this may still change without its time stamp changing, so it is not cached (git: racy)."""


class Digests:
    """sha256 of files by content. Reads a file again only when its path, size, mtime or inode is new."""

    def __init__(self, cache: Path | None = None):
        self._cache = cache
        self._known: dict[str, list] = {}
        self._changed = False
        if cache is not None and cache.is_file():
            try:
                known = dict(json.loads(cache.read_text(encoding="utf-8")))
                self._known = {path: entry for path, entry in known.items() if len(entry) == 4}
            except (OSError, ValueError, TypeError):
                self._known = {}  # it is only a cache

    def __call__(self, path: Path) -> str:
        path = path.resolve()
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = self._known.get(str(path))
        if known and known[:3] == stamp:
            return known[3]
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - status.st_mtime_ns > _RACY_NANOSECONDS:
            self._known[str(path)] = [*stamp, found]
            self._changed = True
        return found

    def save(self) -> None:
        """Keep what was learnt, if there is anywhere to keep it."""
        if self._cache is None or not self._changed:
            return
        temporary = self._cache.with_name(f".{self._cache.name}.{os.getpid()}.tmp")
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._known), encoding="utf-8")
            temporary.replace(self._cache)
        except OSError:
            return  # a read-only store is no reason to fail
        self._changed = False


def dataset_files(
    dataset: Dataset, folder: Path, digest: Callable[[Path], str]
) -> tuple[dict[str, str], dict[str, str], list[tuple[str, str]]]:
    """(path -> digest, `holdout.<i>` -> path, faults as (field, message)) of a dataset's files; `folder` is that of
    the recipe."""
    files, named, faults = dict[str, str](), dict[str, str](), list[tuple[str, str]]()
    for field in ("files", "holdout_files"):
        for pattern, paths in expand(getattr(dataset, field), folder).items():
            if not paths:
                faults.append((field, f"no file matches '{pattern}'"))
            found = {str(path): digest(path) for path in paths}
            if field == "holdout_files":
                for path in found.keys() & files.keys():
                    faults.append((field, f"'{path}' is one of files too; leave it out of one of them"))
                named |= {f"holdout.{len(named) + index}": path for index, path in enumerate(found)}
            files |= found
    return files, named, faults


def format_of(path: str) -> str:
    """What a file's name says of its format: `.jsonl.gz`, `.txt`; the rest of the name decides nothing."""
    suffixes = Path(path).suffixes
    return "".join(suffixes[-2:] if suffixes and suffixes[-1] in PACKED else suffixes[-1:]).lower()
