"""Pin what a recipe reads from the Hub, so that a run next year reads the same rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import DataError, MachineError
from pipelines.plan.derived import outside_models, outside_tokenizers
from pipelines.recipe.lock import read_lock, write_lock
from pipelines.recipe.root import Recipe

Pins = Mapping[str, Mapping[str, Any]]
"""Repository -> what is pinned of it: its `revision`."""


def pin(recipe: Recipe, path: Path) -> Pins:
    """Look up the commits that are not pinned yet, write them into the lock file, and return all pins."""
    pins = read_lock(path)
    missing = unpinned(recipe, pins)
    if missing:
        pins |= {repository: {"revision": _newest_commit(repository)} for repository in missing}
        write_lock(path, pins)
    return pins


def unpinned(recipe: Recipe, pins: Pins) -> list[str]:
    """Repositories that the recipe reads at a commit that is not chosen yet."""
    wanted = {dataset.hub for dataset in recipe.data.values() if dataset.hub and not dataset.revision}
    wanted |= {model_key(model.hub) for model in outside_models(recipe) if model.hub and not model.revision}
    wanted |= {model_key(other.hub) for _, other in outside_tokenizers(recipe) if other.hub and not other.revision}
    return sorted(wanted - set(pins))


_MODELS = "models/"


def model_key(repository: str) -> str:
    """What a model of the Hub is called in the lock: a dataset may have the same name."""
    return f"{_MODELS}{repository}"


def _newest_commit(repository: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        is_model = repository.startswith(_MODELS)
        name = repository.removeprefix(_MODELS)
        commit = HfApi().model_info(name).sha if is_model else HfApi().dataset_info(name).sha
    except HfHubHTTPError as error:
        raise DataError(f"hub: '{repository}': {error}") from None
    except Exception as error:  # of the client's transport, or offline mode: whose classes are its own affair
        raise MachineError(
            f"the Hub cannot be reached to pin '{repository}' ({error}); go online once, or write a revision"
        ) from None
    if commit is None:
        raise DataError(f"hub: '{repository}' has no commit")
    return commit
