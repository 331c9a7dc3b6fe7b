"""The tokens stage: rows of a dataset as ids, with their boundaries, on all cores."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.data.chat import ChatRenderer
from pipelines.data.formats import Row, num_bytes
from pipelines.data.rows import read_rows
from pipelines.data.tokens import SPLITS, TokenTable, TokenWriter
from pipelines.errors import DataError
from pipelines.plan.jobs import TokensJob
from pipelines.stages.base import Metrics, StageContext

CHECKED = 100
"""Rows whose trained text is decoded and compared with what the assistant says."""


def run(ctx: StageContext) -> Metrics:
    """Encode both splits; what is trained on is decoded again and compared before anything is written."""
    config = ctx.job.config
    assert isinstance(config, TokensJob)
    renderer = ChatRenderer.load(ctx.inputs["tokenizer"])
    ctx.output.mkdir(parents=True, exist_ok=True)
    writer = TokenWriter(ctx.output, format=config.format, vocab_size=renderer.vocab_size)
    size = 0
    for split in SPLITS:
        checked = 0
        for batch in read_rows(ctx.inputs["dataset"], split):
            if checked < CHECKED:
                check_trained_text(renderer, config.format, batch[: CHECKED - checked])
                checked += len(batch)
            writer.append(split, encode(renderer, config.format, batch))
            size += sum(num_bytes(config.format, row) for row in batch)
    writer.close()
    return _metrics(ctx.output, config.format, size)


def encode(renderer: ChatRenderer, format: str, rows: Sequence[Row]) -> dict[str, Sequence[object]]:
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
    return {
        "prompt_ids": renderer.prompts([row["prompt"] for row in rows]),
        "columns": [row["columns"] for row in rows],
        "prompt": [row["prompt"] for row in rows],
    }


def check_trained_text(renderer: ChatRenderer, format: str, rows: Sequence[Row]) -> None:
    """Raise DataError unless the tokens that are trained on spell exactly what the assistant says, turn by turn."""
    if format == "chat":
        conversations = [row["messages"] for row in rows]
    elif format == "preference":
        conversations = [[*row["prompt"], *row[side]] for row in rows for side in ("chosen", "rejected")]
    else:
        return
    for messages, (ids, mask) in zip(conversations, renderer.conversations(conversations), strict=True):
        said = [answer.strip() for answer in _answers(messages)]
        trained = [turn.strip() for turn in _trained_turns(renderer, ids, mask)]
        if said != trained:
            raise DataError(
                f"the chat template would train on {trained} where the assistant says {said}; "
                "correct the template's {% generation %} blocks"
            )


def _answers(messages: Sequence[Row]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "assistant"]


def _trained_turns(renderer: ChatRenderer, ids: Sequence[int], mask: Sequence[int]) -> list[str]:
    """The text of each run of trained tokens that ends with the end of a turn."""
    turns: list[list[int]] = [[]]
    for token, trained in zip(ids, mask, strict=True):
        if trained:
            turns[-1].append(token)
        if trained and token == renderer.end_of_turn_id:
            turns.append([])
    rest = turns.pop()
    return [renderer.decode(turn) for turn in turns] + ([renderer.decode(rest)] if rest else [])


def _metrics(folder: Path, format: str, size: int) -> Metrics:
    tables = {split: TokenTable.open(folder, split) for split in SPLITS}
    tokens = sum(table.tokens for table in tables.values())
    lengths = np.concatenate([row_lengths(table) for table in tables.values()])
    metrics: dict[str, float | int | str] = {
        "rows": len(lengths),
        "train_rows": len(tables["train"]),
        "train_tokens": tables["train"].tokens,
        "holdout_rows": len(tables["holdout"]),
        "tokens": tokens,
        "bytes": size,
        "bytes_per_token": round(size / max(1, tokens), 4),
        "longest": int(lengths.max(initial=0)),
        "empty_rows": int((lengths == 0).sum()),
    }
    for percent in (50, 90, 99):
        metrics[f"p{percent}_tokens"] = int(np.percentile(lengths, percent)) if len(lengths) else 0
    return metrics


def row_lengths(table: TokenTable) -> np.ndarray:
    """Tokens of each row; of a pair, its prompt with the longer side."""
    if "chosen_ids" in table.columns:
        return table.lengths("prompt_ids") + np.maximum(table.lengths("chosen_ids"), table.lengths("rejected_ids"))
    return table.lengths("input_ids" if "input_ids" in table.columns else "prompt_ids")
