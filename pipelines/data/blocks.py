"""The bytes of a file, unpacked and cut into lines: streaming, never a whole big file in memory."""

import bz2
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.errors import DataError

Row = dict[str, Any]

BLOCK = 1 << 20
LARGEST_ROW = 64 << 20
"""Bytes of the longest line, cell or document that is taken; longer ones are dropped and counted."""


class Item(NamedTuple):
    """One row of a source, or the reason why there is none, and where it stands."""

    row: Row | None
    reason: str | None
    file: str
    line: int


class Line(NamedTuple):
    """A physical line without its end; None where it is too long."""

    raw: bytes | None
    number: int


class Span(NamedTuple):
    """Whole rows of a plain file of lines."""

    path: Path
    start: int
    stop: int
    """Bytes, from `start` to before `stop`."""
    line: int
    """Number of its first line."""


Source = Path | Span


def path_of(source: Source) -> Path:
    """The file itself."""
    return source.path if isinstance(source, Span) else source


def unpacked(path: Path) -> Iterator[bytes]:
    """The unpacked bytes of a file, in blocks. A file that ends too early is a DataError, never a shorter file."""
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            yield from UNPACK.get(suffix, _plain)(file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if error.errno is not None:  # of the machine; what unpacks has no numbers
            raise
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged or cut off ({error}); fetch it again")


def _plain(file: io.BufferedIOBase) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _gunzip(file: io.BufferedIOBase) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as whole:
        yield from _plain(whole)


def _bunzip(file: io.BufferedIOBase) -> Iterator[bytes]:
    # BZ2File takes whatever follows a stream and is none for the end of the file.
    packed = b""
    while packed := packed.lstrip(b"\0") or file.read(BLOCK):
        unpacker = bz2.BZ2Decompressor()
        while not unpacker.eof:
            if unpacker.needs_input and not packed and not (packed := file.read(BLOCK)):
                raise EOFError("the stream has no end")
            if block := unpacker.decompress(packed, BLOCK):
                yield block
            packed = b""
        packed = unpacker.unused_data


def _unzstd(file: io.BufferedIOBase) -> Iterator[bytes]:
    # zstandard's reader takes a frame that is cut off for one that ends, and what it unpacks at once has no bound.
    import pyarrow

    with pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd") as whole:
        while block := whole.read(BLOCK):
            yield block


UNPACK: Mapping[str, Callable[[Any], Iterator[bytes]]] = {".bz2": _bunzip, ".gz": _gunzip, ".zst": _unzstd}


def lines(source: Source) -> Iterator[Line]:
    r"""Lines end with \n or \r\n and with nothing else: U+2028, U+0085 and a lone \r belong to the text."""
    pending: list[bytes] = []
    path, size, number = path_of(source), 0, 1
    found = unpacked(path)
    if isinstance(source, Span):
        found, number = _between(source), source.line
    for block in without_bom(path, found) if number == 1 else found:
        *ended, rest = block.split(b"\n")
        for part in ended:
            too_long = size + len(part) > LARGEST_ROW
            raw = None if too_long else b"".join([*pending, part])
            yield Line(raw[:-1] if raw and raw.endswith(b"\r") else raw, number)
            pending, size, number = [], 0, number + 1
        size += len(rest)
        # Of a line that is too long only its length is kept.
        pending = [*pending, rest] if size <= LARGEST_ROW else []
    if size:
        yield Line(b"".join(pending) if size <= LARGEST_ROW else None, number)


def _between(span: Span) -> Iterator[bytes]:
    left = span.stop - span.start
    with span.path.open("rb") as file:
        file.seek(span.start)
        while block := file.read(min(BLOCK, left)):
            left -= len(block)
            yield block


def without_bom(path: Path, found: Iterator[bytes]) -> Iterator[bytes]:
    """Blocks without the mark that some programs write before UTF-8; that of UTF-16 is a DataError."""
    first = next(found, b"")
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is UTF-16; turn it into UTF-8, for example with: iconv -f UTF-16 -t UTF-8")
    yield first.removeprefix(b"\xef\xbb\xbf")
    yield from found


def decoded(line: Line) -> tuple[str | None, str | None]:
    """(text, reason)"""
    if line.raw is None:
        return None, "too_long"
    try:
        return line.raw.decode(), None
    except UnicodeDecodeError:
        return None, "not_utf8"
