"""Rows of token ids on disk: written once, in shards, and read memory-mapped with their boundaries."""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from pipelines.data.shards import place
from pipelines.errors import ArtifactError

Split = Literal["train", "holdout"]
SPLITS: tuple[Split, ...] = ("train", "holdout")
ColumnType = Literal["ids", "mask", "int", "text", "json"]
"""ids and mask: numbers per token; int: one number per row; text: a string; json: any JSON value."""

COLUMNS: Mapping[str, Mapping[str, ColumnType]] = {
    "text": {"input_ids": "ids", "num_bytes": "int"},
    "chat": {"input_ids": "ids", "assistant_mask": "mask", "num_bytes": "int"},
    "preference": {"prompt_ids": "ids", "chosen_ids": "ids", "rejected_ids": "ids"},
    "prompt": {"prompt_ids": "ids", "columns": "text", "prompt": "json"},
    "labelled": {"text_ids": "ids", "pair_ids": "ids", "label": "json"},
    "pairs": {"source_ids": "ids", "target_ids": "ids"},
}
"""What a row has, by the data's format. Labelled rows and pairs are plain text without control tokens, since those
depend on the model; `pair_ids` are empty where there is one text only."""

META = "meta.json"
MOST_KNOWN = 10_000
"""JSON values that are read once."""


def dtype_of(vocab_size: int) -> str:
    """The narrowest little-endian type that holds every id."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def _dtype(column: ColumnType, ids: str) -> np.dtype:
    return np.dtype({"ids": ids, "mask": "u1", "int": "<i8", "text": "u1", "json": "u1"}[column])


class Ragged(Sequence[np.ndarray]):
    """Rows of different lengths in one array: quicker to make and to write than a list of lists."""

    def __init__(self, flat: np.ndarray, lengths: np.ndarray):
        self.flat, self.lengths = flat, lengths
        self._ends = np.cumsum(lengths)

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Ragged":
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        # An array of the standard library is made of a list in a third of the time, and takes what is not negative.
        try:
            parts = [np.frombuffer(array("I", row), np.uint32) for row in rows]
        except OverflowError:
            parts = [np.asarray(row, np.int64) for row in rows]
        return cls(np.concatenate([np.zeros(0, np.uint32), *parts]), lengths)

    def between(self, before: Sequence[int], after: int) -> "Ragged":
        """Each row between some ids before it and one behind it."""
        lengths = self.lengths + len(before) + 1
        ends = np.cumsum(lengths)
        flat, is_own = np.empty(int(lengths.sum()), self.flat.dtype), np.ones(int(lengths.sum()), bool)
        starts = ends - lengths
        for places, number in [*((starts + n, one) for n, one in enumerate(before)), (ends - 1, after)]:
            flat[places], is_own[places] = number, False
        flat[is_own] = self.flat
        return Ragged(flat, lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def tolist(self) -> list[list[int]]:
        return [row.tolist() for row in self]

    def __getitem__(self, row: Any) -> Any:
        if row >= len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.flat[self._ends[row] - self.lengths[row] : self._ends[row]]


class TokenWriter:
    """Appends rows to a split of a tokens artifact; nothing counts before `close` has written the meta file."""

    SHARD_TOKENS = 1 << 28

    def __init__(self, folder: Path, *, format: str, vocab_size: int, shard_tokens: int = SHARD_TOKENS):
        self.folder, self.format, self.vocab_size, self.shard_tokens = folder, format, vocab_size, shard_tokens
        self.columns = COLUMNS[format]
        self.ids = dtype_of(vocab_size)
        self.splits: dict[str, dict[str, Any]] = {split: {"rows": 0, "tokens": 0, "shards": []} for split in SPLITS}
        self.shard: _Shard | None = None

    def append(self, split: Split, rows: Mapping[str, Sequence[Any]]) -> None:
        """Rows as one sequence per column, all equally long."""
        count = len(next(iter(rows.values())))
        if set(rows) != set(self.columns) or any(len(values) != count for values in rows.values()):
            raise ValueError(f"rows of {self.format} need {sorted(self.columns)}, equally many; got {sorted(rows)}")
        if self.shard and (self.shard.split != split or self.shard.tokens >= self.shard_tokens):
            self._end_shard()
        if not self.shard:
            number = len(self.splits[split]["shards"])
            self.shard = _Shard(self.folder, split, number, self.columns)
        for column, values in rows.items():
            tokens = self._append_column(self.shard, column, values)
            if self.columns[column] == "ids":
                self.shard.tokens += tokens
        self.shard.rows += count

    def _append_column(self, shard: "_Shard", column: str, values: Sequence[Any]) -> int:
        kind = self.columns[column]
        if kind == "int":
            shard.write(column, np.asarray(values, "<i8"), None)
            return 0
        if kind == "json":
            values = [json.dumps(value, ensure_ascii=False) for value in values]
        if kind in ("json", "text"):
            values = [np.frombuffer(value.encode(), np.uint8) for value in values]
        if kind == "ids":
            rows = values if isinstance(values, Ragged) else Ragged.of(values)
            flat, lengths = rows.flat, rows.lengths
            largest = min(self.vocab_size - 1, np.iinfo(self.ids).max)
            if len(flat) and not 0 <= flat.min() <= flat.max() <= largest:
                raise ValueError(f"{column}: id {flat.max()} does not fit a vocabulary of {self.vocab_size}")
        else:
            lengths = np.fromiter(map(len, values), np.int64, len(values))
            flat = np.concatenate([np.asarray(value, np.uint8) for value in values])
        shard.write(column, flat.astype(_dtype(kind, self.ids)), lengths)
        return len(flat)

    def _end_shard(self) -> None:
        if self.shard:
            split = self.splits[self.shard.split]
            split["rows"] += self.shard.rows
            split["tokens"] += self.shard.tokens
            split["shards"].append(self.shard.close())
            self.shard = None

    def close(self) -> dict[str, Any]:
        """Write and return the meta data."""
        self._end_shard()
        return _write_meta(self.folder, self.format, self.vocab_size, self.splits)


def merge(folders: Sequence[Path], output: Path, *, format: str, vocab_size: int) -> None:
    """Token tables of the same kind as one, their shards numbered through in this order."""
    splits: dict[str, dict[str, Any]] = {split: {"rows": 0, "tokens": 0, "shards": []} for split in SPLITS}
    for folder in folders:
        meta = _read_meta(folder)
        for split in SPLITS:
            for shard in meta["splits"][split]["shards"]:
                files = {}
                for column, names in shard["files"].items():
                    name = f"{split}-{column}-{len(splits[split]['shards']):05d}"
                    own = [kind for kind in ("data", "offsets") if kind in names]
                    new = {kind: f"{name}{Path(names[kind]).suffix}" for kind in own}
                    for kind in own:
                        place(folder / names[kind], output / new[kind])
                    files[column] = {**new, "length": names["length"]}
                splits[split]["shards"].append({"rows": shard["rows"], "files": files})
            for figure in ("rows", "tokens"):
                splits[split][figure] += meta["splits"][split][figure]
    _write_meta(output, format, vocab_size, splits)


def _write_meta(folder: Path, format: str, vocab_size: int, splits: Mapping[str, Any]) -> dict[str, Any]:
    meta = {
        "format": format,
        "dtype": dtype_of(vocab_size),
        "vocab_size": vocab_size,
        "columns": dict(COLUMNS[format]),
        "splits": splits,
    }
    (folder / META).write_text(json.dumps(meta, indent=1))
    return meta


class _Shard:
    """Open files of one shard: `<split>-<column>-<number>.bin`, and `.offsets` where rows differ in length."""

    def __init__(self, folder: Path, split: str, number: int, columns: Mapping[str, ColumnType]):
        self.split, self.rows, self.tokens = split, 0, 0
        self.files: dict[str, dict[str, Any]] = {}
        self.handles: list[BinaryIO] = []
        self.data: dict[str, BinaryIO] = {}
        self.offsets: dict[str, BinaryIO] = {}
        for column, kind in columns.items():
            name = f"{split}-{column}-{number:05d}"
            self.files[column] = {"data": f"{name}.bin", "length": 0}
            self.data[column] = (folder / f"{name}.bin").open("wb")
            if kind != "int":
                self.files[column]["offsets"] = f"{name}.offsets"
                self.offsets[column] = (folder / f"{name}.offsets").open("wb")
                self.offsets[column].write(bytes(8))

    def write(self, column: str, flat: np.ndarray, lengths: np.ndarray | None) -> None:
        flat.tofile(self.data[column])
        if lengths is not None:
            ends = np.cumsum(lengths) + self.files[column]["length"]
            ends.astype("<i8").tofile(self.offsets[column])
        self.files[column]["length"] += len(flat)

    def close(self) -> dict[str, Any]:
        for handle in [*self.data.values(), *self.offsets.values()]:
            handle.close()
        return {"rows": self.rows, "files": self.files}


class TokenTable:
    """One split of a tokens artifact, read-only. Cheap to open, to copy into another process and to read anywhere."""

    def __init__(self, folder: Path, split: Split):
        self.folder, self.split = Path(folder), split
        self.info: dict[str, Any] = _read_meta(self.folder)
        self.columns: dict[str, ColumnType] = self.info["columns"]
        self.shards = [_MappedShard(self.folder, shard, self.info) for shard in self.info["splits"][split]["shards"]]
        self.first_rows = np.cumsum([0, *(shard.rows for shard in self.shards)])
        if len(self) != self.info["splits"][split]["rows"]:
            raise ArtifactError(f"{self.folder / META}: its shards do not hold the rows it names; make it again")

    @classmethod
    def open(cls, folder: Path, split: Split) -> "TokenTable":
        """Raises ArtifactError where a file is missing, too short or too long, or the type does not fit."""
        return cls(folder, split)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenTable, (self.folder, self.split)

    def __len__(self) -> int:
        return int(self.first_rows[-1])

    @property
    def tokens(self) -> int:
        """Ids of this split, over all its id columns."""
        return self.info["splits"][self.split]["tokens"]

    def ids(self, column: str, row: int) -> np.ndarray:
        """Ids or mask of one row, a view of the file."""
        shard, inner = self._place(row)
        return shard.part(column, inner)

    def value(self, column: str, row: int) -> Any:
        """What one row has in one column: an array, a number, a string or a JSON value."""
        shard, inner = self._place(row)
        kind = self.columns[column]
        if kind == "int":
            return int(shard.data[column][inner])
        part = shard.part(column, inner)
        if kind in ("ids", "mask"):
            return part
        text = part.tobytes().decode()
        return json.loads(text) if kind == "json" else text

    def json_values(self, column: str) -> Iterator[Any]:
        """A column of JSON values from its first row to its last, far faster than row by row where many are alike.

        Values that are alike may be one object: leave them as they are."""
        known: dict[bytes, Any] = {}
        for shard in self.shards:
            text, ends = shard.data[column].tobytes(), shard.offsets[column].tolist()
            for start, end in pairwise(ends):
                spelled = text[start:end]
                if spelled not in known:
                    if len(known) == MOST_KNOWN:
                        known.clear()
                    known[spelled] = json.loads(spelled)
                yield known[spelled]

    def row(self, row: int) -> dict[str, Any]:
        """All columns of one row."""
        return {column: self.value(column, row) for column in self.columns}

    def lengths(self, column: str) -> np.ndarray:
        """Tokens of every row, int64; for a column of numbers, the numbers."""
        return self._lengths[column]

    @cached_property
    def _lengths(self) -> dict[str, np.ndarray]:
        empty = np.zeros(0, np.int64)
        return {
            column: np.concatenate([empty, *(shard.lengths(column) for shard in self.shards)])
            for column in self.columns
        }

    def _place(self, row: int) -> tuple["_MappedShard", int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        number = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        return self.shards[number], int(row - self.first_rows[number])


class _MappedShard:
    def __init__(self, folder: Path, shard: Mapping[str, Any], info: Mapping[str, Any]):
        self.rows: int = shard["rows"]
        self.data: dict[str, np.ndarray] = {}
        self.offsets: dict[str, np.ndarray] = {}
        for column, kind in info["columns"].items():
            files = shard["files"][column]
            self.data[column] = _mapped(folder / files["data"], _dtype(kind, info["dtype"]), files["length"])
            if kind == "int":
                continue
            offsets = _mapped(folder / files["offsets"], np.dtype("<i8"), self.rows + 1)
            if offsets[0] != 0 or offsets[-1] != files["length"] or (np.diff(offsets) < 0).any():
                raise ArtifactError(f"{folder / files['offsets']}: damaged; make it again")
            self.offsets[column] = offsets

    def part(self, column: str, row: int) -> np.ndarray:
        offsets = self.offsets[column]
        return self.data[column][offsets[row] : offsets[row + 1]]

    def lengths(self, column: str) -> np.ndarray:
        return np.diff(self.offsets[column]) if column in self.offsets else np.asarray(self.data[column])


def _mapped(path: Path, dtype: np.dtype, length: int) -> np.ndarray:
    size = path.stat().st_size if path.is_file() else -1
    if size != length * dtype.itemsize:
        have = "is missing" if size < 0 else f"has {size:,} bytes instead of {length * dtype.itemsize:,}"
        raise ArtifactError(f"{path}: {have}; delete its artifact and make it again")
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, "r", shape=(length,)).view(np.ndarray) if length else np.zeros(0, dtype)


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META
    try:
        meta = json.loads(path.read_text())
        fits = meta["dtype"] == dtype_of(meta["vocab_size"]) and set(meta["splits"]) == set(SPLITS)
        fits = fits and meta["columns"] == COLUMNS[meta["format"]]
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} is missing: this is no tokens artifact, or it is incomplete; make it again"
        ) from None
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise ArtifactError(f"{path}: damaged, or written by another version; make it again")
    return meta
