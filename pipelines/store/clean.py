"""What a store can do without: unfinished work, and artifacts that no run points to. Never anything outside."""

import fcntl
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipelines.store.artifacts import ArtifactStore


def unused(store: Path, runs: Path) -> list[Path]:
    """Folders that may go. What a running job holds is left alone."""
    known = {runs, *ArtifactStore(store).run_folders()}
    kept = {link.resolve() for root in known for link in root.glob("*/*") if link.is_symlink()}
    kept |= {store.resolve() / base for folder in kept if (base := _base(folder))}
    begun = ArtifactStore(store).begun()
    free = [path for path in begun if not _held(store, path.name.removeprefix(".publish-"))]
    return [*free, *(path for path in ArtifactStore(store).artifacts() if path.resolve() not in kept)]


def _base(artifact: Path) -> str | None:
    """The folder of the full model that an adapter needs."""
    try:
        return json.loads((artifact / "output" / "base.json").read_text(encoding="utf-8"))["artifact"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove(folders: Iterable[Path], store: Path) -> int:
    """Remove folders of a store. Returns the number of bytes that were in them."""
    freed = 0
    for folder in folders:
        if folder.is_symlink() or not folder.resolve().is_relative_to(store.resolve()):
            raise ValueError(f"{folder} is not a folder of {store}")
        freed += sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
        (folder / "manifest.json").unlink(missing_ok=True)  # half removed, it must not look whole
        shutil.rmtree(folder)
    return freed


def _held(store: Path, name: str) -> bool:
    """Whether a living process holds the lock of this piece of work."""
    path = store / ".locks" / f"{name}.lock"
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
