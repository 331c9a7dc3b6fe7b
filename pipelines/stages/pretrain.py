"""Stage `pretrain`: next-token prediction on packed text."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from pipelines.data.collate import PackedRows
from pipelines.data.packing import pack_split, pack_whole
from pipelines.data.schedule import mixed
from pipelines.recipe.stages import PretrainStage
from pipelines.stages.base import Metrics, StageContext
from pipelines.training.arguments import num_steps, training_arguments
from pipelines.training.holdout import TextHoldout, text_scores
from pipelines.training.inputs import Source, causal_lm, check_batch, fresh_model, longest, sources, tokens_of
from pipelines.training.session import Clock, exact_run, finish, seed_of
from pipelines.training.trainers import PretrainTrainer

PACKERS = {"whole": pack_whole, "split": pack_split}


def run(ctx: StageContext) -> Metrics:
    """From random weights, or on from those of another stage."""
    clock, config = Clock(), _config(ctx)
    tokens = tokens_of(ctx.inputs["tokenizer"])
    if ctx.job.model is not None:
        model = fresh_model(ctx.job.model, tokens, seed_of(ctx))
    else:
        model = causal_lm(ctx.inputs["model"], tokens, base=ctx.inputs.get("model.base"))
    max_length = longest(config, model)
    mix = sources(ctx, model.config.vocab_size)
    pack = PACKERS[config.packing]
    rows = PackedRows([(source.train, pack(source.train.lengths("input_ids"), max_length)) for source in mix])
    shares, tokens_per_row = _row_shares(rows, mix)
    schedule = mixed(rows.sizes, shares, seed_of(ctx))
    steps = num_steps(
        config.duration, rows=len(rows), tokens_per_row=tokens_per_row, global_batch_size=config.global_batch_size
    )
    check_batch(model, rows, schedule(np.arange(config.global_batch_size)).tolist())
    holdouts = [TextHoldout.of(source.name, source.share, source.holdout, max_length) for source in mix]
    found = [holdout for holdout in holdouts if holdout is not None]
    score = partial(text_scores, holdouts=found, pad_id=tokens.pad_id, eos_id=tokens.eos_id) if found else None
    trainer = PretrainTrainer(
        model=model,
        args=training_arguments(config, ctx.launch, output_dir=ctx.checkpoints, max_steps=steps, seed=seed_of(ctx)),
        rows=rows,
        exact=exact_run(ctx, schedule, score),
        pad_id=tokens.pad_id,
    )
    return {**finish(ctx, trainer, model, clock), **_account(rows, mix, steps * config.global_batch_size)}


def _config(ctx: StageContext) -> PretrainStage:
    assert isinstance(ctx.job.config, PretrainStage)
    return ctx.job.config


def _row_shares(rows: PackedRows, mix: list[Source]) -> tuple[list[float], float]:
    """The recipe's shares are of tokens; the schedule deals rows. Also the mean of real tokens in a row."""
    starts = np.cumsum([0, *rows.sizes])
    means = [float(rows.lengths[a:b].mean()) for a, b in pairwise(starts)]
    weights = [source.share / mean for source, mean in zip(mix, means, strict=True)]
    shares = [weight / sum(weights) for weight in weights]
    return shares, sum(share * mean for share, mean in zip(shares, means, strict=True))


def _account(rows: PackedRows, mix: list[Source], rows_trained: int) -> dict[str, Any]:
    """Documents and tokens of each dataset, and how often the run went over all rows."""
    account: dict[str, Any] = {"rows_in": 0, "rows_used": 0}
    for source, packed in zip(mix, rows.sizes, strict=True):
        account["rows_in"] += len(source.train)
        account["rows_used"] += len(source.train)
        name = f"source_{source.name}"
        account |= {f"{name}_rows_in": len(source.train), f"{name}_rows_used": len(source.train)}
        account |= {f"{name}_tokens": source.train.tokens, f"{name}_packed_rows": packed}
    return {**account, "packed_rows": len(rows), "epochs": round(rows_trained / len(rows), 4)}
