"""Files of prose into rows: plain text, Markdown, and the main text of web pages."""

import codecs
import logging
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from pipelines.data import blocks
from pipelines.data.blocks import Item, Line, Source, decoded, lines, path_of, unpacked

Separator = Literal["file", "line", "blank_line"]

LARGEST_PAGE = 2_000_000
"""Bytes of the longest web page that is taken. The search for a main text takes time that grows with the square of a
page of many small marks: at 2 MB up to 17 seconds, at 5 MB two minutes."""


def read_txt(source: Source, separator: Separator) -> Iterator[Item]:
    """Documents of a text file. Empty lines between documents are no rows."""
    yield from _documents(path_of(source), lines(source), separator)


def read_md(path: Path, separator: Separator) -> Iterator[Item]:
    """Documents of a Markdown file, as it is written; front matter is about the text and no part of it."""
    yield from _documents(path, _without_front_matter(lines(path)), separator)


def _documents(path: Path, found: Iterator[Line], separator: Separator) -> Iterator[Item]:
    document = _Document(path)
    for line in found:
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

    def add(self, line: Line) -> None:
        self.first = self.first or line.number
        self.size += blocks.LARGEST_ROW + 2 if line.raw is None else len(line.raw) + 1
        if self.size > blocks.LARGEST_ROW + 1:
            self.lines = []
        else:
            self.lines.append(line.raw or b"")

    def end(self) -> Iterator[Item]:
        if self.first:
            whole = b"\n".join(self.lines) if self.lines else None
            text, reason = decoded(Line(whole, self.first))
            yield Item(None if reason else {"text": text}, reason, str(self.path), self.first)
        self.lines, self.first, self.size = [], 0, 0


# --- Markdown -----------------------------------------------------------------------------------------------------

_LONGEST_FRONT_MATTER = 200, 1 << 16
"""Lines and bytes."""
_FENCES = {b"---": (b"---", b"..."), b"+++": (b"+++",)}
_FIELD = re.compile(rb"\s*(#|[\"']?[\w][\w .-]*[\"']?\s*[:=](\s|$)|\[)")


def _without_front_matter(found: Iterator[Line]) -> Iterator[Line]:
    """Lines after a block of `key: value` (YAML, between ---) or `key = value` (TOML, between +++) at the start.

    A rule (---) that opens prose is no front matter: its next line is no field, or nothing closes it."""
    first = next(found, None)
    if first is None:
        return
    ends = _FENCES.get((first.raw or b"").rstrip())
    head, most, size = [first], *_LONGEST_FRONT_MATTER
    for line in islice(found, most) if ends else ():
        head.append(line)
        size -= len(line.raw or b"")
        raw = (line.raw or b"").rstrip()
        if raw in (ends or ()):
            head = []
            break
        if line.raw is None or size < 0 or (len(head) == 2 and not _FIELD.match(raw)):
            break
    yield from chain(head, found)


# --- web pages ----------------------------------------------------------------------------------------------------

_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)


def read_html(path: Path) -> Iterator[Item]:
    """The main text of a page, without menus and footers (trafilatura); tables stay, comments go."""
    text, reason = _page(path)
    if text is not None and reason is None:
        text = _main_text(text)
        reason = None if text else "no_main_text"
    yield Item({"text": text} if reason is None else None, reason, str(path), 1)


def _page(path: Path) -> tuple[str | None, str | None]:
    """(HTML, reason), by the encoding that the page itself names, else as UTF-8."""
    parts: list[bytes] = []
    size = 0
    for block in unpacked(path):
        size += len(block)
        if size > LARGEST_PAGE:
            return None, "too_long"
        parts.append(block)
    raw = b"".join(parts)
    try:
        text = raw.decode(_encoding(raw))
    except (UnicodeError, LookupError):
        return None, "not_utf8"
    return (None, "nul") if "\0" in text else (text, None)


def _encoding(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if raw.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    named = _CHARSET.search(raw[:2048])
    name = codecs.lookup(named[1].decode("ascii", "replace")).name if named else "utf-8"
    # Browsers read both of these names as windows-1252 (WHATWG Encoding Standard), and pages are written for them. A
    # page that calls itself UTF-16 in plain ASCII is not (HTML Standard).
    return "utf-8" if name.startswith("utf-16") else {"iso8859-1": "cp1252", "ascii": "cp1252"}.get(name, name)


def _main_text(page: str) -> str | None:
    import trafilatura  # half a second, and few data are web pages

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what it gives up on is counted here
    return trafilatura.extract(page, include_comments=False, include_tables=True)
