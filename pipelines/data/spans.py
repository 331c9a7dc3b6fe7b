"""Large plain files of lines in spans that are read apart: the same rows, in the same order."""

from pathlib import Path
from typing import BinaryIO

from pipelines.data.blocks import BLOCK, Span, unpacked, without_bom
from pipelines.data.documents import Separator
from pipelines.data.shards import SHARD_BYTES


def spans_of(path: Path, separator: Separator | None, most: int = SHARD_BYTES) -> list[Span]:
    """Spans of about `most` bytes, each from one border between rows to another; none where the file is no larger, or
    only its reader knows where rows end: packed files, quoted cells, texts that are one document."""
    is_text = path.suffix.lower() == ".txt" and separator in ("line", "blank_line")
    if not (is_text or path.suffix.lower() == ".jsonl") or not path.is_file() or path.stat().st_size <= most:
        return []
    if all(block.isspace() for block in without_bom(path, unpacked(path))):
        return []  # it has no row to count, so only the file as a whole can say so
    size, start, line = path.stat().st_size, 0, 1
    spans = []
    with path.open("rb") as file:
        while start < size:
            stop = _border(file, start + most, size, is_blank=separator == "blank_line" and is_text)
            spans.append(Span(path, start, stop, line))
            line += _line_ends(file, start, stop)
            start = stop
    return spans


def _border(file: BinaryIO, place: int, size: int, *, is_blank: bool) -> int:
    """Behind the first line end from a place on, or behind the first empty line that begins after it."""
    if place >= size:
        return size
    file.seek(place)
    is_start = False  # of a line
    while piece := file.readline(BLOCK):
        is_end = piece.endswith(b"\n")
        if is_end and (not is_blank or (is_start and not piece.strip())):
            return file.tell()
        is_start = is_end
    return size


def _line_ends(file: BinaryIO, start: int, stop: int) -> int:
    file.seek(start)
    count = 0
    while start < stop:
        block = file.read(min(BLOCK, stop - start))
        count += block.count(b"\n")
        start += len(block)
    return count
