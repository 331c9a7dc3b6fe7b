"""Parquet and Arrow files into rows, a batch at a time."""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.data.blocks import UNPACK, Item, unpacked
from pipelines.data.cells import check_names
from pipelines.errors import DataError

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1024
_END = b"\xff\xff\xff\xff\0\0\0\0"
"""What an Arrow stream ends with; without it nothing tells a whole stream from one that is cut off."""


def read_parquet(path: Path) -> Iterator[Item]:
    """The place of a row is its number, from 1."""
    import pyarrow.parquet

    with _Plain(path) as source:
        yield from _rows(path, "parquet", lambda: _parquet_batches(path, pyarrow.parquet.ParquetFile(source)))


def read_arrow(path: Path) -> Iterator[Item]:
    """Both kinds of Arrow files, streams (as `datasets` saves them) and those with an index (Feather, version 2)."""
    with _Plain(path) as source:
        yield from _rows(path, "arrow", lambda: _arrow_batches(path, source))


def _parquet_batches(path: Path, file: Any) -> Iterator["pyarrow.RecordBatch"]:
    check_names(path, file.schema_arrow.names)
    yield from file.iter_batches(batch_size=BATCH_ROWS)


def _arrow_batches(path: Path, source: Any) -> Iterator["pyarrow.RecordBatch"]:
    import pyarrow

    mapped = pyarrow.memory_map(str(source)) if isinstance(source, Path) else pyarrow.PythonFile(source, mode="r")
    with mapped as file:
        if file.read(6) == b"ARROW1":
            reader = pyarrow.ipc.open_file(file)
            found = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            file.seek(max(0, file.size() - len(_END)))
            if file.read(len(_END)) != _END:
                raise pyarrow.ArrowInvalid("the stream has no end")
            file.seek(0)
            reader = pyarrow.ipc.open_stream(file)
            found = iter(reader)
        check_names(path, reader.schema.names)
        for batch in found:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)


def _rows(path: Path, kind: str, batches: Any) -> Iterator[Item]:
    import pyarrow

    number = 0
    try:
        for batch in batches():
            for row in batch.to_pylist():
                number += 1
                yield Item(row, None, str(path), number)
    except UnicodeDecodeError:
        raise DataError(f"{path}: after row {number} a text is not UTF-8; write the file again") from None
    except (pyarrow.ArrowException, OSError) as error:
        what = str(error).strip().split("\n")[0]
        raise DataError(f"{path}: no whole {kind} file after row {number} ({what}); fetch it again") from None


class _Plain:
    """A file that can be read from any place: itself, or its unpacked copy on disk."""

    def __init__(self, path: Path):
        self.path = path
        self.file: io.BufferedRandom | None = None

    def __enter__(self) -> Path | io.BufferedRandom:
        if self.path.suffix.lower() not in UNPACK:
            return self.path
        self.file = tempfile.TemporaryFile()
        for block in unpacked(self.path):
            self.file.write(block)
        self.file.seek(0)
        return self.file

    def __exit__(self, *error: object) -> None:
        if self.file is not None:
            self.file.close()
