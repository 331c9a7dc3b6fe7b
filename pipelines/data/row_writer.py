"""Rows of a dataset into parquet files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.formats import Row, num_bytes

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMAS = {
    "text": pa.schema([("text", pa.large_string())]),
    "chat": pa.schema([("messages", _MESSAGES)]),
    "preference": pa.schema([("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES)]),
    "prompt": pa.schema([("prompt", _MESSAGES), ("columns", pa.large_string())]),
    "labelled": pa.schema(
        [("text", pa.large_string()), ("text_pair", pa.large_string()), ("label", pa.large_string())]
    ),
    "pairs": pa.schema([("source", pa.large_string()), ("target", pa.large_string())]),
}


class RowWriter:
    """Writes rows of one split into parquet files of a bounded size."""

    BATCH_ROWS, BATCH_BYTES, FILE_BYTES = 10_000, 16 << 20, 1 << 30

    def __init__(self, folder: Path, split: str, format: str):
        self.folder, self.split, self.format = folder, split, format
        self.rows = self.bytes = self.files = self.in_file = self.in_batch = 0
        self.batch: list[Row] = []
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, error: object, *rest: object) -> None:
        if error is None:
            self._flush()
        self._end_file()

    def append(self, row: Row) -> None:
        size = num_bytes(self.format, row)
        self.batch.append(row)
        self.rows += 1
        self.bytes += size
        self.in_batch += size
        if len(self.batch) >= self.BATCH_ROWS or self.in_batch >= self.BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self.batch:
            return
        if self.writer is None:
            path = self.folder / f"{self.split}-{self.files:05d}.parquet"
            self.writer = pq.ParquetWriter(path, SCHEMAS[self.format], compression="zstd")
            self.files += 1
        self.writer.write_table(pa.Table.from_pylist(self.batch, SCHEMAS[self.format]))
        self.in_file += self.in_batch
        self.batch, self.in_batch = [], 0
        if self.in_file >= self.FILE_BYTES:
            self._end_file()

    def _end_file(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer, self.in_file = None, 0
