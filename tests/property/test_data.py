"""What holds for every text, every conversation and every set of lengths."""

import gzip
import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from data_jobs import TEMPLATES, run_data
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data import blocks
from pipelines.data.chat import ChatRenderer
from pipelines.data.files import read_file
from pipelines.data.formats import Unusable, content, normaliser, num_bytes, said
from pipelines.data.labelled import kept_lengths
from pipelines.data.labels import kind_of, names_in
from pipelines.data.packing import pack_split, pack_whole
from pipelines.data.tokens import TokenTable, TokenWriter
from pipelines.errors import DataError
from pipelines.stages.tokenizer import add_bos, chat_template, save
from pipelines.stages.tokenizer_families import byte_level_bpe as train

EVERY_TEXT = st.text(st.characters(codec="utf-8"))
"""All planes, with control characters, private ones and those that are no characters."""
SPELLED = ["<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|end|>", "<|", "|>", "\n", " "]
SAID = st.lists(st.one_of(EVERY_TEXT, st.sampled_from(SPELLED)), max_size=6).map("".join)
QUICK = settings(max_examples=150, deadline=None)


@lru_cache
def renderer(name: str) -> ChatRenderer:
    template = chat_template(TEMPLATES / f"{name}.jinja", add_bos_token=True)
    tokenizer = train(
        iter(["user assistant system\n\n In the barn. äöü 日本語\n"] * 9),
        vocab_size=400,
        special_tokens=template.tokens,
    )
    add_bos(tokenizer)
    with TemporaryDirectory() as folder:
        save(Path(folder), tokenizer, template, add_bos_token=True)
        return ChatRenderer.load(Path(folder))


@given(SAID)
@settings(max_examples=500, deadline=None)
def test_every_text_comes_back_from_its_ids(text: str) -> None:
    render = renderer("chatml")
    ids = render.encode_text(text)
    assert render.decode(ids) == render.decode(ids, skip_special=False) == text
    assert render.document(text) == [0, *ids, 1]
    assert not set(ids) & set(render.tokenizer.get_added_tokens_decoder())


@pytest.mark.parametrize("name", ["chatml", "plain"])
@given(st.lists(st.tuples(SAID, SAID), min_size=1, max_size=3), st.one_of(st.none(), SAID))
@QUICK
def test_every_conversation_keeps_what_is_said_and_who_said_it(name: str, turns: Any, system: str | None) -> None:
    render = renderer(name)
    messages = [{"role": "system", "content": system}] if system is not None else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    ids, mask = render.conversation(messages)
    trained = [token for token, on in zip(ids, mask, strict=True) if on]
    assert render.decode(trained) == "".join(answer for _, answer in turns)
    assert trained.count(render.end_of_turn_id) == len(turns)
    assert (ids.count(render.bos_id), ids[0], ids[-1]) == (1, render.bos_id, render.end_of_turn_id)
    text = render.template.render(messages, add_generation_prompt=False)
    assert render.decode(ids, skip_special=False) == text
    prompt, chosen, _ = render.pair(messages[:-1], messages[-1:], [{"role": "assistant", "content": "x"}])
    assert prompt + chosen == ids


@given(st.lists(EVERY_TEXT, max_size=8), st.sampled_from([1, 3, 1 << 20]), st.booleans())
@QUICK
def test_lines_of_json_come_back_whatever_they_hold(texts: list[str], block: int, packed: bool) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", block)
        raw = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()
        path = Path(folder) / ("a.jsonl.gz" if packed else "a.jsonl")
        path.write_bytes(gzip.compress(raw, 0) if packed else raw)
        if texts:
            assert [item.row for item in read_file(path)] == [{"text": text} for text in texts]
            array = Path(folder) / "a.json"
            array.write_text(json.dumps([{"text": text} for text in texts], ensure_ascii=False), newline="")
            assert [item.row for item in read_file(array)] == [{"text": text} for text in texts]


FRAGMENTS = [
    *(
        b'{"text": "one"}\n',
        b'{"prompt": "q", "completion": "a", "score": 1}\n',
        b'"messages"',
        b'"replies"',
        b'"data"',
    ),
    *(b'{"message_id": 1, "parent_id": null, "role": "user", "text": "q"}\n', b'{"chosen": "a", "rejected": "b"}\n'),
    *(b'"text"', b"text", b"{", b"}", b"[", b"]", b'"', b":", b",", b"\t", b"\n", b"\r", b"\\", b"\\ud800", b"\\u0000"),
    *(b"null", b"NaN", b"1e999", b"true", b"a", b"\xc3\xbc", b"\xff", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"---\n"),
    *(b"title: x\n", b"<p>", b"<td>", b"<html>", b"<meta charset=utf-16>", b"<!--", b"\xe2\x80\xa8", b" "),
]
SHAPES: list[dict[str, Any]] = [
    *({"format": format} for format in ("text", "chat", "preference", "prompt", "labelled", "pairs")),
    *({"format": format, "layout": "tree"} for format in ("chat", "preference")),
    {"format": "preference", "layout": "scored"},
]


@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(b"".join),
    st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "md", "html"]),
    st.sampled_from(SHAPES),
    st.sampled_from([1, 5, 1 << 20]),
)
@QUICK
def test_files_of_any_bytes_are_rows_or_reasons_or_one_line(
    raw: bytes, kind: str, shape: dict[str, Any], block: int
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", block)
        path = Path(folder) / f"a.{kind}"
        path.write_bytes(raw)
        try:
            _, metrics = run_data(Path(folder) / "d", [path], holdout=0.0, max_dropped=1.0, **shape)
        except DataError as error:
            assert str(error)
        else:
            assert metrics["rows_in"] == metrics["rows_used"] + metrics["dropped"]  # type: ignore[operator]
            assert metrics["train"] == metrics["rows_used"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["user", "assistant", "a\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from"]), inner),
    max_leaves=8,
)
COLUMNS = ["text", "messages", "prompt", "completion", "chosen", "rejected", "conversations", "instruction", "output",
           "text_pair", "label", "source", "target"]  # fmt: skip


@pytest.mark.parametrize("format", ["text", "chat", "preference", "prompt", "labelled", "pairs"])
@given(st.dictionaries(st.sampled_from(COLUMNS), JSON))
@QUICK
def test_every_row_is_used_or_has_a_reason(format: str, row: dict[str, Any]) -> None:
    try:
        normal = normaliser(format, {})(row)
    except Unusable as error:
        assert error.reason
    else:
        content(format, normal).encode()
        assert num_bytes(format, normal) == len("".join(said(format, normal)).encode()) > 0


@given(st.fixed_dictionaries({"text": st.just("a"), "label": JSON}))
@QUICK
def test_every_label_is_of_one_kind_or_has_a_reason(row: dict[str, Any]) -> None:
    try:
        label = json.loads(normaliser("labelled", {})(row)["label"])
    except Unusable as error:
        assert error.reason in ("no_label", "not_a_label", "nul", "lone_surrogate")
    else:
        kind = kind_of(label)
        assert (kind == "regression") == isinstance(row["label"], float)
        assert (kind == "multi_label") == isinstance(row["label"], list)
        assert all(names_in(label)) and sorted(set(names_in(label))) == list(names_in(label))


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 40))
@QUICK
def test_tokens_are_taken_from_the_longer_text_one_by_one(text: int, pair: int, room: int) -> None:
    kept = [text, pair]
    while sum(kept) > room:
        kept[kept[0] <= kept[1]] -= 1
    assert kept_lengths(text, pair, room) == tuple(kept)


@pytest.mark.parametrize("pack", [pack_whole, pack_split])
@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 40))
@QUICK
def test_no_token_is_lost_and_none_is_repeated(pack: Any, lengths: list[int], max_length: int) -> None:
    packing = pack(np.array(lengths, np.int64), max_length)
    seen: Counter[tuple[int, int]] = Counter()
    for number, row in enumerate(packing):
        fill = sum(stop - start for _, start, stop in row)
        assert 0 < fill <= max_length
        assert pack is pack_whole or number == len(packing) - 1 or fill == max_length
        assert all(start < stop for _, start, stop in row)
        seen.update((document, token) for document, start, stop in row for token in range(start, stop))
    assert seen == Counter((document, token) for document, n in enumerate(lengths) for token in range(n))
    assert packing.tokens == sum(lengths)
    if pack is pack_whole:
        pieces = Counter(document for row in packing for document, _, _ in row)
        assert all(pieces[document] == -(-n // max_length) for document, n in enumerate(lengths))


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 69_999), max_size=5), EVERY_TEXT, JSON), max_size=12),
    st.integers(1, 10),
    st.integers(1, 5),
)
@QUICK
def test_a_table_gives_back_what_was_written(rows: list[Any], shard_tokens: int, batch: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        writer = TokenWriter(folder, format="prompt", vocab_size=70_000, shard_tokens=shard_tokens)
        rows = [(ids, text, value) for ids, text, value in rows if json.dumps(value).isascii()]
        for start in range(0, len(rows), batch):
            ids, texts, values = zip(*rows[start : start + batch], strict=True)
            writer.append("holdout", {"prompt_ids": ids, "columns": texts, "prompt": values})
        writer.close()
        table = TokenTable.open(folder, "holdout")
        found = [
            (row["prompt_ids"].tolist(), row["columns"], row["prompt"]) for row in map(table.row, range(len(table)))
        ]
        assert json.dumps(found) == json.dumps(rows)
