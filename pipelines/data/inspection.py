"""A look at data before a recipe is written: what files hold, as a model would see it, and the lines to paste."""

import glob
import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines.data.blocks import LARGEST_ROW, UNPACK, Item, unpacked
from pipelines.data.files import CELLS, KINDS, PROSE, kind_of, read_file
from pipelines.errors import DataError
from pipelines.recipe.paths import expand, saved_splits

HEAD = 4 << 20
"""Bytes that are looked at, over all files."""
MOST_FILES, MOST_ROWS, MOST_COUNTED = 16, 20_000, 200
"""Files that are read from; rows of each; parquet files whose rows are counted."""
SLICES, SLICE_BYTES = 8, 1 << 16
"""Parts behind the head of a long file of lines that are looked at too."""
COLUMNAR = (".arrow", ".parquet")


@dataclass(frozen=True)
class Found:
    """Files of one kind, and the pattern that names them in a recipe."""

    patterns: tuple[str, ...]
    paths: tuple[Path, ...]
    kind: str
    others: tuple[str, ...] = ()
    """What lies beside them and is not read."""

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)


@dataclass(frozen=True)
class Settings:
    """How files are read: fields of a `data` entry."""

    separator: Any = None
    column_names: tuple[str, ...] = ()
    quoting: Any = "minimal"
    why: str = ""


@dataclass
class Sample:
    """Rows from the heads of some files."""

    items: list[Item]
    is_whole: bool
    """Whether these are all rows that there are."""
    num_rows: int | None
    """Rows of all files: exactly where the sample is whole or the files say it; None where nothing tells."""
    is_exact: bool
    heads: list[bytes]
    """The first bytes, unpacked, of files that are text."""


def find_files(data: str, folder: Path) -> Found:
    """The files that a path, a folder or a pattern means; DataError where there is none that is read."""
    if not data:
        raise DataError("say what to look at: a file, a folder or a pattern (make inspect DATA=my_text)")
    path = folder / data
    patterns: tuple[str, ...] = (str(path),)
    others: tuple[str, ...] = ()
    if path.is_dir() and (splits := saved_splits(path)):
        others = tuple(str(path / split) for split in splits[1:])
        path, patterns = path / splits[0], (str(path / splits[0]),)
    paths = expand(patterns, folder)[patterns[0]]
    if path.is_dir() and not paths:
        patterns, paths, others = _in_folder(path)
    if not paths:
        raise DataError(f"{data}: no file is there")
    kinds = Counter({kind: sum(map(_size, _of_kind(paths, kind))) for kind in map(kind_of, paths)})
    if len(kinds) > 1:
        raise DataError(f"{data}: names files of several kinds ({', '.join(sorted(kinds))}); name those of one")
    (kind,) = kinds
    if kind not in KINDS:
        raise DataError(f"{paths[0]}: {_told_by_bytes(paths[0])}")
    return Found(patterns, tuple(paths), kind, others)


def _in_folder(folder: Path) -> tuple[tuple[str, ...], list[Path], tuple[str, ...]]:
    """The files of the kind that takes most of a folder, with patterns that name them all."""
    every = sorted(path for path in folder.rglob("*") if not _is_hidden(path, folder) and path.is_file())
    known = [path for path in every if kind_of(path) in KINDS]
    if not known:
        held = ", ".join(sorted({path.suffix or path.name for path in every})[:8]) or "nothing"
        raise DataError(f"{folder}: holds {held}, but no file that is read ({', '.join(KINDS)})")
    kind = max({*map(kind_of, known)}, key=lambda kind: (sum(map(_size, _of_kind(known, kind))), kind))
    paths = _of_kind(known, kind)
    deep = "**/" if any(path.parent != folder for path in paths) else ""
    endings = dict.fromkeys(path.name[-len(_ending(path)) :] for path in paths)
    patterns = tuple(f"{glob.escape(str(folder))}/{deep}*{ending}" for ending in endings)
    taken = {*paths}
    return patterns, paths, tuple(str(path) for path in every if path not in taken)


def _is_hidden(path: Path, folder: Path) -> bool:
    """As patterns have it: a name that starts with a dot is not meant by `*`."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _of_kind(paths: Sequence[Path], kind: str) -> list[Path]:
    return [path for path in paths if kind_of(path) == kind]


def _size(path: Path) -> int:
    return path.stat().st_size


def _ending(path: Path) -> str:
    return "".join(path.suffixes[-2:] if path.suffix.lower() in UNPACK else path.suffixes[-1:])


_MAGIC = {
    b"PAR1": "is parquet; name it .parquet",
    b"ARROW1": "is Arrow; name it .arrow",
    b"\x1f\x8b": "is packed with gzip; name it after what it holds, such as .jsonl.gz",
    b"BZh": "is packed with bzip2; name it after what it holds, such as .jsonl.bz2",
    b"\x28\xb5\x2f\xfd": "is packed with zstd; name it after what it holds, such as .jsonl.zst",
    b"PK\x03\x04": "is a zip archive (as docx and xlsx are); unpack it, or save its text or its rows",
    b"%PDF": "is PDF, which is not read; save its text as .txt or .md",
    b"{": "looks like JSON; name it .jsonl or .json",
    b"[": "looks like JSON; name it .json",
}


def _told_by_bytes(path: Path) -> str:
    if kind_of(path) in (".tar", ".tgz"):
        return "is an archive of files; unpack it"
    with path.open("rb") as file:
        first = file.read(16).lstrip()
    told = next((advice for magic, advice in _MAGIC.items() if first.startswith(magic)), None)
    return told or f"is of no kind that is read ({', '.join(KINDS)}, plain or {', '.join(UNPACK)})"


# --- rows ---------------------------------------------------------------------------------------------------------


def take_sample(found: Found, settings: Settings, *, head: int = HEAD) -> Sample:
    """Rows from the heads of up to so many files, spread over all of them, in bounded memory and time."""
    step = max(1, -(-len(found.paths) // MOST_FILES))
    some = found.paths[::step]
    sample = Sample([], len(some) == len(found.paths), None, False, [])
    read = 0
    for path in some:
        items, num_bytes, is_whole = _head_rows(path, found.kind, settings, head // len(some), sample.heads)
        sample.items += items
        sample.is_whole, read = sample.is_whole and is_whole, read + num_bytes
    if not sample.items and not sample.is_whole and head <= LARGEST_ROW:
        return take_sample(found, settings, head=LARGEST_ROW + HEAD)  # a first row longer than the head
    if _is_document(found.kind, settings):
        sample.num_rows, sample.is_exact = len(found.paths), True
    elif sample.is_whole:
        sample.num_rows, sample.is_exact = len(sample.items), True
    elif found.kind == ".parquet" and not _is_packed(found):
        rows = [_rows_of_parquet(path) for path in found.paths[:MOST_COUNTED]]
        sample.num_rows = round(sum(rows) * len(found.paths) / len(rows))
        sample.is_exact = len(rows) == len(found.paths)
    elif read and not _is_packed(found):
        sample.num_rows = round(len(sample.items) * found.num_bytes / read)
    return sample


def _is_packed(found: Found) -> bool:
    return any(path.suffix.lower() in UNPACK for path in found.paths)


def _head_rows(
    path: Path, kind: str, settings: Settings, most: int, heads: list[bytes]
) -> tuple[list[Item], int, bool]:
    """(rows, bytes that they take, whether they are all)"""
    if kind in COLUMNAR or kind == ".json":
        return _rows_of_file(path, most)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"head{kind}"
        size, is_cut = _copy_head(path, copy, most, heads)
        items, size = _rows_of_copy(path, copy, size, settings, is_cut=is_cut)
        is_by_line = kind == ".jsonl" or settings.separator == "line"
        can_seek = is_cut and is_by_line and path.suffix.lower() not in UNPACK
        if can_seek and (num_bytes := _copy_slices(path, copy, most)):
            more, num_bytes = _rows_of_copy(path, copy, num_bytes, settings, is_cut=False)
            items, size = items + more, size + num_bytes
    return items, size, not is_cut and len(items) < MOST_ROWS


def _rows_of_copy(path: Path, copy: Path, size: int, settings: Settings, *, is_cut: bool) -> tuple[list[Item], int]:
    """(rows of a copied part, bytes that they take)"""
    items: list[Item] = []
    try:
        for item in read_file(copy, settings.separator, settings.column_names, settings.quoting):
            items.append(item._replace(file=str(path)))
            if len(items) == MOST_ROWS:
                return items, size * item.line // (1 + copy.read_bytes().count(b"\n"))
    except DataError as error:
        if not is_cut:
            raise DataError(str(error).replace(str(copy), str(path))) from None
    # The last row is cut too; where a file is one document, its beginning is shown.
    return (items if not is_cut or _is_document(copy.suffix, settings) else items[:-1]), size


def _is_document(kind: str, settings: Settings) -> bool:
    """Whether each file is one row."""
    return kind in (".htm", ".html") or (kind in PROSE and settings.separator is None)


def _copy_head(path: Path, copy: Path, most: int, heads: list[bytes]) -> tuple[int, bool]:
    """Write the first bytes of a file, unpacked, up to the end of a block; (how many, whether more follow)"""
    size = 0
    with copy.open("wb") as file:
        for block in unpacked(path):
            if size >= most:
                return size, True
            block = block[: most - size + 1]
            if not size:
                heads.append(block[: 1 << 16])
            size += file.write(block)
    return size, size > most


def _copy_slices(path: Path, copy: Path, start: int) -> int:
    """Write whole lines from places behind `start`, for a file may end unlike it begins; how many bytes."""
    size, written = path.stat().st_size, 0
    with path.open("rb") as file, copy.open("wb") as slices:
        for number in range(1, SLICES + 1):
            file.seek(start + (size - start) * number // (SLICES + 1))
            part = file.read(SLICE_BYTES)
            first, last = part.find(b"\n") + 1, part.rfind(b"\n") + 1
            written += slices.write(part[first:last])
    return written


def _rows_of_file(path: Path, most: int) -> tuple[list[Item], int, bool]:
    items: list[Item] = []
    size = 0
    for item in read_file(path):
        items.append(item)
        size += len(json.dumps(item.row, default=str))
        if size > most or len(items) >= MOST_ROWS:
            return items, size, False
    return items, size, True


def _rows_of_parquet(path: Path) -> int:
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(path).num_rows


# --- how files are read -------------------------------------------------------------------------------------------


def settle(found: Found) -> tuple[Settings, Sample]:
    """The fields that read these files best, and rows that were read with them."""
    if found.kind in PROSE:
        settings = _where_documents_end(found)
        return settings, take_sample(found, settings)
    if found.kind not in CELLS:
        return Settings(), take_sample(found, Settings())
    settings = Settings()
    try:
        sample = take_sample(found, settings)
        is_bad = any(item.reason == "invalid_csv" for item in sample.items)
    except DataError:
        sample, is_bad = Sample([], False, None, False, []), True
    if is_bad:
        bare = Settings(quoting="none", why="cells hold quotes as they are")
        other = take_sample(found, bare)
        if _share_of_rows(other) > _share_of_rows(sample):
            settings, sample = bare, other
    names = next((list(item.row) for item in sample.items if item.row is not None), [])
    if _are_cells(names):
        settings = Settings(
            None, _names_for(names), settings.quoting, "; ".join(filter(None, [settings.why, "no header"]))
        )
        sample = take_sample(found, settings)
    return settings, sample


def _share_of_rows(sample: Sample) -> float:
    return sum(item.row is not None for item in sample.items) / max(1, len(sample.items))


def _are_cells(names: Sequence[str]) -> bool:
    """Whether a first line is a row and no header: headers are short, and neither sentences nor numbers."""
    return any(len(name) > 40 or re.search(r"[.!?]\s*$|^-?[\d.]+$", name) or not name.strip() for name in names)


def _names_for(cells: Sequence[str]) -> tuple[str, ...]:
    first = ("text",) if len(cells) == 1 else ("source", "target")
    return (*first, *(f"column_{number}" for number in range(len(first) + 1, len(cells) + 1)))


def _where_documents_end(found: Found) -> Settings:
    sample = take_sample(found, Settings(separator="line"))
    if len(found.paths) > 1 and found.num_bytes / len(found.paths) <= 1 << 18:
        return Settings(why="each file is a document")
    lines = [item.line for item in sample.items]
    gaps = sum(after - before > 1 for before, after in pairwise(lines))
    if gaps >= 5:
        return Settings(separator="blank_line", why="empty lines stand between documents")
    if len(lines) > 20:
        return Settings(separator="line", why="no empty lines, so each line is a document")
    return Settings(why="each file is a document")
