"""JSON files into rows: one object per line, or an array of objects, read as a stream."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.data import blocks
from pipelines.data.blocks import Item, Row, Source, decoded, lines, path_of, unpacked, without_bom
from pipelines.errors import DataError

LEVELS = 256
"""Objects and arrays inside one another that are taken."""


class _DuplicateKey(ValueError):
    """Two values for one name: which one is meant cannot be known."""


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise _DuplicateKey
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def read_jsonl(source: Source) -> Iterator[Item]:
    path = path_of(source)
    for line in lines(source):
        text, reason = decoded(line)
        if text is not None and not text.strip():
            continue
        row, reason = (None, reason) if text is None else _parsed(text)
        yield Item(row, reason, str(path), line.number)


def _parsed(text: str) -> tuple[Row | None, str | None]:
    try:
        value = _DECODER.decode(text)
    except _DuplicateKey:
        return None, "duplicate_key"
    except RecursionError:
        return None, "too_deep"
    except ValueError:
        return None, "invalid_json"
    return _row(value)


def _row(value: Any) -> tuple[Row | None, str | None]:
    """(row, reason)"""
    if not isinstance(value, dict):
        return None, "not_an_object"
    return (None, "too_deep") if _is_too_deep(value) else (value, None)


def _is_too_deep(row: Row) -> bool:
    """Whether an object holds more levels than are taken: what is read here is written and read again elsewhere, where
    Python's own bound may come sooner."""
    level: list[Any] = [row]
    for _ in range(LEVELS):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


_WRAPPED = re.compile(r'\s*(\{\s*"data"\s*:\s*)?(?=\[)')


def read_json(path: Path) -> Iterator[Item]:
    """An array of objects, an object whose `data` is one, or an object per line."""
    text = _Text(path)
    start = _WRAPPED.match(text.buffer)
    if start:
        return _array(text, start.end() + 1, is_wrapped=start[1] is not None)
    first, _ = _parsed(text.buffer.lstrip().split("\n", 1)[0])
    if first is not None and not isinstance(first.get("data"), list):
        return read_jsonl(path)
    return _data_of_object(path, text)


def _data_of_object(path: Path, text: "_Text") -> Iterator[Item]:
    """`data` of an object that holds other things before it; such a file is read as a whole."""
    while text.more():
        if len(text.buffer) > blocks.LARGEST_ROW:
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
    yield from read_jsonl(path)


def _element(value: Any, path: Path, line: int) -> Item:
    row, reason = _row(value)
    return Item(row, reason, str(path), line)


class _Text:
    """The text of a file as far as it was read, with the number of the line at its start."""

    def __init__(self, path: Path):
        self.path, self.buffer, self.line = path, "", 1
        self.blocks = without_bom(path, unpacked(path))
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
_MARK = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
"""A whole string, or one that goes on after what was read; or a sign that opens or closes."""


def _array(text: _Text, position: int, *, is_wrapped: bool) -> Iterator[Item]:
    """The elements of an array, whose first one begins at or after `position`; `is_wrapped`: by an object."""
    line, counted = 1, 0
    while True:
        position = _GAP.match(text.buffer, position).end()  # type: ignore[union-attr]
        if text.buffer.startswith("]", position):
            _require_end(text, position + 1, is_wrapped=is_wrapped)
            return
        if position > blocks.BLOCK:
            text.drop(position)
            position = counted = 0
            line = text.line
        reason = None
        try:
            value, end = _DECODER.raw_decode(text.buffer, position)
            # A number may go on in the next block, so what follows an element must be seen.
            whole = end < len(text.buffer)
        except (_DuplicateKey, RecursionError) as error:
            reason = "duplicate_key" if isinstance(error, _DuplicateKey) else "too_deep"
            value, end = None, _end(text.buffer, position)
            whole = end > 0
        except ValueError:
            whole = False
        if whole:
            line += text.buffer.count("\n", counted, position)
            counted = position
            yield Item(None, reason, str(text.path), line) if reason else _element(value, text.path, line)
            position = end
        elif len(text.buffer) - position > blocks.LARGEST_ROW or not text.more():
            line += text.buffer.count("\n", counted, position)
            raise DataError(f"{text.path}:{line}: this element of the array is no whole JSON value; correct the file")


def _require_end(text: _Text, position: int, *, is_wrapped: bool) -> None:
    """Raise DataError where more follows the array than the rest of its object: rows that nobody would read."""
    line = text.line + text.buffer.count("\n", 0, position)
    text.drop(position)
    while len(text.buffer) <= blocks.LARGEST_ROW and (is_wrapped or not text.buffer.strip()):
        if not text.more():
            break
        if not is_wrapped:
            text.buffer = text.buffer.lstrip()
    rest = text.buffer
    if rest.strip() if not is_wrapped else _parsed(f'{{"data": []{rest}')[0] is None:
        raise DataError(
            f"{text.path}:{line}: more stands behind the array that ends here; correct the file, or write one object "
            "per line (.jsonl)"
        )


def _end(buffer: str, position: int) -> int:
    """Where an array or object that cannot be taken ends; 0 where that was not read yet."""
    depth = 0
    for mark in _MARK.finditer(buffer, position):
        if mark[0] in "[{":
            depth += 1
        elif mark[0] in "]}":
            depth -= 1
            if not depth:
                return mark.end()
        elif mark.end() == len(buffer):
            return 0
    return 0
