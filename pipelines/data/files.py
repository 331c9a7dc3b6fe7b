"""Local files, plain or compressed, into rows: streaming, one row at a time, never a whole big file in memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.data.blocks import UNPACK, Item, Source, Span, path_of
from pipelines.data.cells import Quoting, read_csv, read_tsv
from pipelines.data.columnar import read_arrow, read_parquet
from pipelines.data.documents import Separator, read_html, read_md, read_txt
from pipelines.data.json_rows import read_json, read_jsonl
from pipelines.errors import DataError

Reader = Callable[[Path], Iterator[Item]]

PROSE: Mapping[str, Callable[[Path, Separator], Iterator[Item]]] = {".md": read_md, ".txt": read_txt}
CELLS: Mapping[str, Callable[[Path, Sequence[str], Quoting], Iterator[Item]]] = {".csv": read_csv, ".tsv": read_tsv}
OTHERS: Mapping[str, Reader] = {
    ".arrow": read_arrow,
    ".htm": read_html,
    ".html": read_html,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}
KINDS = sorted({*PROSE, *CELLS, *OTHERS})


def read_file(
    source: Source,
    separator: Separator | None = None,
    column_names: Sequence[str] = (),
    quoting: Quoting = "minimal",
) -> Iterator[Item]:
    """Rows of one file, by the ending of its name; a file without any is one item that says so. Raises DataError where
    the file as a whole cannot be read. Of a span (`spans.spans_of`), its rows.

    `separator` is for .txt and .md files, `column_names` (of those without a header) and `quoting` for .csv and .tsv
    files."""
    path = path_of(source)
    kind = kind_of(path)
    if kind not in KINDS:
        raise DataError(f"{path}: unknown kind of file; use {', '.join(KINDS)}, plain, {', '.join(UNPACK)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if kind not in CELLS and (column_names or quoting != "minimal"):
        field = "column_names" if column_names else "quoting"
        raise DataError(f"{path}: {field} belongs to .csv and .tsv files; use columns: to map names")
    if isinstance(source, Span):  # which may hold nothing, where the file holds something
        return _read_span(source, kind, separator or "file")
    return _or_empty(path, _read(path, kind, separator or "file", column_names, quoting))


def kind_of(path: Path) -> str:
    """What its name says that a file is, whether packed or not."""
    return (path.with_suffix("") if path.suffix.lower() in UNPACK else path).suffix.lower()


def _read(path: Path, kind: str, separator: Separator, column_names: Sequence[str], quoting: Quoting) -> Iterator[Item]:
    if path.stat().st_size == 0:
        return iter(())
    if kind in PROSE:
        return PROSE[kind](path, separator)
    if kind in CELLS:
        return CELLS[kind](path, column_names, quoting)
    return OTHERS[kind](path)


def _read_span(span: Span, kind: str, separator: Separator) -> Iterator[Item]:
    return read_txt(span, separator) if kind == ".txt" else read_jsonl(span)


def _or_empty(path: Path, items: Iterator[Item]) -> Iterator[Item]:
    first = next(items, Item(None, "empty_file", str(path), 1))
    yield first
    yield from items
