"""`<recipe>.lock`: the commit of every Hub dataset that a recipe reads, so that a run next year reads the same rows."""

import json
import os
from pathlib import Path

from pipelines.errors import DataError, MachineError
from pipelines.recipe.root import Recipe


def lock_path(recipe: Path) -> Path:
    return recipe.with_suffix(".lock")


def read_pins(recipe: Path) -> dict[str, str]:
    """Repository -> commit; empty where there is no lock file yet."""
    path = lock_path(recipe)
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["hub"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a lock file ({error}); delete it, and `make data` writes it again") from None


def pin(recipe: Recipe, path: Path) -> dict[str, str]:
    """Look up the commits that are not pinned yet, write the lock file, and return all pins."""
    pins = read_pins(path)
    wanted = {dataset.hub for dataset in recipe.data.values() if dataset.hub and not dataset.revision}
    missing = sorted(wanted - set(pins))
    if missing:
        pins |= {repository: _newest_commit(repository) for repository in missing}
        temporary = lock_path(path).with_name(f".{lock_path(path).name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"hub": pins}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(lock_path(path))
    return pins


def _newest_commit(repository: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        commit = HfApi().dataset_info(repository).sha
    except HfHubHTTPError as error:
        raise DataError(f"hub dataset '{repository}': {error}") from None
    except (OfflineModeIsEnabled, OSError) as error:
        raise MachineError(
            f"the Hub cannot be reached to pin '{repository}' ({error}); go online once, or write its revision into the "
            "recipe"
        ) from None
    if commit is None:
        raise DataError(f"hub dataset '{repository}' has no commit")
    return commit
