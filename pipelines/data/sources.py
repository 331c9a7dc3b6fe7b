"""Where rows come from: the built-in world, local files, or the Hugging Face Hub."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines.data.blocks import Item, Source
from pipelines.data.files import read_file
from pipelines.data.hub import Split, cached_snapshot, hub_error, read_split, require_pin
from pipelines.errors import DataError
from pipelines.recipe.data import Dataset

Part = Mapping[str, Any]
"""Some files of a split of the Hub, as `hub.Split.part` describes them."""


def read(dataset: Dataset, files: Sequence[Source], cache: Path, part: Part | None = None) -> Iterator[Item]:
    """Rows of a dataset's files or Hub repository, at most `limit`, in an order that never changes."""
    return islice(_source(dataset, dataset.split, files, cache, part), dataset.limit)


def read_holdout(dataset: Dataset, files: Sequence[Source], cache: Path, part: Part | None = None) -> Iterator[Item]:
    """Rows of the holdout that is a source of its own: files, a split, or the built-in world's."""
    if dataset.builtin:
        return read_builtin(dataset, "holdout")
    return _source(dataset, dataset.holdout_split or "", files, cache, part)


def _source(dataset: Dataset, split: str, files: Sequence[Source], cache: Path, part: Part | None) -> Iterator[Item]:
    if part:
        return read_split(Split.of_json(part), cache)
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
    """Rows of one split of a Hub dataset at one commit, all of which is fetched first: for what `hub.find` does not
    take apart. Without a network, from the Hub's cache on this machine.

    `local` is a folder to take instead of the repository.
    """
    if not local:
        require_pin(repo, revision)
    # Hub data are rare and this import takes half a second.
    import datasets

    def load(path: str, commit: str | None) -> "datasets.Dataset":
        return datasets.load_dataset(path, subset, split=split, revision=commit, cache_dir=str(cache))

    failed: Exception | None = None
    try:
        rows = load(str(local), None) if local else load(repo, revision)
    except Exception as error:
        failed = error
    folder = None if local or not failed else cached_snapshot(repo, revision or "")
    if folder:
        yield from read_hub(repo, subset, split, revision=revision, cache=cache, local=folder)
        return
    if failed:
        raise hub_error(repo, failed) from failed
    number = 0
    for batch in rows.with_format("arrow").iter(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield Item(row, None, f"hub:{repo}/{split}", number)


def fetched(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Files of a model or tokenizer of the Hub, at one commit; without a network, from this machine's cache."""
    if not revision:
        raise DataError(f"hub: {repository} is not pinned to a commit; `make data` pins it in <recipe>.lock")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:
        raise hub_error(repository, error) from error
