"""Rows of a data artifact, streamed from its parquet files."""

from collections.abc import Iterator
from pathlib import Path

from pipelines.data.formats import Row
from pipelines.errors import ArtifactError


def read_rows(folder: Path, split: str, batch_size: int = 1024) -> Iterator[list[Row]]:
    """Batches of normalised rows, in their order."""
    import pyarrow.parquet

    if not (folder / "info.json").is_file():
        raise ArtifactError(f"{folder}: no data artifact (info.json is missing); make it again")
    for path in sorted(folder.glob(f"{split}-*.parquet")):
        with pyarrow.parquet.ParquetFile(path) as file:
            # A row group is bounded in bytes when it is written; a batch over several of them would not be.
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(batch_size=batch_size, row_groups=[group]):
                    yield batch.to_pylist()
