"""Stage `reward`: a model that scores conversations, learnt from preference pairs by trl.RewardTrainer."""

import numpy as np

from pipelines.data.collate import PairCollator, PairRows
from pipelines.recipe.stages import RewardStage
from pipelines.stages.base import Metrics, StageContext
from pipelines.training.arguments import reward_config
from pipelines.training.holdout import FirstRows, reward_scores
from pipelines.training.inputs import check_batch, longest, reward_model, sources, tokens_of
from pipelines.training.session import Clock, checked_counts, exact_run, examples_schedule, finish, seed_of
from pipelines.training.trainers import ExactRewardTrainer


def run(ctx: StageContext) -> Metrics:
    """The body of a language model learns to give the chosen side of a pair the higher score."""
    clock, config = Clock(), ctx.job.config
    assert isinstance(config, RewardStage)
    tokens = tokens_of(ctx.inputs["model"])
    model = reward_model(ctx.inputs["model"], seed_of(ctx))
    max_length = longest(config, model)
    mix = sources(ctx, model.config.vocab_size)
    rows, held_out = (
        PairRows(tables, max_length=max_length, overlong=config.overlong)
        for tables in ([source.train for source in mix], [source.holdout for source in mix])
    )
    counts = checked_counts(rows.counts, mix, config, max_length)
    schedule, steps = examples_schedule(ctx, rows, mix)
    check_batch(model, rows, schedule(np.arange(config.global_batch_size)).tolist())
    scored = FirstRows(held_out)
    collator = PairCollator(tokens.pad_id, with_completion_mask=False)
    trainer = ExactRewardTrainer(
        model=model,
        args=reward_config(config, ctx.launch, output_dir=ctx.checkpoints, max_steps=steps, seed=seed_of(ctx)),
        rows=rows,
        exact=exact_run(ctx, schedule, lambda model: reward_scores(model, scored, collator)),
        processing_class=tokens.tokenizer,
    )
    return {**finish(ctx, trainer, model, clock), **counts}
