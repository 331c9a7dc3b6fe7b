"""Folders that exist whole or not at all (hash, fsync, one rename), and files written the same way."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import ArtifactError

MANIFEST = "manifest.json"
FORMAT = 1


class Damaged(ArtifactError):
    """A published folder does not match its manifest."""


def publish(work: Path, final: Path, *, fields: Mapping[str, Any] | None = None, content: str = ".") -> dict[str, Any]:
    """Turn `work` into `final`: after a kill at any moment `final` is there complete, or not at all.

    Files under `content` enter the manifest's table and digest; others travel along. `fields` are added to the
    manifest, which is returned.
    """
    paths = sorted(path for path in work.rglob("*") if path != work / MANIFEST)
    table = {
        path.relative_to(work / content).as_posix(): {"sha256": digest(path), "bytes": path.stat().st_size}
        for path in paths
        if path.is_file() and path.is_relative_to(work / content)
    }
    manifest = {"format": FORMAT, **(fields or {}), "content": content, "files": table, "digest": table_digest(table)}
    sync_tree(work)
    write_json(work / MANIFEST, manifest)
    if final.exists():  # only a damaged one: nobody publishes over a good one
        _discard(final)
    work.rename(final)
    _sync(final.parent)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published folder; Damaged when it cannot be read."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sound = all(
            isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str) and _is_below(name)
            for name, entry in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(f"{path}: {error}") from error
    if not sound:
        raise Damaged(f"{path}: names files that are not in its folder, or without their size and sha256")
    return manifest


def _is_below(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def verify(folder: Path, *, contents: bool = True) -> dict[str, Any]:
    """The manifest. Raises Damaged, naming the file, unless every byte (or at least every size) is what it says."""
    manifest = read_manifest(folder)
    for name, entry in manifest["files"].items():
        path = folder / manifest.get("content", ".") / name
        if not path.is_file():
            raise Damaged(f"{path}: missing")
        if path.stat().st_size != entry["bytes"] or (contents and digest(path) != entry["sha256"]):
            raise Damaged(f"{path}: not the bytes that were written")
    if contents and manifest.get("digest") != table_digest(manifest["files"]):
        raise Damaged(f"{folder / MANIFEST}: not the table that was written")
    return manifest


def checkpoints(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every published `checkpoint-<step>`, newest first, verified or not."""
    found = [(int(path.name[11:]), path) for path in root.glob("checkpoint-*") if path.name[11:].isdigit()]
    return sorted(found, reverse=True)


def newest(root: Path, warn: Callable[[str], Any] = warnings.warn) -> tuple[int, Path] | None:
    """The newest checkpoint that verifies; a damaged one is named and passed over."""
    for step, folder in checkpoints(root):
        try:
            verify(folder)
            return step, folder
        except Damaged as error:
            warn(f"damaged checkpoint passed over: {error}")
    return None


def prune(root: Path, keep: int) -> None:
    """Keep the `keep` newest checkpoints."""
    for _, folder in checkpoints(root)[keep:]:
        _discard(folder)


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def table_digest(table: Mapping[str, Mapping[str, Any]]) -> str:
    """One sha256 for a table of files: the content digest of a folder."""
    return hashlib.sha256(json.dumps(table, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader, or a crash, sees the old file or the whole new one."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text so that a reader, or a crash, sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Bring every file and folder below to the disk itself."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(folder: Path) -> None:
    """Remove a published folder. Half removed it must not verify, so its manifest goes first."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)
