"""The tokens stage: rows of a dataset as ids, with their boundaries, on all cores and machines."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.chat import TOKENIZER, ChatRenderer
from pipelines.data.formats import Row, num_bytes
from pipelines.data.labels import label_kind_of
from pipelines.data.rows import batches, read_group, row_groups
from pipelines.data.shards import grouped, make_shards
from pipelines.data.tokens import SPLITS, TokenTable, TokenWriter, merge
from pipelines.errors import DataError
from pipelines.plan.jobs import TokensJob
from pipelines.stages.base import Metrics, StageContext

CHECKED = 100
"""Rows of each split, in each shard, that are decoded again before they are written."""
LENGTHS = "lengths.json"
"""Of the record: a histogram of the training rows by their tokens."""
AT_ONCE = 2 << 20
"""Bytes of text that are encoded together: a number of Python takes ten times the memory of the text it stands for."""
SIZE = "size.json"
"""Of a shard: bytes of its texts."""
PLAIN: Mapping[str, Mapping[str, str]] = {
    "labelled": {"text_ids": "text", "pair_ids": "text_pair"},
    "pairs": {"source_ids": "source", "target_ids": "target"},
}
"""Columns of ids without control tokens, and the text that each of them says."""


def run(ctx: StageContext) -> Metrics:
    """Encode both splits, in shards; the first rows of each are decoded again and compared with what they come from."""
    config = ctx.job.config
    assert isinstance(config, TokensJob)
    dataset, tokenizer = ctx.inputs["dataset"], ctx.inputs["tokenizer"]
    ctx.output.mkdir(parents=True, exist_ok=True)
    groups = list(row_groups(dataset))
    common = {"dataset": str(dataset), "tokenizer": str(tokenizer), "format": config.format}
    parts = [
        common | {"groups": [[group.split, group.file, group.number] for group in part]}
        for part in ([groups[number] for number in numbers] for numbers in grouped([group.bytes for group in groups]))
    ]
    launch, made = ctx.launch, ctx.checkpoints / "parts" / "tokens"
    folders = make_shards(_part, parts, made, engine=launch.engine, workers=launch.workers, record=ctx.record)
    merge(folders, ctx.output, format=config.format, vocab_size=ChatRenderer.load(tokenizer).vocab_size)
    size = sum(json.loads((folder / SIZE).read_text())["bytes"] for folder in folders)
    lengths: dict[str, np.ndarray] = {split: row_lengths(TokenTable.open(ctx.output, split)) for split in SPLITS}
    ctx.record.mkdir(parents=True, exist_ok=True)
    (ctx.record / LENGTHS).write_text(json.dumps(histogram(lengths["train"])))
    return _metrics(ctx.output, config.format, size, lengths)


def _part(part: Mapping[str, Any], folder: Path) -> None:
    """Some row groups as a token table of their own."""
    file = Path(part["tokenizer"]) / TOKENIZER
    changed = file.stat().st_mtime_ns if file.is_file() else 0
    renderer, format = _renderer(str(file), changed), part["format"]
    renderer.check_again()  # what is proven by the texts of each part depends on no other part
    writer = TokenWriter(folder, format=format, vocab_size=renderer.vocab_size)
    size, checked = 0, dict.fromkeys(SPLITS, 0)
    for split, file, number in part["groups"]:
        rows = chain.from_iterable(read_group(Path(part["dataset"]) / file, number))
        for batch in batches(rows, size=partial(num_bytes, format), most=1024, total=AT_ONCE):
            encoded = encode(renderer, format, batch)
            for place in range(min(len(batch), max(0, CHECKED - checked[split]))):
                row = {column: values[place] for column, values in encoded.items()}
                check_row(renderer, format, batch[place], row)
            checked[split] += len(batch)
            writer.append(split, encoded)
            size += sum(encoded["num_bytes"] if format == "text" else (num_bytes(format, row) for row in batch))
    writer.close()
    (folder / SIZE).write_text(json.dumps({"bytes": size}))


@lru_cache(maxsize=1)
def _renderer(file: str, changed: int) -> ChatRenderer:
    """Once for all parts of a process: a tokenizer of that library gives back little of the memory that it took."""
    return ChatRenderer.load(Path(file).parent)


def encode(renderer: ChatRenderer, format: str, rows: Sequence[Row]) -> dict[str, Sequence[Any]]:
    """Normalised rows as the columns of a token table."""
    if format == "text":
        texts = [row["text"] for row in rows]
        return {"input_ids": renderer.documents(texts), "num_bytes": [len(text.encode()) for text in texts]}
    if format == "chat":
        encoded = renderer.conversations([row["messages"] for row in rows])
        return {
            "input_ids": [ids for ids, _ in encoded],
            "assistant_mask": [mask for _, mask in encoded],
            "num_bytes": [sum(len(answer.encode()) for answer in _answers(row["messages"])) for row in rows],
        }
    if format == "preference":
        pairs = renderer.pairs([(row["prompt"], row["chosen"], row["rejected"]) for row in rows])
        return dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), zip(*pairs, strict=True), strict=True))
    if format in PLAIN:
        named = PLAIN[format].items()
        columns: dict[str, Sequence[Any]] = {
            name: renderer.encode_texts([row[text] or "" for row in rows]) for name, text in named
        }
        if format == "labelled":
            columns["label"] = [json.loads(row["label"]) for row in rows]
        return columns
    return {
        "prompt_ids": renderer.prompts([row["prompt"] for row in rows]),
        "columns": [row["columns"] for row in rows],
        "prompt": [row["prompt"] for row in rows],
    }


def check_row(renderer: ChatRenderer, format: str, row: Row, encoded: Mapping[str, Any]) -> None:
    """Raise DataError unless the ids say what the row says, and are trained on where the assistant speaks.

    What a tokenizer made elsewhere says is not compared where it is known to change text."""
    if format in PLAIN:
        for name, text in PLAIN[format].items() if not renderer.changes_text else ():
            _same_text(f"the column {text}", row[text] or "", renderer.decode(encoded[name], skip_special=False))
        return
    ids = list(encoded["input_ids" if "input_ids" in encoded else "prompt_ids"])
    is_own = renderer.bos_id not in renderer.stop_ids  # one token may begin and end texts, as GPT-2's does
    if (is_own and ids.count(renderer.bos_id) != int(renderer.add_bos_token)) or (
        renderer.add_bos_token and ids[0] != renderer.bos_id
    ):
        raise DataError(
            f"{ids.count(renderer.bos_id)} BOS tokens where the tokenizer's policy wants one at the start, or none"
        )
    if format == "text":
        said = [] if renderer.changes_text else [row["text"]]
        _same("the text", said, [renderer.decode(ids)] if said else [], ids[-1], renderer.eos_id)
    elif format == "chat":
        trained = [token for token, on in zip(ids, encoded["assistant_mask"], strict=True) if on]
        said = _said(renderer, row["messages"])
        _same("what is trained", said, _turns(renderer, trained), trained[-1:], [renderer.end_of_turn_id])
    elif format == "preference":
        for side in ("chosen", "rejected"):
            trained = list(encoded[f"{side}_ids"])
            said = _said(renderer, row[side])
            _same(side, said, _turns(renderer, trained), trained[-1:], [renderer.end_of_turn_id])


def _same(what: str, said: list[str], decoded: list[str], last: object, end: object) -> None:
    if said != decoded or last != end:
        ending = "" if last == end else f", ending with token {last} instead of {end}"
        raise DataError(
            f"{what} decodes to {decoded!r:.300}{ending}, but the row says {said!r:.300}; correct the chat template"
        )


def _same_text(what: str, said: str, decoded: str) -> None:
    if said != decoded:
        raise DataError(
            f"{what} decodes to {decoded!r:.300}, but the row says {said!r:.300}; the tokenizer changes text, so make "
            "it again"
        )


def _answers(messages: Sequence[Row]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "assistant"]


def _said(renderer: ChatRenderer, messages: Sequence[Row]) -> list[str]:
    """What `_turns` must say; nothing but how many turns there are, where the tokenizer is known to change text."""
    return ["" if renderer.changes_text else answer.strip() for answer in _answers(messages)]


def _turns(renderer: ChatRenderer, ids: Sequence[int]) -> list[str]:
    """The text of each turn that these ids say; what stands after the last end of turn counts as one."""
    turns: list[list[int]] = [[]]
    for token in ids:
        turns[-1].append(token)
        if token == renderer.end_of_turn_id:
            turns.append([])
    return ["" if renderer.changes_text else renderer.decode(turn).strip() for turn in turns if turn]


def _metrics(folder: Path, format: str, size: int, lengths: Mapping[str, np.ndarray]) -> Metrics:
    tables = {split: TokenTable.open(folder, split) for split in SPLITS}
    kind = {"label_kind": label_kind_of([*tables.values()])} if format == "labelled" else {}
    tokens = sum(table.tokens for table in tables.values())
    both = np.concatenate([*lengths.values()])
    metrics: dict[str, float | int | str] = {
        "rows": len(both),
        "train_rows": len(tables["train"]),
        "train_tokens": tables["train"].tokens,
        "holdout_rows": len(tables["holdout"]),
        "tokens": tokens,
        "bytes": size,
        "bytes_per_token": round(size / max(1, tokens), 4),
        "longest": int(both.max(initial=0)),
        "empty_rows": int((both == 0).sum()),
    }
    for percent in (50, 90, 99):
        metrics[f"p{percent}_tokens"] = int(np.percentile(both, percent)) if len(both) else 0
    return metrics | kind


def histogram(lengths: np.ndarray) -> dict[str, list[int]]:
    """Rows by their tokens, four bins to each doubling: `edges` (n + 1) and `rows` (n); a row without tokens counts as
    one token long."""
    longest = max(2, int(lengths.max(initial=0)))
    edges = np.unique(np.round(2 ** (np.arange(4 * int(np.ceil(np.log2(longest + 1))) + 1) / 4)).astype(np.int64))
    edges = edges[: int(np.searchsorted(edges, longest, side="right")) + 1]
    rows, _ = np.histogram(lengths.clip(1), edges)
    return {"edges": edges.tolist(), "rows": rows.tolist()}


def row_lengths(table: TokenTable) -> np.ndarray:
    """Tokens of each row; of a preference pair, its prompt with the longer side."""
    if "chosen_ids" in table.columns:
        return table.lengths("prompt_ids") + np.maximum(table.lengths("chosen_ids"), table.lengths("rejected_ids"))
    if table.info["format"] in PLAIN:
        return sum((table.lengths(name) for name in PLAIN[table.info["format"]]), np.zeros(len(table), np.int64))
    return table.lengths("input_ids" if "input_ids" in table.columns else "prompt_ids")
