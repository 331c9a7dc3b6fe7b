"""Stage `pretrain`: language modelling on text, by the objective that the recipe names."""

from itertools import pairwise
from typing import Any

import numpy as np

from pipelines.data.collate import PackedRows
from pipelines.data.schedule import mixed
from pipelines.recipe.stages import PretrainStage
from pipelines.stages.base import Metrics, StageContext
from pipelines.training.arguments import num_steps, training_arguments
from pipelines.training.inputs import (
    Source,
    check_batch,
    fresh_model,
    longest,
    pretrained,
    say_if_merged,
    sources,
    tokens_of,
)
from pipelines.training.objectives import AUTO_CLASSES, objective_of
from pipelines.training.session import Clock, exact_run, finish, seed_of
from pipelines.training.trainers import PretrainTrainer


def run(ctx: StageContext) -> Metrics:
    """From random weights, or on from those of another stage."""
    clock, config = Clock(), _config(ctx)
    tokens = tokens_of(ctx.inputs["tokenizer"])
    if ctx.job.model is not None:
        model = fresh_model(ctx.job.model, tokens, seed_of(ctx))
    else:
        base = ctx.inputs.get("model.base")
        say_if_merged(ctx)
        model = pretrained(AUTO_CLASSES[config.objective], ctx.inputs["model"], tokens, base=base)
    max_length = longest(config, model)
    mix = sources(ctx, model.config.vocab_size)
    objective = objective_of(config, model, tokens, mix, max_length=max_length, seed=seed_of(ctx))
    rows = objective.rows
    shares, tokens_per_row = _row_shares(rows, mix)
    schedule = mixed(rows.sizes, shares, seed_of(ctx))
    steps = num_steps(
        config.duration, rows=len(rows), tokens_per_row=tokens_per_row, global_batch_size=config.global_batch_size
    )
    check_batch(model, rows, schedule(np.arange(config.global_batch_size)).tolist())
    trainer = PretrainTrainer(
        model=model,
        args=training_arguments(config, ctx.launch, output_dir=ctx.checkpoints, max_steps=steps, seed=seed_of(ctx)),
        rows=rows,
        exact=exact_run(ctx, schedule, objective.evaluate, objective.noise),
        collator=objective.collator,
        loss=objective.loss,
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
