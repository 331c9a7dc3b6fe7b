"""What a data job will read, before it is read: the sizes of files, and what a look into some of them says."""

import bz2
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.plan.files import format_of
from pipelines.plan.rates import RATIO, ROW_BYTES, TEXT_SHARE
from pipelines.recipe.data import CELLS, COLUMNS, COLUMNS_OF, PACKED, PROSE, Dataset

LOOKED_AT = 4
"""Files of a kind that are looked into."""
HEAD = 1 << 18
"""Bytes of each of them, as they lie on the disk."""
_LINES = 200


@dataclass(frozen=True)
class Source:
    """What is read; where it is not known, None."""

    basis: str
    """How it is known."""
    bytes_in: int | None = None
    """On the disk, or to fetch."""
    unpacked: Mapping[str, int] = field(default_factory=dict)
    """Ending of files, as `.jsonl.gz` -> bytes when they are unpacked."""
    text: int | None = None
    """Bytes of what becomes rows; an upper bound, since no row is dropped here."""
    rows: int | None = None


class Look(NamedTuple):
    """What one file says of others like it, for each byte on the disk."""

    unpacked: float
    text: float
    rows: float


def of_files(dataset: Dataset, files: Sequence[Path]) -> Source:
    """Sizes of the files, unpacked and as text by a look into some of them."""
    kinds: dict[str, list[tuple[Path, int]]] = {}
    for path in files:
        kinds.setdefault(format_of(str(path)), []).append((path, path.stat().st_size))
    bytes_in = unpacked = text = rows = 0.0
    by_kind = {}
    for kind, found in kinds.items():
        size = sum(size for _, size in found)
        some = found[:: -(-len(found) // LOOKED_AT)]
        look = _mean([(_look(path, kind, size, dataset), size) for path, size in some])
        bytes_in, unpacked = bytes_in + size, unpacked + size * look.unpacked
        text, rows = text + size * look.text, rows + size * look.rows
        by_kind[kind] = int(size * look.unpacked)
    part = min(1.0, dataset.limit / rows) if dataset.limit and rows else 1.0
    packed = [kind for kind in kinds if Path(kind).suffix in PACKED or kind == ".parquet"]
    basis = "a look into packed files" if packed else "sizes of files"
    return Source(
        basis=basis + (f", for about {dataset.limit:,} rows" if part < 1 else ""),
        bytes_in=int(bytes_in * part),
        unpacked={kind: int(size * part) for kind, size in by_kind.items()},
        text=int(text * part),
        rows=max(1, round(rows * part)),
    )


def _mean(looks: Sequence[tuple[Look, int]]) -> Look:
    total = sum(size for _, size in looks) or 1
    return Look(*(sum(look[place] * size for look, size in looks) / total for place in range(3)))


def _look(path: Path, kind: str, size: int, dataset: Dataset) -> Look:
    if kind == ".parquet":
        return _footer(path, size, dataset)
    suffix = Path(kind).suffix
    content = kind.removesuffix(suffix) if suffix in PACKED else kind
    head, taken = _head(path, suffix if suffix in PACKED else "")
    unpacked = len(head) / taken if taken else RATIO.get(suffix, 1.0)
    share = TEXT_SHARE.get(content, 1.0)
    if content == ".jsonl" and (found := _share_of_columns(head, dataset)) is not None:
        share = found
    rows = _rows(head, content, dataset)
    per_file = 1 / size if size else 0.0
    return Look(unpacked, unpacked * share, per_file if rows is None else unpacked * rows)


def _rows(head: bytes, content: str, dataset: Dataset) -> float | None:
    """For each unpacked byte; None where a file is one row."""
    if not head:
        return 0.0
    if content in PROSE and dataset.separator == "blank_line":
        return max(1, head.count(b"\n\n")) / len(head)
    if content in (".jsonl", *CELLS) or (content in PROSE and dataset.separator == "line"):
        return max(1, head.count(b"\n")) / len(head)
    return None if content in (*PROSE, ".html", ".htm") else 1 / ROW_BYTES


def _share_of_columns(head: bytes, dataset: Dataset) -> float | None:
    """How much of JSON lines is in the columns that the format has; None where no line is whole."""
    names, used, total = columns(dataset), 0, 0
    for line in head.split(b"\n")[:_LINES]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            used += sum(_length(value) for name, value in row.items() if names is None or name in names)
            total += len(line) + 1
    return used / total if total else None


def _length(value: Any) -> int:
    return len((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode())


def columns(dataset: Dataset) -> set[str] | None:
    """What the columns that become rows are called in the data; None for all of them."""
    ours = COLUMNS_OF[dataset.layout] if dataset.layout else COLUMNS.get(dataset.format)
    return None if ours is None else {dataset.columns.get(name, name) for name in ours}


def _footer(path: Path, size: int, dataset: Dataset) -> Look:
    """What a parquet file says of itself."""
    import pyarrow  # a tenth of a second, for who has such files
    import pyarrow.parquet

    try:
        footer = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowException, OSError):
        return Look(RATIO[".parquet"], RATIO[".parquet"], RATIO[".parquet"] / ROW_BYTES)
    names, unpacked, text = columns(dataset), 0, 0
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            unpacked += column.total_uncompressed_size
            if names is None or column.path_in_schema.split(".")[0] in names:
                text += column.total_uncompressed_size
    return Look(unpacked / size, text / size, footer.num_rows / size)


# --- packed files -----------------------------------------------------------------------------------------------------


def _head(path: Path, suffix: str) -> tuple[bytes, int]:
    """(the first bytes of a file, unpacked; how many of the packed ones they are)"""
    with path.open("rb") as file:
        raw = file.read(HEAD)
    if not suffix:
        return raw, len(raw)
    try:
        return b"".join(_unpacked(UNPACK[suffix], raw)), len(raw)
    except Exception:  # each kind has errors of its own, and the job will tell them
        return b"", 0


def _unpacked(make: Callable[[], Any], raw: bytes) -> Iterator[bytes]:
    while raw:
        unpack = make()
        yield unpack.decompress(raw)
        raw = unpack.unused_data if unpack.eof else b""


def _zstd() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


UNPACK: Mapping[str, Callable[[], Any]] = {
    ".bz2": bz2.BZ2Decompressor,
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".zst": _zstd,
}
