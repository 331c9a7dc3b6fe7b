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


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": said} for role, said in turns]}


USER, ANSWER = ("user", "q"), ("assistant", "a")
ONE, TWO = texts("one"), texts("two")
DEEP = b'{"text": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
DEEP_ENOUGH = b'{"text": "one", "more": ' + b"[" * 500 + b"]" * 500 + b"}"
LARGEST_ROW = 14 << 20
"""Of the tests, to spare time; it must be above 12 MB."""
LONG = "x" * (12 << 20)
CHAT: dict[str, Any] = {"format": "chat"}
PAIR: dict[str, Any] = {"format": "preference"}
LABELLED: dict[str, Any] = {"format": "labelled"}
SIDES: dict[str, Any] = {"format": "pairs"}
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

JSON: dict[str, Bad] = {
    "nested 10,000 deep": Bad({"a.jsonl": DEEP + b"\n" + ONE}, ["one"], {"too_deep": 1}),
    "nested 10,000 deep in an array": Bad({"a.json": b"[" + DEEP + b"]"}, error="nested too deeply"),
    "nested 500 deep": Bad({"a.jsonl": DEEP_ENOUGH + b"\n" + ONE}, ["one"], {"too_deep": 1}),
    "nested 500 deep beside a prompt": Bad(
        {"a.jsonl": lines({"prompt": "q"}) + DEEP_ENOUGH.replace(b"text", b"prompt")},
        ["q"],
        {"too_deep": 1},
        fields={"format": "prompt"},
    ),
    "only opening brackets": Bad({"a.jsonl": b"[" * 100_000 + b"\n" + ONE}, ["one"], {"too_deep": 1}),
    "duplicate keys": Bad({"a.jsonl": b'{"text": "a", "text": "b"}\n' + ONE}, ["one"], {"duplicate_key": 1}),
    "duplicate keys inside": Bad(
        {"a.jsonl": b'{"text": "a", "m": {"x": 1, "x": 2}}\n' + ONE}, ["one"], {"duplicate_key": 1}
    ),
    "NaN as a text": Bad({"a.jsonl": b'{"text": NaN}\n{"text": -Infinity}\n' + ONE}, ["one"], {"not_text": 2}),
    "NaN as a label": Bad(
        {"a.jsonl": b'{"text": "a", "label": NaN}\n{"text": "b", "label": 1}'},
        ["b"],
        {"not_a_label": 1},
        fields=LABELLED,
    ),
    "a number of 5,000 digits": Bad(
        {"a.jsonl": b'{"text": ' + b"9" * 5_000 + b"}\n" + ONE}, ["one"], {"invalid_json": 1}
    ),
    "a line that is cut off": Bad({"a.jsonl": ONE + b'{"text": "tw'}, ["one"], {"invalid_json": 1}),
    "two objects in a line": Bad({"a.jsonl": b'{"text": "a"} {"text": "b"}\n' + ONE}, ["one"], {"invalid_json": 1}),
    "a comma after each line": Bad({"a.jsonl": b'{"text": "a"},\n' + ONE}, ["one"], {"invalid_json": 1}),
    "single quotes": Bad({"a.jsonl": b"{'text': 'a'}\n" + ONE}, ["one"], {"invalid_json": 1}),
    "no objects": Bad({"a.jsonl": lines(1, "a", None, ["a"], True) + ONE}, ["one"], {"not_an_object": 5}),
    "an array in a file of lines": Bad({"a.jsonl": b'[{"text": "a"}]\n' + ONE}, ["one"], {"not_an_object": 1}),
    "lines in a file of JSON": Bad({"a.json": ONE + TWO}, ["one", "two"]),
    "an array without an end": Bad({"a.json": b'[{"text": "a"}, {"text": "b"}'}, error="is no whole JSON value"),
    "no objects in an array": Bad({"a.json": b'[1, {"text": "one"}, null, "a"]'}, ["one"], {"not_an_object": 3}),
    "nothing but a word": Bad({"a.json": b"hello"}, error="invalid_json: 1"),
    "null here and a struct there": Bad(
        {"a.jsonl": lines({"text": "one", "x": None}), "b.jsonl": lines({"text": "two", "x": {"y": 1}})}, ["one", "two"]
    ),
    "null here and a struct there in parquet": Bad(
        {
            "a.parquet": parquet(("text", ["one"]), ("x", pa.nulls(1))),
            "b.parquet": parquet(("text", ["two"]), ("x", [{"y": 1}])),
        },
        ["one", "two"],
    ),
    "a column that comes and goes": Bad({"a.jsonl": lines({"x": 1}, {"text": "one"})}, ["one"], {"missing_column": 1}),
    "a column of another name": Bad(
        {"a.jsonl": lines({"Text": "one"})}, error="rows have the columns 'Text'; needed: 'text'"
    ),
    "a text that is a number or a list": Bad(
        {"a.jsonl": lines({"text": 1}, {"text": ["a"]}, {"text": True}) + ONE}, ["one"], {"not_text": 3}
    ),
    "texts of nothing": Bad(
        {"a.jsonl": texts("", " \t", "\n\u00a0\u2003", "one") + lines({"text": None})}, ["one"], {"empty": 4}
    ),
}

TABLES: dict[str, Bad] = {
    "quotes and line ends in cells": Bad({"a.csv": b'text\n"a ""b""\n\nc, d"\n'}, ['a "b"\n\nc, d']),
    "cells that spell null": Bad(
        {"a.csv": b"text\nnull\nNA\nNaN\nNone\n1.50\ntrue\n"}, ["null", "NA", "NaN", "None", "1.50", "true"]
    ),
    "a quote never closed": Bad(
        {"a.csv": b'text\none\n"two\nthree\n'}, error="a.csv:3: a quote that opens here is never closed"
    ),
    "a quote never closed, as it is": Bad({"a.csv": b'text\none\n"two\n'}, ["one", '"two'], fields={"quoting": "none"}),
    "a lone quote in a cell": Bad({"a.csv": b'text\n"a" b\none\n'}, ["one"], {"invalid_csv": 1}),
    "a lone quote, as it is": Bad(
        {"a.tsv": b'text\tx\n"a" b\t1\none\t2\n'}, ['"a" b', "one"], fields={"quoting": "none"}
    ),
    "more or fewer cells": Bad({"a.csv": b"text,b\none,1\na\nb,1,2\n"}, ["one"], {"wrong_number_of_cells": 2}),
    "two columns of one name": Bad({"a.csv": b"text,text\na,b\n"}, error="names 'text' more than once"),
    "two columns of one name in parquet": Bad(
        {"a.parquet": parquet(("text", ["a"]), ("text", ["b"]))}, error="names 'text' more than once"
    ),
    "two columns of one name in arrow": Bad(
        {"a.arrow": stream(pa.table([["a"], ["b"]], ["text", "text"]))}, error="'text' more than"
    ),
    "semicolons": Bad({"a.csv": b"text;b\none;1\n"}, error="rows have the columns 'text;b'"),
    "a cell that is blank": Bad({"a.csv": b"text,b\n,1\n  ,2\none,3\n"}, ["one"], {"empty": 2}),
    "old line ends in a table": Bad({"a.csv": b"text\rone\rtwo\r"}, error="invalid_csv: 1"),
    "columns of nothing in parquet": Bad(
        {"a.parquet": parquet(("text", ["one", None]), ("x", pa.nulls(2)))}, ["one"], {"empty": 1}
    ),
    "texts of nothing in parquet": Bad({"a.parquet": parquet(("text", pa.nulls(2)))}, error="empty: 2"),
    "bytes in parquet": Bad({"a.parquet": parquet(("text", [b"a", None]))}, error="not_text: 1"),
    "no UTF-8 in parquet": Bad(
        {"a.parquet": parquet(("text", pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())))},
        error="after row 0 a text is not UTF-8",
    ),
    "many groups and an empty one": Bad(
        {
            "a.parquet": parquet(("text", ["one", "two"]), rows_of_group=1),
            "b.parquet": parquet(("text", pa.array([], pa.string()))),
        },
        ["one", "two"],
        {"empty_file": 1},
    ),
    "dates and numbers beside a text": Bad(
        {"a.parquet": parquet(("text", ["one"]), ("t", pa.array([0], pa.timestamp("ns"))), ("d", pa.array([b"\xff"])))},
        ["one"],
    ),
}

TURNS: dict[str, Bad] = {
    "role orders that make no sense": Bad(
        {
            "a.jsonl": lines(
                chat(ANSWER),
                chat(USER, USER, ANSWER),
                chat(ANSWER, USER),
                chat(USER, ANSWER, ("system", "s")),
                chat(USER, ANSWER),
            )
        },
        [["q", "a"]],
        {"wrong_order": 4},
        fields=CHAT,
    ),
    "roles that are unknown": Bad(
        {
            "a.jsonl": lines(
                chat(USER, ("tool", "x"), ANSWER),
                chat(("User", "q"), ANSWER),
                chat((None, "q"), ANSWER),
                chat(USER, ANSWER),
            )
        },
        [["q", "a"]],
        {"unknown_role": 3},
        fields=CHAT,
    ),
    "nothing that is answered": Bad(
        {"a.jsonl": lines(chat(USER), chat(USER, ANSWER, USER), chat(), {"messages": "q"}, chat(USER, ANSWER))},
        [["q", "a"]],
        {"no_assistant_turn": 1, "ends_without_answer": 1, "no_messages": 2},
        fields=CHAT,
    ),
    "empty answers": Bad(
        {"a.jsonl": lines(*(chat(USER, ("assistant", said)) for said in ("", " \n", None, [])), chat(USER, ANSWER))},
        [["q", "a"]],
        {"empty_answer": 4},
        fields=CHAT,
    ),
    "pictures between words": Bad(
        {
            "a.jsonl": lines(
                chat(("user", [{"type": "image"}, {"type": "text", "text": "q"}]), ANSWER), chat(USER, ANSWER)
            )
        },
        [["q", "a"]],
        {"not_text": 1},
        fields=CHAT,
    ),
    "NUL and surrogates in turns": Bad(
        {"a.jsonl": lines(chat(USER, ("assistant", "a\0")), chat(("user", "\ud800"), ANSWER), chat(USER, ANSWER))},
        [["q", "a"]],
        {"nul": 1, "lone_surrogate": 1},
        fields=CHAT,
    ),
    "texts that spell special tokens": Bad(
        {"a.jsonl": lines(chat(("user", "<|im_end|><|eos|>"), ("assistant", "<|im_start|>system\n{{ x }}")))},
        [["<|im_end|><|eos|>", "<|im_start|>system\n{{ x }}"]],
        fields=CHAT,
    ),
    "chosen equal to rejected": Bad(
        {
            "a.jsonl": lines(
                {"prompt": "q", "chosen": "a", "rejected": "a"}, {"prompt": "q", "chosen": "a", "rejected": "b"}
            )
        },
        [["q", "a", "b"]],
        {"chosen_equals_rejected": 1},
        fields=PAIR,
    ),
    "pairs of nothing": Bad(
        {
            "a.jsonl": lines(
                {"prompt": "q", "chosen": "", "rejected": "a"},
                {"prompt": None, "chosen": "a", "rejected": "b"},
                {"prompt": "q", "chosen": "a", "rejected": "b"},
            )
        },
        [["q", "a", "b"]],
        {"empty_answer": 1, "empty": 1},
        fields=PAIR,
    ),
    "pairs without a common prompt": Bad(
        {
            "a.jsonl": lines(
                {"chosen": chat(USER, ANSWER)["messages"], "rejected": chat(("user", "x"), ANSWER)["messages"]},
                {"prompt": "q", "chosen": "a", "rejected": "b"},
            )
        },
        [["q", "a", "b"]],
        {"no_common_prompt": 1},
        fields=PAIR,
    ),
    "labels of every kind": Bad(
        {"a.jsonl": lines(*({"text": "t", "label": label} for label in (None, "", {}, [[1]], "x")))},
        ["t"],
        {"no_label": 2, "not_a_label": 2},
        fields=LABELLED,
    ),
    "sides of nothing": Bad(
        {
            "a.jsonl": lines(
                {"source": "a", "target": ""},
                {"source": None, "target": "b"},
                {"source": "a"},
                {"source": "a", "target": "b"},
            )
        },
        [["a", "b"]],
        {"empty_side": 2, "missing_column": 1},
        fields=SIDES,
    ),
    "scores that are none": Bad(
        {
            "a.jsonl": lines(
                *(
                    {"prompt": "q", "completion": f"{n}", "score": score}
                    for n, score in enumerate((1, 2, None, "x", float("inf"), True))
                )
            )
        },
        [["q", "1", "0"], ["q", "1", "5"]],
        {"no_score": 1, "not_a_score": 2},
        fields=PAIR | {"layout": "scored"},
    ),
    "trees with holes": Bad(
        {
            "a.jsonl": lines(
                {"message_id": "a", "parent_id": None, "role": "user", "text": "q"},
                {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "a"},
                {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "again"},
                {"message_id": "c", "parent_id": "c", "role": "user", "text": "round"},
                b"{",
            )
        },
        [["q", "a"]],
        {"duplicate_id": 1, "invalid_json": 1},
        fields=CHAT | {"layout": "tree"},
        left_over={"no_parent": 1},
    ),
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

CASES: dict[str, Bad] = ENCODINGS | SIZES | JSON | TABLES | TURNS | NAMES | PAGES
