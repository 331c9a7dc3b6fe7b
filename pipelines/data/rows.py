"""Rows of a data artifact, streamed into its parquet files and out of them."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipelines.data.formats import Row
from pipelines.data.tokens import SPLITS, Split
from pipelines.errors import ArtifactError

T = TypeVar("T")


def batches(
    items: Iterable[T], *, size: Callable[[T], int], most: int = 512, total: int = 8 << 20
) -> Iterator[list[T]]:
    """Items together, in their order, up to a number of them and to a total size."""
    batch: list[T] = []
    filled = 0
    for item in items:
        batch.append(item)
        filled += size(item)
        if len(batch) == most or filled >= total:
            yield batch
            batch, filled = [], 0
    if batch:
        yield batch


def read_rows(folder: Path, split: str, batch_size: int = 1024) -> Iterator[list[Row]]:
    """Batches of normalised rows, in their order."""
    import pyarrow.parquet

    _require(folder)
    for path in sorted(folder.glob(f"{split}-*.parquet")):
        # A row group is bounded in bytes when it is written; a batch over several of them would not be.
        for group in range(pyarrow.parquet.read_metadata(path).num_row_groups):
            yield from read_group(path, group, batch_size)


@dataclass(frozen=True)
class RowGroup:
    """A part of a data artifact that can be read alone."""

    split: Split
    file: str
    number: int
    bytes: int
    rows: int


def row_groups(folder: Path) -> Iterator[RowGroup]:
    """All of them, the training rows first, in the order of `read_rows`."""
    import pyarrow.parquet

    _require(folder)
    for split in SPLITS:
        for path in sorted(folder.glob(f"{split}-*.parquet")):
            metadata = pyarrow.parquet.read_metadata(path)
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                yield RowGroup(split, path.name, number, group.total_byte_size, group.num_rows)


def read_group(path: Path, number: int, batch_size: int = 1024) -> Iterator[list[Row]]:
    """Batches of its rows."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=batch_size, row_groups=[number]):
            yield batch.to_pylist()


def _require(folder: Path) -> None:
    if not (folder / "info.json").is_file():
        raise ArtifactError(f"{folder}: no data artifact (info.json is missing); make it again")


def rows_at(folder: Path, split: str, numbers: Collection[int]) -> dict[int, Row]:
    """Some rows by their numbers, without reading the others' columns."""
    import pyarrow.parquet

    found: dict[int, Row] = {}
    first = 0
    for path in sorted(folder.glob(f"{split}-*.parquet")):
        with pyarrow.parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                wanted = sorted(number for number in numbers if first <= number < end)
                if wanted:
                    rows = file.read_row_group(group).take([number - first for number in wanted]).to_pylist()
                    found |= dict(zip(wanted, rows, strict=True))
                first = end
    return found
