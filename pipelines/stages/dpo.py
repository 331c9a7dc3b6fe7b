"""Stage `dpo`: direct preference optimisation by trl.DPOTrainer; the starting model is also the frozen reference."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pipelines.data.collate import PairCollator, PairRows
from pipelines.recipe.stages import DpoStage
from pipelines.stages.base import Metrics, StageContext
from pipelines.training.arguments import dpo_config
from pipelines.training.holdout import FirstRows, dpo_scores
from pipelines.training.inputs import causal_lm, check_batch, dropout_of, identity, longest, sources, tokens_of
from pipelines.training.reference import reference_scores
from pipelines.training.session import Clock, checked_counts, exact_run, examples_schedule, finish, seed_of
from pipelines.training.trainers import ExactDPOTrainer, ScoredPairs


def run(ctx: StageContext) -> Metrics:
    """The reference's log-probabilities are computed once, before the first step, so no second model is kept."""
    clock, config = Clock(), ctx.job.config
    assert isinstance(config, DpoStage)
    tokens = tokens_of(ctx.inputs["model"])
    model = causal_lm(ctx.inputs["model"], tokens, dropout=False)
    max_length = longest(config, model)
    mix = sources(ctx, model.config.vocab_size)
    rows, held_out = (
        PairRows(tables, max_length=max_length, overlong=config.overlong)
        for tables in ([source.train for source in mix], [source.holdout for source in mix])
    )
    counts = checked_counts(rows.counts, mix, config, max_length)
    schedule, steps = examples_schedule(ctx, rows, mix)
    check_batch(model, rows, schedule(np.arange(config.global_batch_size)).tolist())
    args = dpo_config(config, ctx.launch, output_dir=ctx.checkpoints, max_steps=steps, seed=seed_of(ctx))
    torch.nn.Module.to(model, args.device)
    refer = partial(reference_scores, model, pad_id=tokens.pad_id, folder=ctx.checkpoints, identity=identity(ctx))
    used = np.unique(schedule(np.arange(steps * config.global_batch_size)))
    pairs = ScoredPairs(rows, *refer(rows, used, name="train"))
    first = FirstRows(held_out)
    scored = ScoredPairs(first, *refer(first, np.arange(len(first)), name="holdout"))
    clock.lap("reference")
    trainer = ExactDPOTrainer(
        model=model,
        args=args,
        rows=pairs,
        exact=exact_run(
            ctx,
            schedule,
            lambda model: dpo_scores(
                model, scored, PairCollator(tokens.pad_id, with_completion_mask=True), loss=_loss(config)
            ),
        ),
        processing_class=tokens.tokenizer,
    )
    return {**finish(ctx, trainer, model, clock, config_values=dropout_of(ctx.inputs["model"])), **counts}


def _loss(config: DpoStage) -> Callable[[Tensor], Tensor]:
    """Per pair on the holdout, from the difference of the sides' gains: DPO's own, whatever is trained with."""
    return lambda margin: -logsigmoid(config.beta * margin)
