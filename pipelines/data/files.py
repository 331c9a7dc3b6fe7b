"""Local files, plain or compressed, into rows: streaming, one row at a time, never a whole big file in memory."""

import codecs
import csv
import gzip
import io
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import zstandard

from pipelines.errors import DataError

Row = dict[str, Any]
Separator = Literal["file", "line", "blank_line"]

BLOCK = 1 << 20
LARGEST_ROW = 64 << 20
"""Bytes of the longest line, cell or document that is taken; longer ones are dropped and counted."""


class Item(NamedTuple):
    """One row of a source, or the reason why there is none, and where it stands."""

    row: Row | None
    reason: str | None
    file: str
    line: int


class _Line(NamedTuple):
    """A physical line without its end; None where it is too long."""

    raw: bytes | None
    number: int


def read_file(path: Path, separator: Separator | None = None, column_names: Sequence[str] = ()) -> Iterator[Item]:
    """Rows of one file, by the ending of its name. Raises DataError where the file as a whole cannot be read.

    `separator` is for .txt files, `column_names` for .csv and .tsv files without a header."""
    inner = path.with_suffix("") if path.suffix.lower() in _UNPACK else path
    read = _READERS.get(inner.suffix.lower())
    if read is None:
        raise DataError(f"{path}: unknown kind of file; use {', '.join(sorted(_READERS))}, plain, .gz or .zst")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        return iter([Item(None, "empty_file", str(path), 1)])
    if read is _read_txt:
        return _read_txt(path, separator or "file")
    if read is _read_csv or read is _read_tsv:
        return read(path, column_names)
    if column_names:
        raise DataError(f"{path}: column_names belongs to .csv and .tsv files; use columns: to map names")
    return read(path)


# --- bytes and lines ----------------------------------------------------------------------------------------------


def _blocks(path: Path) -> Iterator[bytes]:
    """The unpacked bytes of a file. A file that ends too early is an error, never a shorter file."""
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            yield from filter(None, _UNPACK.get(suffix, _plain)(file))
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(f"{path}: damaged or cut off ({error}); fetch it again") from None


def _plain(file: io.BufferedIOBase) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _gunzip(file: io.BufferedIOBase) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as unpacked:
        yield from _plain(unpacked)


def _unzstd(file: io.BufferedIOBase) -> Iterator[bytes]:
    # The library's own reader takes a frame that is cut off for one that ends, so frames are followed by hand.
    frame = zstandard.ZstdDecompressor().decompressobj()
    begun = False
    for packed in _plain(file):
        while packed:
            begun = True
            yield frame.decompress(packed)
            packed = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
    if begun:
        raise EOFError("the last zstd frame is not whole")


_UNPACK: Mapping[str, Callable[[Any], Iterator[bytes]]] = {".gz": _gunzip, ".zst": _unzstd}


def _lines(path: Path) -> Iterator[_Line]:
    r"""Lines end with \n or \r\n and with nothing else: U+2028, U+0085 and a lone \r belong to the text."""
    pending: list[bytes] = []
    size, number = 0, 1
    for block in _without_bom(path, _blocks(path)):
        *ended, rest = block.split(b"\n")
        for part in ended:
            too_long = size + len(part) > LARGEST_ROW
            raw = None if too_long else b"".join([*pending, part])
            yield _Line(raw[:-1] if raw and raw.endswith(b"\r") else raw, number)
            pending, size, number = [], 0, number + 1
        size += len(rest)
        # Of a line that is too long only its length is kept.
        pending = [*pending, rest] if size <= LARGEST_ROW else []
    if size:
        yield _Line(b"".join(pending) if size <= LARGEST_ROW else None, number)


def _without_bom(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    first = next(blocks, b"")
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is UTF-16; turn it into UTF-8, for example with: iconv -f UTF-16 -t UTF-8")
    yield first.removeprefix(b"\xef\xbb\xbf")
    yield from blocks


def _decoded(line: _Line) -> tuple[str | None, str | None]:
    """(text, reason)"""
    if line.raw is None:
        return None, "too_long"
    try:
        return line.raw.decode(), None
    except UnicodeDecodeError:
        return None, "not_utf8"


# --- txt ----------------------------------------------------------------------------------------------------------


def _read_txt(path: Path, separator: Separator) -> Iterator[Item]:
    """Documents of a text file. Empty lines between documents are no rows."""
    document = _Document(path)
    for line in _lines(path):
        blank = line.raw is not None and not line.raw.strip()
        if not (blank and separator in ("line", "blank_line")):
            document.add(line)
        if separator == "line" or (separator == "blank_line" and blank):
            yield from document.end()
    yield from document.end()


class _Document:
    """Lines that belong together, up to the size that is taken."""

    def __init__(self, path: Path):
        self.path = path
        self.lines: list[bytes] = []
        self.first = self.size = 0

    def add(self, line: _Line) -> None:
        self.first = self.first or line.number
        self.size += LARGEST_ROW + 2 if line.raw is None else len(line.raw) + 1
        if self.size > LARGEST_ROW + 1:
            self.lines = []
        else:
            self.lines.append(line.raw or b"")

    def end(self) -> Iterator[Item]:
        if self.first:
            whole = b"\n".join(self.lines) if self.lines else None
            text, reason = _decoded(_Line(whole, self.first))
            yield Item(None if reason else {"text": text}, reason, str(self.path), self.first)
        self.lines, self.first, self.size = [], 0, 0


# --- jsonl and json -----------------------------------------------------------------------------------------------


class _DuplicateKey(ValueError):
    """Two values for one name: which one is meant cannot be known."""


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise _DuplicateKey
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _read_jsonl(path: Path) -> Iterator[Item]:
    for line in _lines(path):
        text, reason = _decoded(line)
        if text is not None and not text.strip():
            continue
        row, reason = (None, reason) if text is None else _parsed(text)
        yield Item(row, reason, str(path), line.number)


def _parsed(text: str) -> tuple[Row | None, str | None]:
    try:
        value = _DECODER.decode(text)
    except _DuplicateKey:
        return None, "duplicate_key"
    except (ValueError, RecursionError):
        return None, "invalid_json"
    return (value, None) if isinstance(value, dict) else (None, "not_an_object")


_WRAPPED = re.compile(r'\s*(\{\s*"data"\s*:\s*)?(?=\[)')


def _read_json(path: Path) -> Iterator[Item]:
    """An array of objects, an object whose `data` is one, or an object per line."""
    text = _Text(path)
    start = _WRAPPED.match(text.buffer)
    if start:
        return _array(text, start.end() + 1)
    first, _ = _parsed(text.buffer.lstrip().split("\n", 1)[0])
    if first is not None and not isinstance(first.get("data"), list):
        return _read_jsonl(path)
    return _data_of_object(path, text)


def _data_of_object(path: Path, text: "_Text") -> Iterator[Item]:
    """`data` of an object that holds other things before it; such a file is read as a whole."""
    while text.more():
        if len(text.buffer) > LARGEST_ROW:
            raise DataError(f"{path}: one huge object; write its rows as an array or as one object per line (.jsonl)")
    whole, _ = _parsed(text.buffer)
    rows = whole.get("data") if whole else None
    if isinstance(rows, list):
        for number, row in enumerate(rows, 1):
            yield _element(row, path, number)
        return
    if whole is not None:
        yield Item(whole, None, str(path), 1)
        return
    yield from _read_jsonl(path)


def _element(value: Any, path: Path, line: int) -> Item:
    is_row = isinstance(value, dict)
    return Item(value if is_row else None, None if is_row else "not_an_object", str(path), line)


class _Text:
    """The text of a file as far as it was read, with the number of the line at its start."""

    def __init__(self, path: Path):
        self.path, self.buffer, self.line = path, "", 1
        self.blocks = _without_bom(path, _blocks(path))
        self.decode = codecs.getincrementaldecoder("utf-8")().decode
        self.more()

    def more(self) -> bool:
        """Read on; False at the end."""
        block = next(self.blocks, None)
        try:
            self.buffer += self.decode(block or b"", final=block is None)
        except UnicodeDecodeError:
            line = self.line + self.buffer.count("\n")
            raise DataError(f"{self.path}:{line}: no UTF-8 text after this line; save the file as UTF-8") from None
        return block is not None

    def drop(self, end: int) -> None:
        """Forget what stands before `end`."""
        self.line += self.buffer.count("\n", 0, end)
        self.buffer = self.buffer[end:]


_GAP = re.compile(r"[\s,]*")


def _array(text: _Text, position: int) -> Iterator[Item]:
    """The elements of an array, whose first one begins at or after `position`."""
    line, counted = 1, 0
    while True:
        position = _GAP.match(text.buffer, position).end()  # type: ignore[union-attr]
        if text.buffer.startswith("]", position):
            return
        if position > BLOCK:
            text.drop(position)
            position = counted = 0
            line = text.line
        try:
            value, end = _DECODER.raw_decode(text.buffer, position)
            # A number may go on in the next block, so what follows an element must be seen.
            whole = end < len(text.buffer)
        except _DuplicateKey:
            raise DataError(f"{text.path}:{line}: an object has two values for one name; keep one of them") from None
        except (ValueError, RecursionError):
            whole = False
        if whole:
            line += text.buffer.count("\n", counted, position)
            counted = position
            yield _element(value, text.path, line)
            position = end
        elif len(text.buffer) - position > LARGEST_ROW or not text.more():
            line += text.buffer.count("\n", counted, position)
            raise DataError(f"{text.path}:{line}: this element of the array is no whole JSON value; correct the file")


# --- csv and tsv --------------------------------------------------------------------------------------------------


def _read_csv(path: Path, column_names: Sequence[str], delimiter: str = ",") -> Iterator[Item]:
    """Cells are strings, whatever they spell. Quotes follow RFC 4180, also in .tsv files."""
    csv.field_size_limit(LARGEST_ROW)
    lines = _CsvLines(path)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = list(column_names) or None
    while True:
        line, lines.all_utf8 = reader.line_num + 1, True
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise DataError(f"{path}:{line}: a quote that opens here is never closed; correct the file") from None
            yield Item(None, "invalid_csv", str(path), line)
            continue
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = _header(path, cells)
            continue
        reason = "wrong_number_of_cells" if len(cells) != len(header) else None
        reason = reason if lines.all_utf8 else "not_utf8"
        yield Item(None if reason else dict(zip(header, cells, strict=True)), reason, str(path), line)


class _CsvLines:
    """Lines for the csv module, which joins those that a quoted cell spans."""

    def __init__(self, path: Path):
        self.path, self.lines, self.all_utf8 = path, _lines(path), True

    def __iter__(self) -> "_CsvLines":
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        if line.raw is None:
            raise DataError(f"{self.path}:{line.number}: longer than {LARGEST_ROW >> 20} MiB; correct the file")
        text, reason = _decoded(line)
        # A bad line must reach the reader all the same: without it, its quotes would be missed.
        self.all_utf8 = self.all_utf8 and reason is None
        return (line.raw.decode(errors="replace") if text is None else text) + "\n"


def _header(path: Path, cells: list[str]) -> list[str]:
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice:
        raise DataError(f"{path}:1: the header names {', '.join(map(repr, twice))} more than once; rename one of them")
    return cells


def _read_tsv(path: Path, column_names: Sequence[str]) -> Iterator[Item]:
    return _read_csv(path, column_names, "\t")


# --- parquet ------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Iterator[Item]:
    """The place of a row is its number, from 1."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    with tempfile.TemporaryFile() as unpacked:
        for block in _blocks(path) if path.suffix.lower() in _UNPACK else ():
            unpacked.write(block)
        try:
            source = pyarrow.parquet.ParquetFile(unpacked if unpacked.tell() else path)
            _header(path, source.schema_arrow.names)
            for batch in source.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield Item(row, None, str(path), number)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: no whole parquet file after row {number} ({error}); fetch it again") from None


_READERS: Mapping[str, Callable[..., Iterator[Item]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
