"""Where rows come from: the built-in world, local files, or the Hugging Face Hub."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from pipelines.data.blocks import Item, Source
from pipelines.data.files import read_file
from pipelines.errors import DataError, MachineError
from pipelines.recipe.data import Dataset

COMMIT = re.compile(r"[0-9a-f]{40}")


def read(dataset: Dataset, files: Sequence[Source], cache: Path) -> Iterator[Item]:
    """Rows of a dataset's files or Hub repository, at most `limit`, in an order that never changes."""
    return islice(_source(dataset, dataset.split, files, cache), dataset.limit)


def read_holdout(dataset: Dataset, files: Sequence[Source], cache: Path) -> Iterator[Item]:
    """Rows of the holdout that is a source of its own: files, a split, or the built-in world's."""
    if dataset.builtin:
        return read_builtin(dataset, "holdout")
    return _source(dataset, dataset.holdout_split or "", files, cache)


def _source(dataset: Dataset, split: str, files: Sequence[Source], cache: Path) -> Iterator[Item]:
    if dataset.hub:
        return read_hub(dataset.hub, dataset.subset, split, revision=dataset.revision, cache=cache)
    return read_files(files, dataset)


def read_files(files: Iterable[Source], dataset: Dataset) -> Iterator[Item]:
    """Rows of files, one file after the other; a file that is named twice is read once."""
    for path in dict.fromkeys(files):
        yield from read_file(path, dataset.separator, dataset.column_names, dataset.quoting)


def read_builtin(dataset: Dataset, split: str) -> Iterator[Item]:
    """Rows of a track of the built-in world, which has a holdout of its own; `limit` bounds the training rows."""
    from pipelines.data.microworld import TRACKS, generate

    track = (dataset.builtin or "").removeprefix("microworld/")
    if track not in TRACKS:
        raise DataError(f"builtin: {dataset.builtin} is not there; choose from {', '.join(sorted(TRACKS))}")
    size = dataset.limit if split == "train" else None
    for number, row in enumerate(generate(track, "train" if split == "train" else "holdout", size), 1):
        yield Item(row, None, f"{dataset.builtin}:{split}", number)


def read_hub(
    repo: str, subset: str | None, split: str, *, revision: str | None, cache: Path, local: Path | None = None
) -> Iterator[Item]:
    """Rows of one split of a Hub dataset at one commit; without a network, from the Hub's cache on this machine.

    `local` is a folder to take instead of the repository.
    """
    if not local and not (revision and COMMIT.fullmatch(revision)):
        raise DataError(
            f"hub: {repo} is not pinned to a commit; run `make data`, which writes it into <recipe>.lock, "
            "or give `revision:` as 40 hex digits"
        )
    # Hub data are rare and this import takes half a second.
    import datasets

    path = str(local) if local else repo
    try:
        rows = datasets.load_dataset(
            path, subset, split=split, revision=None if local else revision, cache_dir=str(cache)
        )
    except Exception as error:
        folder = None if local else _cached_snapshot(repo, revision or "")
        if folder:
            yield from read_hub(repo, subset, split, revision=revision, cache=cache, local=folder)
            return
        raise hub_error(repo, error) from error
    number = 0
    for batch in rows.with_format("arrow").iter(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield Item(row, None, f"hub:{repo}/{split}", number)


def _cached_snapshot(repo: str, revision: str) -> Path | None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            huggingface_hub.snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True)
        )
    except LocalEntryNotFoundError:
        return None


def fetched(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Files of a model or tokenizer of the Hub, at one commit; without a network, from this machine's cache."""
    if not revision:
        raise DataError(f"hub: {repository} is not pinned to a commit; `make data` pins it in <recipe>.lock")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:
        raise hub_error(repository, error) from error


def hub_error(repo: str, error: Exception) -> DataError | MachineError:
    """The Hub cannot be reached, or it says no: two different things to do."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    lines = str(error).strip().splitlines() or [type(error).__name__]
    refused = isinstance(error, HfHubHTTPError) or not isinstance(error, OSError | ConnectionError)
    if refused and not isinstance(error, OfflineModeIsEnabled):
        return DataError(f"hub: {repo} cannot be loaded: {lines[0]}; check the name, subset and split, and your access")
    return MachineError(f"hub: {repo} cannot be reached: {lines[0]}; `make data` needs a network, or a filled HF_HOME")
