"""Hub datasets, file by file: which files belong to a split at one commit, and the rows of each of them.

`datasets` says which files those are, and reads them. They come one at a time, and one that was fetched for this run
goes again when its rows are read."""

import dataclasses
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.data.blocks import Item
from pipelines.errors import DataError, MachineError
from pipelines.recipe.data import Dataset

if TYPE_CHECKING:
    import datasets

T = TypeVar("T")

READERS = ("arrow", "csv", "json", "parquet", "text")
"""Of `datasets`, those that read each file for itself. Others (archives of samples, folders of images with a table
beside them) need all files of a split at once."""
WAITS_SECONDS = (2.0, 10.0, 30.0)
"""Before what failed for the network's sake is tried again; huggingface_hub tries some requests five times itself."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE = re.compile(r"hf://datasets/[^@]+@([0-9a-f]{40})/(.+)")
_NUMBERED = re.compile(r"(.+)-\d{5}-of-(\d{5})\b.*")
_NAMES = 500
"""Files that the Hub is asked about in one request."""
_BATCH_ROWS = 1024
_OF_ALL = ("name", "version", "data_dir", "data_files", "description", "features")
"""Fields of every reader's configuration that say nothing of how a file is read."""


@dataclasses.dataclass(frozen=True)
class Split:
    """The files of a split, and what they are read with."""

    repo: str
    revision: str
    reader: str
    options: dict[str, Any]
    """Of the reader, where the repository's card sets some."""
    features: dict[str, Any]
    """Types of the columns. Of the first file, whatever file is read: a part knows no other."""
    files: tuple[str, ...]
    """Inside the repository, in their order."""
    sizes: tuple[int, ...] = ()
    """Bytes of each file."""
    rows: int | None = None
    """How many the repository's card promises."""

    def part(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Some of its files, as JSON that `of_json` reads."""
        files = [self.files[number] for number in numbers]
        return dataclasses.asdict(self) | {"files": files, "sizes": [], "rows": None}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> "Split":
        return cls(**{**values, "files": tuple(values["files"]), "sizes": tuple(values["sizes"])})


def find(dataset: Dataset, cache: Path) -> dict[str, Split]:
    """The splits that a dataset names, by their names; without those that cannot be read file by file."""
    repo, revision = dataset.hub or "", dataset.revision or ""
    require_pin(repo, revision)
    builder, base = _builder(repo, dataset.subset, revision, cache)
    options = _options(builder.config) if builder.name in READERS else None
    listed = {str(name): files for name, files in (builder.config.data_files or {}).items()}
    if options is None:
        return {}
    inside = {name: [_inside(str(file), revision, base) for file in files] for name, files in listed.items()}
    features, found = None, {}
    for name in filter(None, (dataset.split, dataset.holdout_split)):
        if name not in listed:
            if re.fullmatch(r"\w+(\.\w+)*", name) and name != "all":
                raise DataError(f"hub: {repo} has no split '{name}'; it has {', '.join(listed)}")
            _require_all(repo, [file for files in inside.values() for file in files] if base else [])
            continue  # a slice or a sum, which `datasets` cuts itself
        files = inside[name]
        _require_all(repo, files if base else [])
        if None in files or not files:
            continue
        features = features or persistent(repo, lambda: _features(builder))
        names = [file for file in files if file is not None]
        sizes = [(base / file).stat().st_size for file in names] if base else _sizes(repo, revision, names)
        promised = builder.info.splits.get(name) if builder.info.splits else None
        rows = promised.num_examples if promised else None
        found[name] = Split(repo, revision, builder.name, options, features, tuple(names), tuple(sizes), rows)
    return found


def require_pin(repo: str, revision: str | None) -> None:
    """Raise DataError without a commit: what it names tomorrow may be other rows."""
    if not _COMMIT.fullmatch(revision or ""):
        raise DataError(
            f"hub: {repo} is not pinned to a commit; run `make data`, which writes it into <recipe>.lock, "
            "or give `revision:` as 40 hex digits"
        )


def _builder(repo: str, subset: str | None, revision: str, cache: Path) -> tuple[Any, Path | None]:
    """What `datasets` makes of the repository, whose requests are tried several times; without a network, of what this
    machine's cache has of it, which is the second value."""
    import datasets  # half a second, and Hub data are rare

    def load(path: str, commit: str | None) -> "datasets.DatasetBuilder":
        return datasets.load_dataset_builder(path, subset, revision=commit, cache_dir=str(cache))

    failed: Exception | None = None
    try:
        return load(repo, revision), None
    except Exception as error:
        failed = error
    base = cached_snapshot(repo, revision)
    if base is None:
        raise hub_error(repo, failed) from failed
    try:
        return load(str(base), None), base.resolve()
    except Exception as error:
        raise hub_error(repo, error) from error


def cached_snapshot(repo: str, revision: str) -> Path | None:
    """The folder of a commit in this machine's cache of the Hub, if there is one."""
    import huggingface_hub
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        found = huggingface_hub.snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True)
        huggingface_hub.get_cached_repo_tree(repo, repo_type="dataset", revision=revision)
    except IncompleteSnapshotError as error:
        print(f"note: hub: {_first_line(error)}", flush=True)
        return None
    except LocalEntryNotFoundError:
        return None
    except CachedRepoTreeNotFoundError:
        told = f"{repo} is taken from this machine's cache, which does not say if all its files are there"
        print(f"note: hub: {told}", flush=True)
    return Path(found)


def _require_all(repo: str, files: Sequence[str | None]) -> None:
    """Raise MachineError where a cache holds some of the files that are numbered `-00000-of-00009`, and not all: those
    of one commit would be fewer rows today than tomorrow."""
    held = Counter((found[1], found[2]) for found in map(_NUMBERED.fullmatch, filter(None, files)) if found)
    for (name, total), number in held.items():
        if number < int(total):
            raise MachineError(
                f"hub: {repo}: this machine's cache holds {number} of {int(total)} files {name}-*-of-{total}; "
                "`make data` needs a network to fetch the others"
            )


def _options(config: Any) -> dict[str, Any] | None:
    """Settings of a reader that are not its defaults; None where they are no JSON."""
    default = type(config)()
    names = [field.name for field in dataclasses.fields(config) if field.name not in _OF_ALL]
    options = {name: value for name in names if (value := getattr(config, name)) != getattr(default, name)}
    try:
        return json.loads(json.dumps(options)) if options else {}
    except TypeError:
        return None


def _inside(file: str, revision: str, base: Path | None) -> str | None:
    """A file's path inside the repository at this commit; None for one that is elsewhere, or in an archive."""
    if base:
        path = Path(file)
        return path.relative_to(base).as_posix() if path.is_relative_to(base) else None
    found = _FILE.fullmatch(file)
    return found[2] if found and found[1] == revision else None


def _features(builder: Any) -> dict[str, Any]:
    """Types of the columns: the card's, or those of the first table of the first split, by which `datasets` takes all
    others."""
    from datasets import Features

    first = builder.as_streaming_dataset(next(iter(builder.config.data_files)))
    features = builder.info.features
    if features is None:
        table = next(first.with_format("arrow").iter(batch_size=1), None)
        features = Features() if table is None else Features.from_arrow_schema(table.schema)
    return features.to_dict()


def _sizes(repo: str, revision: str, names: Sequence[str]) -> list[int]:
    from huggingface_hub import HfApi

    def some(start: int) -> dict[str, int]:
        asked = list(names[start : start + _NAMES])
        infos = HfApi().get_paths_info(repo, asked, revision=revision, repo_type="dataset")
        return {info.path: getattr(info, "size", 0) for info in infos}

    found: dict[str, int] = {}
    for start in range(0, len(names), _NAMES):
        found |= persistent(repo, partial(some, start))
    return [found.get(name, 0) for name in names]


# --- rows -------------------------------------------------------------------------------------------------------------


def read_split(split: Split, folder: Path) -> Iterator[Item]:
    """Rows of its files, one file after the other; at most one that was fetched lies in `folder` at a time."""
    for name in split.files:
        with _fetched(split, name, folder) as path:
            yield from _rows(split, name, path, folder)


@contextmanager
def _fetched(split: Split, name: str, folder: Path) -> Iterator[Path]:
    """A file of this machine's cache of the Hub, or a copy that goes again."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(split.repo, name, revision=split.revision, repo_type="dataset")
    if isinstance(cached, str):
        yield Path(cached)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = persistent(
            split.repo,
            lambda: hf_hub_download(split.repo, name, repo_type="dataset", revision=split.revision, local_dir=own),
        )
        yield Path(path)


def _rows(split: Split, name: str, path: Path, folder: Path) -> Iterator[Item]:
    import datasets

    place, number = f"hub:{split.repo}/{name}", 0
    # Without it a batch is a row group, which may be a whole file, or nothing, at which `datasets` fails.
    options = {"batch_size": _BATCH_ROWS} if split.reader == "parquet" else {}
    try:
        builder = datasets.load_dataset_builder(
            split.reader, data_files=str(path), cache_dir=str(folder / "datasets"), **options | split.options
        )
        if split.features:
            builder.info.features = datasets.Features.from_dict(split.features)
        for batch in builder.as_streaming_dataset("train").with_format("arrow").iter(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield Item(row, None, place, number)
    except datasets.table.CastError as error:
        have, first = (
            ", ".join(map(repr, names)) for names in (error.table_column_names, error.requested_column_names)
        )
        raise DataError(
            f"{place}: has the columns {have}, and the first file of the split {first}; choose another subset or "
            "revision, or fetch the files and read each kind with files:"
        ) from error
    except Exception as error:
        raise DataError(f"{place}: cannot be read after row {number}: {_first_line(error)}") from error


# --- the network ------------------------------------------------------------------------------------------------------


def persistent(repo: str, ask: Callable[[], T]) -> T:
    """What `ask` returns, asked again after some seconds where the network failed; in the end one clear error."""
    for wait in (*WAITS_SECONDS, None):
        try:
            return ask()
        except Exception as error:
            again = is_of_the_network(error)
            if isinstance(error, OSError) and error.errno is not None and not again:
                raise  # of this machine: its disk is full
            if wait is None or not again:
                raise hub_error(repo, error) from error
            print(f"note: hub: {repo}: {_first_line(error)}; once more in {wait:g} s", flush=True)
            time.sleep(wait)
    raise AssertionError


def is_of_the_network(error: BaseException) -> bool:
    """Whether the same request may go well later: no connection, one that broke, a server that is overloaded."""
    from httpx2 import TransportError
    from huggingface_hub import is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError

    for cause in () if is_offline_mode() else _behind(error):
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            return cause.response.status_code in (408, 429) or cause.response.status_code >= 500
        if isinstance(cause, ConnectionError | TimeoutError | TransportError):
            return True
    return False


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, the newest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def hub_error(repo: str, error: Exception) -> DataError | MachineError:
    """The Hub cannot be reached, or it says no: two different things to do."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    refused = isinstance(error, HfHubHTTPError) or not isinstance(error, OSError | ConnectionError)
    if refused and not isinstance(error, OfflineModeIsEnabled) and not is_of_the_network(error):
        said = _first_line(error)
        return DataError(f"hub: {repo} cannot be loaded: {said}; check the name, subset and split, and your access")
    return MachineError(
        f"hub: {repo} cannot be reached: {_first_line(error)}; `make data` needs a network, or a filled HF_HOME"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
