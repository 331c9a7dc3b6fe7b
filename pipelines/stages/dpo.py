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
from pipelines.training.holdout import dpo_scores
from pipelines.training.inputs import dropout_of, identity, starting_lm, tokens_of
from pipelines.training.reference import reference_scores
from pipelines.training.session import Clock, exact_run, examples_of, finish, seed_of
from pipelines.training.trainers import ExactDPOTrainer, ScoredPairs


def run(ctx: StageContext) -> Metrics:
    """The reference's log-probabilities are computed once, before the first step, so no second model is kept."""
    clock, config = Clock(), ctx.job.config
    assert isinstance(config, DpoStage)
    tokens = tokens_of(ctx.inputs["model"])
    model = starting_lm(ctx, tokens, dropout=False)
    pairs = examples_of(ctx, model, PairRows)
    args = dpo_config(config, ctx.launch, output_dir=ctx.checkpoints, max_steps=pairs.steps, seed=seed_of(ctx))
    torch.nn.Module.to(model, args.device)
    refer = partial(reference_scores, model, pad_id=tokens.pad_id, folder=ctx.checkpoints, identity=identity(ctx))
    used = np.unique(pairs.schedule(np.arange(pairs.steps * config.global_batch_size)))
    rows = ScoredPairs(pairs.rows, *refer(pairs.rows, used, name="train"))
    every = np.arange(len(pairs.held_out))
    held_out = ScoredPairs(pairs.held_out, *refer(pairs.held_out, every, name="holdout"))
    clock.lap("reference")
    trainer = ExactDPOTrainer(
        model=model,
        args=args,
        rows=rows,
        exact=exact_run(
            ctx,
            pairs.schedule,
            lambda model: dpo_scores(
                model, held_out, PairCollator(tokens.pad_id, with_completion_mask=True), loss=_loss(config)
            ),
        ),
        processing_class=tokens.tokenizer,
    )
    return {**finish(ctx, trainer, model, clock, config_values=dropout_of(ctx)), **pairs.counts}


def _loss(config: DpoStage) -> Callable[[Tensor], Tensor]:
    """Per pair on the holdout, from the difference of the sides' gains: DPO's own, whatever is trained with."""
    return lambda margin: -logsigmoid(config.beta * margin)
