"""Bugs that ruin a run without a sound, planted one by one: the pipeline must refuse, or must be immune."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_jobs import run_data, run_tokenizer, run_tokens, write_jsonl
from tokenizers import Tokenizer, normalizers

from pipelines.data import tokens as tables
from pipelines.data.chat import ChatRenderer
from pipelines.data.rows import read_rows
from pipelines.data.tokens import TokenTable, TokenWriter
from pipelines.errors import ArtifactError, DataError

TURNS = [{"role": "user", "content": "Where is the drum?"}, {"role": "assistant", "content": "In the barn."}]
ROWS: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": f"The drum is in the barn {i}."} for i in range(20)],
    "chat": [{"messages": [*TURNS, *TURNS]}] * 20,
    "preference": [{"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}] * 20,
    "prompt": [{"prompt": "Hi?", "length": 3}] * 20,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {
        format: run_data(folder / format, [write_jsonl(folder / f"{format}.jsonl", rows)], format=format, holdout=0.0)[
            0
        ]
        for format, rows in ROWS.items()
    }


@pytest.fixture(scope="module")
def tokenizer(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_tokenizer(tmp_path_factory.mktemp("tokenizer"), {data["text"]: 0.5, data["chat"]: 0.5})[0]


def planted(monkeypatch: pytest.MonkeyPatch, method: str, spoil: Callable[[Any, Any], Any]) -> None:
    """Let a method of ChatRenderer return what `spoil(renderer, result)` makes of it."""
    honest = getattr(ChatRenderer, method)
    monkeypatch.setattr(ChatRenderer, method, lambda self, *args: spoil(self, honest(self, *args)))


@pytest.mark.parametrize("format", ROWS)
@pytest.mark.parametrize("bos", [0, 2])
def test_1_and_2_bos_twice_or_never(
    format: str, bos: int, data: dict[str, Path], tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChatRenderer, "_bos", [0] * bos)
    with pytest.raises(DataError, match=f"{bos} BOS tokens"):
        run_tokens(tmp_path, data[format], tokenizer, format)


def test_2_every_path_gives_the_same_ids(tokenizer: Path) -> None:
    from transformers import AutoTokenizer

    text, theirs, ours = (
        "The drum is in the barn.",
        AutoTokenizer.from_pretrained(tokenizer),
        ChatRenderer.load(tokenizer),
    )
    chat = theirs.apply_chat_template(TURNS, return_dict=True)["input_ids"]
    string = theirs.apply_chat_template(TURNS, tokenize=False)
    assert ours.document(text)[:-1] == ours.documents([text]).tolist()[0][:-1] == theirs(text).input_ids
    assert ours.conversation(TURNS)[0] == chat == theirs(string, add_special_tokens=False).input_ids
    prompt, chosen, _ = ours.pair(TURNS[:1], TURNS[1:], TURNS[1:])
    assert prompt + chosen == chat


def test_3_pad_is_never_eos_and_every_answer_ends(tokenizer: Path) -> None:
    renderer = ChatRenderer.load(tokenizer)
    assert len({renderer.pad_id, renderer.eos_id, renderer.bos_id, renderer.end_of_turn_id}) == 4
    ids, mask = renderer.conversation(TURNS + TURNS)
    ends = [
        on
        for token, on, before in zip(ids[1:], mask[1:], mask, strict=False)
        if token == renderer.end_of_turn_id and before
    ]
    assert ends == [1, 1]


def test_3_the_end_of_the_turn_lost_from_the_mask(
    data: dict[str, Path], tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unended(self: ChatRenderer, rows: Any) -> Any:
        return [
            (ids, [on * (token != self.end_of_turn_id) for token, on in zip(ids, mask, strict=True)])
            for ids, mask in rows
        ]

    planted(monkeypatch, "conversations", unended)
    with pytest.raises(DataError, match="ending with token"):
        run_tokens(tmp_path, data["chat"], tokenizer, "chat")


def test_4_a_stop_token_that_the_template_does_not_write(tokenizer: Path, tmp_path: Path) -> None:
    for file in tokenizer.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    info = json.loads((tmp_path / "info.json").read_text())
    (tmp_path / "info.json").write_text(json.dumps(info | {"end_of_turn_id": info["eos_id"]}))
    with pytest.raises(ArtifactError, match=r"ends a turn with <\|im_end\|>"):
        ChatRenderer.load(tmp_path).conversation(TURNS)


@pytest.mark.parametrize(
    "mask",
    [
        lambda mask: [0] * len(mask),
        lambda mask: [1] * len(mask),
        lambda mask: [1 - on for on in mask],
        lambda mask: [0, *mask[:-1]],
    ],
    ids=["nothing", "everything", "the other side", "off by one"],
)
def test_5_6_9_and_11_a_mask_that_is_lost_or_moved(
    mask: Any, data: dict[str, Path], tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, "conversations", lambda self, rows: [(ids, mask(on)) for ids, on in rows])
    with pytest.raises(DataError, match="what is trained decodes to"):
        run_tokens(tmp_path, data["chat"], tokenizer, "chat")


def test_7_a_merge_across_the_place_where_the_answer_starts(tokenizer: Path) -> None:
    renderer = ChatRenderer.load(tokenizer)
    draw = np.random.default_rng(0)
    letters = ["\n", " ", "  ", "s", "'s", "drum", "1", "ä", "."]
    for _ in range(2_000):
        answer = "".join(draw.choice(letters, 3))
        prompt = renderer.prompt(TURNS[:1])
        ids, mask = renderer.conversation([TURNS[0], {"role": "assistant", "content": answer}])
        assert ids[: len(prompt)] == prompt
        assert mask == [0] * len(prompt) + [1] * (len(ids) - len(prompt))
        assert ids[len(prompt) :] == [*renderer.encode_text(answer), renderer.end_of_turn_id]


def test_14_ids_beyond_the_vocabulary(
    data: dict[str, Path], tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, "documents", lambda self, rows: [[*ids[:-1], self.vocab_size, ids[-1]] for ids in rows])
    monkeypatch.setattr("pipelines.stages.tokens.CHECKED", 0)
    with pytest.raises(ValueError, match="does not fit a vocabulary"):
        run_tokens(tmp_path, data["text"], tokenizer, "text")


def test_16_ids_that_wrap_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "dtype_of", lambda vocab_size: "<u2")
    writer = TokenWriter(tmp_path, format="text", vocab_size=70_000)
    with pytest.raises(ValueError, match="69999 does not fit"):
        writer.append("train", {"input_ids": [[69_999]], "num_bytes": [1]})


def _meta(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    change(meta)
    (folder / "meta.json").write_text(json.dumps(meta))


def _write(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)


def _swap(path: Path) -> None:
    offsets = np.fromfile(path, "<i8")
    offsets[[5, 6]] = offsets[[6, 5]]
    offsets.tofile(path)


CORRUPTIONS: dict[str, Callable[[Path], Any]] = {
    "cut off": lambda f: _write(f / "train-input_ids-00000.bin", (f / "train-input_ids-00000.bin").read_bytes()[:-1]),
    "too long": lambda f: _write(
        f / "train-input_ids-00000.bin", (f / "train-input_ids-00000.bin").read_bytes() + b"x"
    ),
    "missing": lambda f: (f / "train-num_bytes-00000.bin").unlink(),
    "offsets cut off": lambda f: _write(f / "train-input_ids-00000.offsets", bytes(8)),
    "offsets out of order": lambda f: _swap(f / "train-input_ids-00000.offsets"),
    "another type": lambda f: _meta(f, lambda meta: meta.update(dtype="<u4")),
    "another vocabulary": lambda f: _meta(f, lambda meta: meta.update(vocab_size=70_000)),
    "fewer rows": lambda f: _meta(f, lambda meta: meta["splits"]["train"].update(rows=3)),
    "no JSON": lambda f: _write(f / "meta.json", b"{"),
    "no meta": lambda f: (f / "meta.json").unlink(),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_17_damaged_shards(corruption: str, data: dict[str, Path], tokenizer: Path, tmp_path: Path) -> None:
    output, _ = run_tokens(tmp_path, data["text"], tokenizer, "text")
    assert len(TokenTable.open(output, "train")) == 20
    CORRUPTIONS[corruption](output)
    with pytest.raises(ArtifactError, match="make it again"):
        TokenTable.open(output, "train")


BAD_LINES = {
    "invalid_json": [b"{", b'{"messages": [}', b"not json"],
    "not_an_object": [b"[]", b"1", b'"text"', b"null"],
    "duplicate_key": [b'{"messages": [], "messages": []}'],
    "not_utf8": [b'{"messages": "\xff"}', b"\xc3\x28"],
    "missing_column": [b"{}", b'{"text": "a"}'],
    "no_messages": [b'{"messages": []}', b'{"messages": "hi"}', b'{"messages": [1]}', b'{"messages": null}'],
    "unknown_role": [
        b'{"messages": [{"role": "tool", "content": "a"}]}',
        b'{"messages": [{"content": "a"}]}',
        b'{"messages": [{"role": null, "content": "a"}]}',
    ],
}
_U, _A = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
BAD_CHATS: dict[str, list[list[dict[str, Any]]]] = {
    "wrong_order": [[_A], [_A, _U], [_U, _U, _A], [_U, _A, _A], [_U, {"role": "system", "content": "s"}, _A]],
    "no_assistant_turn": [[_U], [_U, _U]],
    "ends_without_answer": [[_U, _A, _U]],
    "empty_answer": [[_U, _A | {"content": text}] for text in ("", " ", "\n\t", None)],
    "empty": [[_U | {"content": text}, _A] for text in ("", "  ", None)],
    "not_text": [[_U, _A | {"content": value}] for value in (1, 1.5, True, {"a": 1}, [1])],
    "nul": [[_U, _A | {"content": "a\0"}], [_U | {"content": "\0"}, _A]],
    "lone_surrogate": [[_U, _A | {"content": "\ud800"}], [_U | {"content": "x\udfff"}, _A]],
}


def test_18_a_corpus_of_bad_rows(tmp_path: Path) -> None:
    lines = [(reason, line) for reason, lines in BAD_LINES.items() for line in lines]
    lines += [(why, json.dumps({"messages": row}).encode()) for why, rows in BAD_CHATS.items() for row in rows]
    good = json.dumps({"messages": [_U, _A]}).encode()
    # One good row before each bad one: nothing that is bad may take its neighbours with it.
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(part for _, line in lines for part in (good, line)))
    output, metrics = run_data(tmp_path / "d", [tmp_path / "a.jsonl"], format="chat", max_dropped=0.5, holdout=0.0)
    info = json.loads((output / "info.json").read_text())
    expected: dict[str, int] = {}
    for reason, _ in lines:
        expected[reason] = expected.get(reason, 0) + 1
    assert info["dropped"] == expected
    assert metrics["rows_in"] == 2 * len(lines)
    assert metrics["rows_used"] == metrics["train"] == metrics["dropped"] == len(lines)
    assert [place["line"] for place in info["first_dropped"]] == list(range(2, 22, 2))
    with pytest.raises(DataError, match=f"{len(lines)} of {2 * len(lines)} rows cannot be used"):
        run_data(tmp_path / "e", [tmp_path / "a.jsonl"], format="chat", max_dropped=0.49)


def test_19_a_tokenizer_that_changes_text(data: dict[str, Path], tokenizer: Path, tmp_path: Path) -> None:
    lossy = shutil.copytree(tokenizer, tmp_path / "lossy")
    changed = Tokenizer.from_file(str(lossy / "tokenizer.json"))
    changed.normalizer = normalizers.Lowercase()
    changed.save(str(lossy / "tokenizer.json"))
    with pytest.raises(DataError, match="the text decodes to"):
        run_tokens(tmp_path / "t", data["text"], lossy, "text")


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("labelled", {"text": "The drum.", "text_pair": "A kite.", "label": 1}),
        ("pairs", {"source": "a", "target": "b"}),
    ],
)
@pytest.mark.parametrize("spoil", [lambda ids: [0, *ids], lambda ids: [*ids, 1], lambda ids: ids[:-1]])
def test_1_and_19_plain_columns_with_control_tokens_or_other_text(
    spoil: Any, format: str, row: dict[str, Any], tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = run_data(tmp_path / "d", [write_jsonl(tmp_path / "a.jsonl", [row])], format=format, holdout=0.0)
    run_tokens(tmp_path / "good", folder, tokenizer, format)
    planted(monkeypatch, "encode_texts", lambda self, many: [spoil(ids) for ids in many])
    with pytest.raises(DataError, match=r"the column (text|source) decodes to"):
        run_tokens(tmp_path / "bad", folder, tokenizer, format)


def test_22_the_same_row_on_both_sides(tmp_path: Path) -> None:
    rows = [{"text": f"row {i % 300}", "id": i} for i in range(900)]
    output, _ = run_data(tmp_path / "d", [write_jsonl(tmp_path / "a.jsonl", rows)], holdout=0.3)
    sides = [{row["text"] for batch in read_rows(output, split) for row in batch} for split in ("train", "holdout")]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
