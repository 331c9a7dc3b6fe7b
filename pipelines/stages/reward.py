"""Stage `reward`: a model that scores conversations, learnt from preference pairs by trl.RewardTrainer."""

from pipelines.data.collate import PairCollator, PairRows
from pipelines.recipe.stages import RewardStage
from pipelines.stages.base import Metrics, StageContext
from pipelines.training.arguments import reward_config
from pipelines.training.holdout import reward_scores
from pipelines.training.inputs import starting_reward_model, tokens_of
from pipelines.training.session import Clock, exact_run, examples_of, finish, seed_of
from pipelines.training.trainers import ExactRewardTrainer


def run(ctx: StageContext) -> Metrics:
    """The body of a language model learns to give the chosen side of a pair the higher score."""
    clock, config = Clock(), ctx.job.config
    assert isinstance(config, RewardStage)
    tokens = tokens_of(ctx.inputs["model"])
    model = starting_reward_model(ctx)
    pairs = examples_of(ctx, model, PairRows)
    collator = PairCollator(tokens.pad_id, with_completion_mask=False)
    trainer = ExactRewardTrainer(
        model=model,
        args=reward_config(config, ctx.launch, output_dir=ctx.checkpoints, max_steps=pairs.steps, seed=seed_of(ctx)),
        rows=pairs.rows,
        exact=exact_run(ctx, pairs.schedule, lambda model: reward_scores(model, pairs.held_out, collator)),
        processing_class=tokens.tokenizer,
    )
    return {**finish(ctx, trainer, model, clock), **pairs.counts}
