"""Rows with everything that goes wrong inside files that can be read, each with the outcome that it must have."""

from typing import Any

import pyarrow as pa
from bad_files import ONE, TWO, Bad, lines, parquet, stream, texts


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": said} for role, said in turns]}


USER, ANSWER = ("user", "q"), ("assistant", "a")
DEEP = b'{"text": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
DEEP_ENOUGH = b'{"text": "one", "more": ' + b"[" * 500 + b"]" * 500 + b"}"
CHAT: dict[str, Any] = {"format": "chat"}
PAIR: dict[str, Any] = {"format": "preference"}
LABELLED: dict[str, Any] = {"format": "labelled"}
SIDES: dict[str, Any] = {"format": "pairs"}

JSON: dict[str, Bad] = {
    "nested 10,000 deep": Bad({"a.jsonl": DEEP + b"\n" + ONE}, ["one"], {"too_deep": 1}),
    "nested 10,000 deep in an array": Bad(
        {"a.json": b"[" + DEEP + b',\n{"text": "one"}, ' + DEEP.replace(b"[", b'["]\\"", ') + b"\n]"},
        ["one"],
        {"too_deep": 2},
    ),
    "an array that ends inside one nested too deep": Bad({"a.json": b"[" + DEEP[:-20]}, error="no whole JSON value"),
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

BAD_ROWS: dict[str, Bad] = JSON | TABLES | TURNS
