"""Tables of comma- or tab-separated cells into rows."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pipelines.data import blocks
from pipelines.data.blocks import Item, decoded, lines
from pipelines.errors import DataError

Quoting = Literal["minimal", "none"]


def read_csv(path: Path, column_names: Sequence[str], quoting: Quoting = "minimal") -> Iterator[Item]:
    """Cells are strings, whatever they spell."""
    return _read(path, column_names, quoting, ",")


def read_tsv(path: Path, column_names: Sequence[str], quoting: Quoting = "minimal") -> Iterator[Item]:
    """The same with tabs."""
    return _read(path, column_names, quoting, "\t")


def _read(path: Path, column_names: Sequence[str], quoting: Quoting, delimiter: str) -> Iterator[Item]:
    return (_unquoted if quoting == "none" else _quoted)(path, list(column_names) or None, delimiter)


def _quoted(path: Path, header: list[str] | None, delimiter: str) -> Iterator[Item]:
    """Quotes follow RFC 4180, also in .tsv files."""
    csv.field_size_limit(blocks.LARGEST_ROW)
    found = _CsvLines(path)
    reader = csv.reader(found, delimiter=delimiter, strict=True)
    while True:
        line, found.all_utf8 = reader.line_num + 1, True
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise DataError(
                    f"{path}:{line}: a quote that opens here is never closed; correct the file, or write "
                    "quoting: none if its cells hold quotes as they are"
                ) from None
            yield Item(None, "invalid_csv", str(path), line)
            continue
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = check_names(path, cells)
            continue
        yield _row(path, line, header, cells, is_utf8=found.all_utf8)


class _CsvLines:
    """Lines for the csv module, which joins those that a quoted cell spans."""

    def __init__(self, path: Path):
        self.path, self.lines, self.all_utf8 = path, lines(path), True

    def __iter__(self) -> "_CsvLines":
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        if line.raw is None:
            raise DataError(f"{self.path}:{line.number}: longer than {blocks.LARGEST_ROW >> 20} MiB; correct the file")
        text, reason = decoded(line)
        # A bad line must reach the reader all the same: without it, its quotes would be missed.
        self.all_utf8 = self.all_utf8 and reason is None
        return (line.raw.decode(errors="replace") if text is None else text) + "\n"


def _unquoted(path: Path, header: list[str] | None, delimiter: str) -> Iterator[Item]:
    """Each line is a row, and a quote is a character like any other."""
    for line in lines(path):
        text, reason = decoded(line)
        if text is None:
            yield Item(None, reason, str(path), line.number)
        elif text and header is None:
            header = check_names(path, text.split(delimiter))
        elif text and header is not None:
            yield _row(path, line.number, header, text.split(delimiter), is_utf8=True)


def _row(path: Path, line: int, header: list[str], cells: list[str], *, is_utf8: bool) -> Item:
    reason = "wrong_number_of_cells" if len(cells) != len(header) else None
    reason = reason if is_utf8 else "not_utf8"
    return Item(None if reason else dict(zip(header, cells, strict=True)), reason, str(path), line)


def check_names(path: Path, names: list[str]) -> list[str]:
    """The same names; DataError where one stands there twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}:1: the header names {', '.join(map(repr, twice))} more than once; rename one of them")
    return names
