"""Files with everything that goes wrong in data, each made here with the outcome that it must have."""

import bz2
import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard


@dataclass(frozen=True)
class Bad:
    """Files by their names, the fields of their dataset, and what must become of them: either these rows and these
    counts of dropped ones, or one line that says what is wrong."""

    files: Mapping[str, bytes]
    used: list[Any] = field(default_factory=list)
    """Of each row that is used, what it says: one text, or several."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    left_over: Mapping[str, int] = field(default_factory=dict)


def lines(*rows: Any) -> bytes:
    """JSON lines; bytes stay what they are."""
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def texts(*said: str) -> bytes:
    return lines(*({"text": text} for text in said))


def parquet(*columns: tuple[str, Any], rows_of_group: int | None = None) -> bytes:
    file = io.BytesIO()
    table = pa.table([array for _, array in columns], names=[name for name, _ in columns])
    pq.write_table(table, file, row_group_size=rows_of_group)
    return file.getvalue()


def stream(table: pa.Table) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


ONE, TWO = texts("one"), texts("two")
LARGEST_ROW = 14 << 20
"""Of the tests, to spare time; it must be above 12 MB."""
LONG = "x" * (12 << 20)
LINE: dict[str, Any] = {"separator": "line"}
NOISE = bytes(range(256)) * 40

ENCODINGS: dict[str, Bad] = {
    "latin-1 in one line": Bad({"a.jsonl": ONE + '{"text": "ü"}\n'.encode("latin-1")}, ["one"], {"not_utf8": 1}),
    "latin-1 in one cell": Bad({"a.csv": "text\none\nü\n".encode("latin-1")}, ["one"], {"not_utf8": 1}),
    "latin-1 in a text": Bad({"a.txt": "one\nü\n".encode("latin-1"), "b.txt": b"two"}, ["two"], {"not_utf8": 1}),
    "latin-1 in an array": Bad({"a.json": '[{"text": "ü"}]'.encode("latin-1")}, error="a.json:1: no UTF-8 text after"),
    "utf-16": Bad({"a.jsonl": ONE.decode().encode("utf-16")}, error="is UTF-16; turn it into UTF-8"),
    "utf-16 text": Bad({"a.txt": "one".encode("utf-16")}, error="iconv -f UTF-16"),
    "utf-16 without a mark": Bad({"a.txt": "one".encode("utf-16-le"), "b.txt": b"two"}, ["two"], {"nul": 1}),
    "byte order mark": Bad({"a.jsonl": b"\xef\xbb\xbf" + ONE, "b.txt": b"\xef\xbb\xbftwo"}, ["one", "two"]),
    "byte order mark before a header": Bad({"a.csv": b"\xef\xbb\xbftext\none\n"}, ["one"]),
    "byte order mark and nothing else": Bad({"a.txt": b"\xef\xbb\xbf", "b.jsonl": ONE}, ["one"], {"empty_file": 1}),
    "windows line ends": Bad({"a.jsonl": ONE.replace(b"\n", b"\r\n") * 2}, ["one", "one"]),
    "windows line ends in texts": Bad({"a.txt": b"one\r\ntwo\r\n"}, ["one", "two"], fields=LINE),
    "old line ends": Bad({"a.txt": b"one\rtwo"}, ["one\rtwo"], fields=LINE),
    "U+2028 inside lines": Bad({"a.jsonl": '{"text": "a\u2028b\u2029c\x85d"}\n'.encode()}, ["a\u2028b\u2029c\x85d"]),
    "U+2028 inside texts": Bad({"a.txt": "a\u2028b\nc".encode()}, ["a\u2028b", "c"], fields=LINE),
    "NUL": Bad({"a.jsonl": texts("a\0b", "one")}, ["one"], {"nul": 1}),
    "NUL in a text": Bad({"a.txt": b"a\0b\none\n"}, ["one"], {"nul": 1}, fields=LINE),
    "NUL bare in JSON": Bad({"a.jsonl": ONE + b'{"text": "a\0b"}\n'}, ["one"], {"invalid_json": 1}),
    "NUL in a cell": Bad({"a.csv": b"text\na\0b\none\n"}, ["one"], {"nul": 1}),
    "lone surrogates": Bad(
        {"a.jsonl": lines(b'{"text": "\\ud800"}', b'{"text": "\\udc00a"}') + ONE}, ["one"], {"lone_surrogate": 2}
    ),
    "a surrogate pair": Bad({"a.jsonl": b'{"text": "\\ud83d\\ude00"}'}, ["😀"]),
    "a surrogate as bytes": Bad({"a.jsonl": b'{"text": "\xed\xa0\x80"}\n' + ONE}, ["one"], {"not_utf8": 1}),
    "half a character at the end": Bad({"a.txt": "one\nü".encode()[:-1]}, ["one"], {"not_utf8": 1}, fields=LINE),
    "half a character at the end of lines": Bad(
        {"a.jsonl": ONE + '{"text": "ü'.encode()[:-1]}, ["one"], {"not_utf8": 1}
    ),
    "half a character at the end of cells": Bad({"a.csv": "text\none\nü".encode()[:-1]}, ["one"], {"not_utf8": 1}),
    "binary": Bad({"a.txt": NOISE, "b.txt": b"two"}, ["two"], {"not_utf8": 1}),
    "binary lines": Bad({"a.jsonl": NOISE + b"\n" + ONE}, ["one"], {"not_utf8": 40, "invalid_json": 1}),
}

SIZES: dict[str, Bad] = {
    "a line of 12 MB": Bad({"a.jsonl": texts(LONG, "one")}, [LONG, "one"]),
    "a cell of 12 MB": Bad({"a.csv": b'text\n"' + LONG.encode() + b'"\none\n'}, [LONG, "one"]),
    "a line that is too long": Bad(
        {"a.txt": b"x" * (LARGEST_ROW + 1) + b"\none\n"}, ["one"], {"too_long": 1}, fields=LINE
    ),
    "a gzip bomb": Bad({"a.txt.gz": gzip.compress(bytes(100 << 20), 1), "b.txt": b"two"}, ["two"], {"too_long": 1}),
    "a zstd bomb": Bad({"a.txt.zst": zstandard.compress(bytes(1 << 30)), "b.txt": b"two"}, ["two"], {"too_long": 1}),
    "two arrays": Bad(
        {"a.json": b'[{"text": "one"}]\n\n[{"text": "two"}]'}, error="a.json:1: more stands behind the array"
    ),
    "an array and noise": Bad({"a.json": b'\n[{"text":\n"one"}]\n x'}, error="a.json:3: more stands behind the array"),
    "two objects of rows": Bad({"a.json": b'{"data": [{"text": "one"}]}\n{"data": []}'}, error="a.json:1: more stands"),
    "an object of rows that stays open": Bad({"a.json": b'{"data": [{"text": "one"}], "n": 1'}, error="more stands"),
    "white space behind arrays": Bad(
        {
            "a.json": b'[{"text": "one"}]' + b" \n" * (2 << 20),
            "b.json": b'{"data": [{"text": "two"}], "n":\n [1]}' + b"\n" * (2 << 20),
        },
        ["one", "two"],
    ),
    "an array that never ends": Bad({"a.json": b"[" + b'"' + b"x" * (LARGEST_ROW + 1)}, error="is no whole JSON value"),
    "one huge object": Bad({"a.json": b'{"a":\n"' + b"x" * (LARGEST_ROW + 1) + b'"}'}, error="one huge object"),
    "a gzip archive cut short": Bad({"a.jsonl.gz": gzip.compress(NOISE * 9)[:-9]}, error="damaged or cut off"),
    "a zstd archive cut short": Bad({"a.jsonl.zst": zstandard.compress(NOISE * 9)[:-9]}, error="damaged or cut off"),
    "a bzip2 archive cut short": Bad({"a.jsonl.bz2": bz2.compress(NOISE * 9)[:-9]}, error="damaged or cut off"),
    "an archive with a flipped byte": Bad(
        {"a.txt.gz": gzip.compress(b"one" * 99)[:-6] + b"\0" * 6}, error="damaged or"
    ),
    "no archive": Bad({"a.txt.gz": b"one"}, error="damaged or cut off"),
    "an archive of nothing": Bad({"a.txt.gz": gzip.compress(b""), "b.txt": b"two"}, ["two"], {"empty_file": 1}),
    "garbage after an archive": Bad({"a.txt.gz": gzip.compress(b"one") + b"garbage"}, error="damaged or cut off"),
    "parquet cut short": Bad(
        {"a.parquet": parquet(("text", ["a"] * 99))[:-9]}, error="no whole parquet file after row 0"
    ),
    "no parquet": Bad({"a.parquet": b"text"}, error="no whole parquet file"),
    "an arrow stream cut short": Bad({"a.arrow": stream(pa.table({"text": ["a"]}))[:-8]}, error="no whole arrow file"),
    "an empty file first": Bad({"a.jsonl": b"", "b.jsonl": ONE, "c.jsonl": TWO}, ["one", "two"], {"empty_file": 1}),
    "an empty file between": Bad({"a.jsonl": ONE, "b.jsonl": b"", "c.jsonl": TWO}, ["one", "two"], {"empty_file": 1}),
    "an empty file last": Bad({"a.jsonl": ONE, "b.jsonl": TWO, "c.jsonl": b""}, ["one", "two"], {"empty_file": 1}),
    "blank files": Bad(
        {"a.jsonl": b"\n \n", "b.jsonl": ONE, "c.jsonl": b"\r\n", "d.txt": b" \n"},
        ["one"],
        {"empty_file": 2, "empty": 1},
    ),
    "files of no rows": Bad(
        {
            "a.csv": b"text\n",
            "b.json": b"[]",
            "c.parquet": parquet(("text", pa.array([], pa.string()))),
            "d.jsonl": ONE,
        },
        ["one"],
        {"empty_file": 3},
    ),
    "nothing but an empty file": Bad({"a.jsonl": b""}, error="empty_file: 1"),
    "blank lines between rows": Bad({"a.jsonl": b"\n" + ONE + b"\n \n" + TWO + b"\n"}, ["one", "two"]),
    "no line end at the end": Bad({"a.jsonl": ONE + TWO.strip()}, ["one", "two"]),
}

NAMES: dict[str, Bad] = {
    name: Bad({name: ONE}, ["one"])
    for name in (
        "a b.jsonl",
        "[1].jsonl",
        "a.b.c.jsonl",
        "äöü/ß.jsonl",
        "a*?.jsonl",
        "A.JSONL",
        "-a.jsonl",
        "'\".jsonl",
        "\n.jsonl",
    )
} | {
    "a name of another kind": Bad({"a.docx": b"PK\x03\x04"}, error="unknown kind of file"),
    "no ending": Bad({"data": ONE}, error="unknown kind of file"),
    "parquet that is called lines": Bad({"a.jsonl": parquet(("text", ["one"] * 9))}, error="not_utf8"),
}

PAGES: dict[str, Bad] = {
    "a page of no words": Bad({"a.html": b"<html><body></body></html>", "b.txt": b"two"}, ["two"], {"no_main_text": 1}),
    "a page nested 10,000 deep": Bad(
        {"a.html": b"<div>" * 10_000 + b"x", "b.txt": b"two"}, ["two"], {"no_main_text": 1}
    ),
    "a page of another encoding": Bad(
        {"a.html": "<p>ü</p>".encode("latin-1"), "b.txt": b"two"}, ["two"], {"not_utf8": 1}
    ),
    "front matter alone": Bad({"a.md": b"---\ntitle: a\n---\n", "b.md": b"two"}, ["two"], {"empty_file": 1}),
    "front matter without an end": Bad({"a.md": b"---\ntitle: a\none"}, ["---\ntitle: a\none"]),
}

BAD_FILES: dict[str, Bad] = ENCODINGS | SIZES | NAMES | PAGES
