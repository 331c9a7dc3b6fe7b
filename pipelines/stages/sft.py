"""Stage `sft`: supervised fine-tuning on conversations, by trl.SFTTrainer on our ids and labels."""

from functools import partial

from pipelines.data.collate import ChatCollator, ChatRows
from pipelines.recipe.stages import SftStage
from pipelines.stages.base import Metrics, StageContext
from pipelines.training.arguments import sft_config
from pipelines.training.holdout import chat_scores
from pipelines.training.inputs import starting_lm, tokens_of
from pipelines.training.session import Clock, exact_run, examples_of, finish, seed_of
from pipelines.training.trainers import ExactSFTTrainer


def run(ctx: StageContext) -> Metrics:
    """The loss is on assistant tokens and their end token, or on all."""
    clock, config = Clock(), ctx.job.config
    assert isinstance(config, SftStage)
    tokens = tokens_of(ctx.inputs["model"])
    model = starting_lm(ctx, tokens)
    chats = examples_of(ctx, model, partial(ChatRows, assistant_only=config.assistant_only_loss))
    collator = ChatCollator(tokens.pad_id)
    trainer = ExactSFTTrainer(
        model=model,
        args=sft_config(config, ctx.launch, output_dir=ctx.checkpoints, max_steps=chats.steps, seed=seed_of(ctx)),
        rows=chats.rows,
        exact=exact_run(ctx, chats.schedule, lambda model: chat_scores(model, chats.held_out, collator)),
        processing_class=tokens.tokenizer,
    )
    return {**finish(ctx, trainer, model, clock), **chats.counts}
