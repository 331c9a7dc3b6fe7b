"""Token tables: written in shards, read memory-mapped, and made by the tokens stage from every format."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_jobs import run_data, run_tokenizer, run_tokens, write_jsonl

from pipelines.data.chat import ChatRenderer
from pipelines.data.fast_bpe import FastBpe
from pipelines.data.row_writer import RowWriter
from pipelines.data.shards import grouped
from pipelines.data.tokens import TokenTable, TokenWriter
from pipelines.errors import ArtifactError, DataError
from pipelines.stages.tokens import _renderer, histogram

ROWS = [{"input_ids": list(range(1, n + 1)), "num_bytes": 10 * n} for n in (3, 0, 5, 1)]


def write(folder: Path, rows: list[dict[str, Any]] = ROWS, *, vocab_size: int = 100, shard_tokens: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    writer = TokenWriter(folder, format="text", vocab_size=vocab_size, shard_tokens=shard_tokens)
    for row in rows:
        writer.append("train", {column: [value] for column, value in row.items()})
    writer.close()
    return folder


def plain(row: dict[str, Any]) -> dict[str, Any]:
    return {column: value.tolist() if isinstance(value, np.ndarray) else value for column, value in row.items()}


@pytest.mark.parametrize("shard_tokens", [1, 4, 1000])
def test_rows_come_back_from_any_number_of_shards(shard_tokens: int, tmp_path: Path) -> None:
    table = TokenTable.open(write(tmp_path, shard_tokens=shard_tokens), "train")
    assert [plain(table.row(i)) for i in range(len(table))] == ROWS
    assert table.lengths("input_ids").tolist() == [3, 0, 5, 1]
    assert table.lengths("num_bytes").tolist() == [30, 0, 50, 10]
    assert table.lengths("input_ids").dtype == np.int64
    assert table.tokens == 9
    assert len(TokenTable.open(tmp_path, "holdout")) == 0
    for row in (4, -1):
        with pytest.raises(IndexError):
            table.ids("input_ids", row)


def test_a_table_travels_by_its_place(tmp_path: Path) -> None:
    rows = [{"input_ids": [7] * 50_000, "num_bytes": 1}]
    table = TokenTable.open(write(tmp_path, rows), "train")
    make, *sent = table.__reduce_ex__(4)  # what is written down for another process, and how that makes it again
    assert sent == [(tmp_path, "train")]
    assert plain(make(*sent[0]).row(0)) == rows[0]


def test_ids_are_read_only_views(tmp_path: Path) -> None:
    ids = TokenTable.open(write(tmp_path), "train").ids("input_ids", 0)
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 9


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32"), (70_000, "uint32")])
def test_the_type_follows_the_vocabulary(vocab_size: int, dtype: str, tmp_path: Path) -> None:
    rows = [{"input_ids": [0, vocab_size - 1], "num_bytes": 1}]
    table = TokenTable.open(write(tmp_path, rows, vocab_size=vocab_size), "train")
    assert table.ids("input_ids", 0).tolist() == [0, vocab_size - 1]
    assert table.ids("input_ids", 0).dtype == dtype


@pytest.mark.parametrize("token", [100, -1])
def test_an_id_outside_the_vocabulary_is_never_written(token: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit a vocabulary of 100"):
        write(tmp_path, [{"input_ids": [token], "num_bytes": 1}])


def test_rows_that_do_not_fit_together_are_never_written(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path, format="text", vocab_size=9)
    for rows in ({"input_ids": [[1]]}, {"input_ids": [[1]], "num_bytes": [1, 2]}):
        with pytest.raises(ValueError, match="equally many"):
            writer.append("train", rows)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no tokens artifact"):
        TokenTable.open(tmp_path, "train")


# --- the stage -----------------------------------------------------------------------------------------------------

CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Where is the drum {i}?"},
            {"role": "assistant", "content": f"In the bärn {i}."},
        ]
    }
    for i in range(30)
]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chats")
    return run_data(folder, [write_jsonl(folder / "a.jsonl", CHATS)], format="chat", holdout=0.2)[0]


@pytest.fixture(scope="module")
def tokenizer(chats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_tokenizer(tmp_path_factory.mktemp("tokenizer"), {chats: 1.0}, chat_template="plain")[0]


def encoded(tmp_path: Path, tokenizer: Path, format: str, rows: list[Any]) -> TokenTable:
    data, _ = run_data(tmp_path / "d", [write_jsonl(tmp_path / "a.jsonl", rows)], format=format, holdout=0.0)
    return TokenTable.open(run_tokens(tmp_path / "t", data, tokenizer, format)[0], "train")


def test_documents_start_with_bos_and_end_with_eos(tokenizer: Path, tmp_path: Path) -> None:
    renderer = ChatRenderer.load(tokenizer)
    texts = ["The drum.", "Wörter <|eos|> 😀\r\n"]
    table = encoded(tmp_path, tokenizer, "text", [{"text": text} for text in texts])
    for i, text in enumerate(texts):
        ids = table.ids("input_ids", i).tolist()
        assert (ids[0], ids[-1]) == (renderer.bos_id, renderer.eos_id)
        assert ids.count(renderer.eos_id) == 1
        assert renderer.decode(ids) == text
        assert table.value("num_bytes", i) == len(text.encode())


def test_conversations_keep_their_mask_and_what_it_covers(chats: Path, tokenizer: Path, tmp_path: Path) -> None:
    renderer = ChatRenderer.load(tokenizer)
    output, metrics = run_tokens(tmp_path, chats, tokenizer, "chat")
    train, holdout = TokenTable.open(output, "train"), TokenTable.open(output, "holdout")
    assert (len(train), len(holdout)) == (metrics["train_rows"], metrics["holdout_rows"])
    assert len(train) + len(holdout) == metrics["rows"] == len(CHATS)
    assert metrics["tokens"] == train.lengths("input_ids").sum() + holdout.lengths("input_ids").sum()
    seen = set()
    for table in (train, holdout):
        for i in range(len(table)):
            row = table.row(i)
            answer = renderer.decode(row["input_ids"][row["assistant_mask"].astype(bool)])
            assert row["num_bytes"] == len(answer.encode())
            seen.add(answer)
    assert seen == {chat["messages"][1]["content"] for chat in CHATS}


def test_pairs_share_their_prompt(tokenizer: Path, tmp_path: Path) -> None:
    renderer = ChatRenderer.load(tokenizer)
    table = encoded(tmp_path, tokenizer, "preference", [{"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}])
    row = {column: value.tolist() for column, value in table.row(0).items()}
    user, yes = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}
    assert row["prompt_ids"] == renderer.prompt([user])
    assert row["prompt_ids"] + row["chosen_ids"] == renderer.conversation([user, yes])[0]
    assert renderer.decode(row["rejected_ids"], False) == "No.<|end|>"


def test_prompts_keep_their_messages_and_columns(tokenizer: Path, tmp_path: Path) -> None:
    table = encoded(tmp_path, tokenizer, "prompt", [{"prompt": "Hi\u2028?", "length": 3, "who": "Ä\ud800"}])
    row = table.row(0)
    assert row["prompt"] == [{"role": "user", "content": "Hi\u2028?"}]
    assert json.loads(row["columns"]) == {"length": 3, "who": "Ä\ud800"}
    assert row["prompt_ids"].tolist() == ChatRenderer.load(tokenizer).prompt(row["prompt"])


def test_labelled_texts_have_no_control_tokens_and_keep_their_labels(tokenizer: Path, tmp_path: Path) -> None:
    rows = [
        {"text": "The <|eos|> drum.", "label": ["b", "a"]},
        {"text": " Wörter 😀\r\n", "text_pair": "In the bärn.", "label": []},
    ]
    renderer, table = ChatRenderer.load(tokenizer), encoded(tmp_path, tokenizer, "labelled", rows)
    assert [table.value("label", i) for i in range(2)] == [["a", "b"], []]
    for i, row in enumerate(rows):
        for column, name in (("text_ids", "text"), ("pair_ids", "text_pair")):
            ids = table.ids(column, i).tolist()
            assert ids == renderer.encode_text(row.get(name, ""))
            assert renderer.decode(ids, skip_special=False) == row.get(name, "")
    assert table.lengths("pair_ids").tolist() == [0, len(renderer.encode_text("In the bärn."))]


def test_sources_and_targets_have_no_control_tokens(tokenizer: Path, tmp_path: Path) -> None:
    renderer = ChatRenderer.load(tokenizer)
    table = encoded(tmp_path, tokenizer, "pairs", [{"source": "The drum.", "target": "tama"}])
    assert plain(table.row(0)) == {
        "source_ids": renderer.encode_text("The drum."),
        "target_ids": renderer.encode_text("tama"),
    }


def test_metrics_count_both_texts_of_a_row(tokenizer: Path, tmp_path: Path) -> None:
    renderer = ChatRenderer.load(tokenizer)
    rows = [{"text": "The drum.", "text_pair": "In the barn.", "label": 0.5}, {"text": "Drum.", "label": 1.0}]
    data, _ = run_data(tmp_path / "d", [write_jsonl(tmp_path / "a.jsonl", rows)], format="labelled", holdout=0.0)
    _, metrics = run_tokens(tmp_path / "t", data, tokenizer, "labelled")
    sizes = [len(renderer.encode_text(text)) for text in ("The drum.", "In the barn.", "Drum.")]
    assert (metrics["tokens"], metrics["longest"]) == (sum(sizes), sizes[0] + sizes[1])
    assert (metrics["bytes"], metrics["label_kind"]) == (26, "regression")


def test_lengths_of_training_rows_are_counted(tokenizer: Path, tmp_path: Path) -> None:
    data, _ = run_data(tmp_path / "d", [write_jsonl(tmp_path / "d.jsonl", [{"text": "a" * n} for n in range(1, 40)])])
    output, metrics = run_tokens(tmp_path / "t", data, tokenizer, "text")
    found = json.loads((tmp_path / "t/record/lengths.json").read_text())
    lengths = TokenTable.open(output, "train").lengths("input_ids")
    assert sum(found["rows"]) == metrics["train_rows"] == len(lengths)
    assert len(found["edges"]) == len(found["rows"]) + 1 and found["rows"][-1] > 0
    for low, high, rows in zip(found["edges"], found["edges"][1:], found["rows"], strict=False):
        last = high == found["edges"][-1]
        assert ((lengths >= low) & (lengths <= high if last else lengths < high)).sum() == rows


@pytest.mark.parametrize("lengths", [[], [0], [1, 1], [0, 5, 1_000_000], [2, 3, 4]])
def test_every_row_is_in_the_histogram(lengths: list[int]) -> None:
    found = histogram(np.array(lengths, np.int64))
    assert sum(found["rows"]) == len(lengths) and found["edges"] == sorted(set(found["edges"]))


def test_labels_of_two_types_stop_the_job(tokenizer: Path, tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": 4} for i in range(9)] + [{"text": "x", "label": 4.5}]
    data, _ = run_data(tmp_path / "d", [write_jsonl(tmp_path / "a.jsonl", rows)], format="labelled", holdout=0.0)
    with pytest.raises(DataError, match=r"'4' \(row 1 of train in .*\) is single_label, 4\.5 \(row 10 of train"):
        run_tokens(tmp_path / "t", data, tokenizer, "labelled")


def test_many_batches_and_shards_give_the_same_rows(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"drum {i}"} for i in range(2_500)]
    renderer = ChatRenderer.load(tokenizer)
    monkeypatch.setattr(TokenWriter.__init__, "__kwdefaults__", {"shard_tokens": 3_000})
    table = encoded(tmp_path, tokenizer, "text", rows)
    assert len(table.shards) == 3
    for i in (0, 1_023, 1_024, 2_499):
        assert table.ids("input_ids", i).tolist() == renderer.document(f"drum {i}")


def test_a_column_of_json_is_read_from_its_first_row_to_its_last(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipelines.data.tokens.MOST_KNOWN", 2)
    labels = ["a", ["ü", "b"], [], 1.5, "a", "c", "ü", "a"]
    writer = TokenWriter(tmp_path, format="labelled", vocab_size=100, shard_tokens=3)
    for start in range(0, len(labels), 2):
        rows = labels[start : start + 2]
        writer.append("train", {"text_ids": [[9, 8]] * 2, "pair_ids": [[]] * 2, "label": rows})
    writer.close()
    table = TokenTable.open(tmp_path, "train")
    assert len(table.shards) > 1
    assert list(table.json_values("label")) == labels == [table.value("label", row) for row in range(len(table))]
    assert list(TokenTable.open(tmp_path, "holdout").json_values("label")) == []


def test_a_process_reads_a_tokenizer_once_for_all_parts_and_proves_it_in_each(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the library takes for one it does not give back: hundreds of parts would fill the memory."""
    monkeypatch.setattr(RowWriter, "BATCH_ROWS", 300)
    monkeypatch.setattr(grouped, "__defaults__", (1,))
    proven, agrees = list[int](), FastBpe.agrees
    monkeypatch.setattr(FastBpe, "agrees", lambda *given: proven.append(1) or agrees(*given))
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer, folder)
    _renderer.cache_clear()
    encoded(tmp_path, folder, "text", [{"text": f"drum {i}"} for i in range(900)])
    assert len(proven) == 3 and _renderer.cache_info().misses == 1
    (folder / "tokenizer.json").touch()  # made again: another one
    (tmp_path / "again").mkdir()
    encoded(tmp_path / "again", folder, "text", [{"text": "drum"}])
    assert _renderer.cache_info().misses == 2
