"""Stage `sft`: supervised fine-tuning on conversations, by trl.SFTTrainer on our ids and labels."""

import numpy as np

from pipelines.data.collate import ChatCollator, ChatRows
from pipelines.recipe.stages import SftStage
from pipelines.stages.base import Metrics, StageContext
from pipelines.training.arguments import sft_config
from pipelines.training.holdout import FirstRows, chat_scores
from pipelines.training.inputs import causal_lm, check_batch, longest, sources, tokens_of
from pipelines.training.session import Clock, checked_counts, exact_run, examples_schedule, finish, seed_of
from pipelines.training.trainers import ExactSFTTrainer


def run(ctx: StageContext) -> Metrics:
    """The loss is on assistant tokens and their end token, or on all."""
    clock, config = Clock(), ctx.job.config
    assert isinstance(config, SftStage)
    tokens = tokens_of(ctx.inputs["model"])
    model = causal_lm(ctx.inputs["model"], tokens)
    max_length = longest(config, model)
    mix = sources(ctx, model.config.vocab_size)

    rows, held_out = (
        ChatRows(tables, max_length=max_length, overlong=config.overlong, assistant_only=config.assistant_only_loss)
        for tables in ([source.train for source in mix], [source.holdout for source in mix])
    )
    counts = checked_counts(rows.counts, mix, config, max_length)
    schedule, steps = examples_schedule(ctx, rows, mix)
    check_batch(model, rows, schedule(np.arange(config.global_batch_size)).tolist())
    scored = FirstRows(held_out)
    collator = ChatCollator(tokens.pad_id)
    trainer = ExactSFTTrainer(
        model=model,
        args=sft_config(config, ctx.launch, output_dir=ctx.checkpoints, max_steps=steps, seed=seed_of(ctx)),
        rows=rows,
        exact=exact_run(ctx, schedule, lambda model: chat_scores(model, scored, collator)),
        processing_class=tokens.tokenizer,
    )
    return {**finish(ctx, trainer, model, clock), **counts}
