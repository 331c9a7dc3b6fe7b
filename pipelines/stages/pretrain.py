"""Stage `pretrain`: language modelling on text, by the objective that the recipe names."""

import numpy as np

from pipelines.data.length_warmup import ShortContexts
from pipelines.errors import MachineError
from pipelines.recipe.stages import PretrainStage
from pipelines.stages.base import Metrics, StageContext
from pipelines.training.arguments import training_arguments
from pipelines.training.inputs import (
    check_batch,
    fresh_model,
    longest,
    pretrained,
    say_if_merged,
    sources,
    tokens_of,
)
from pipelines.training.mixtures import course_of, with_shares
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
    mix = with_shares(config, sources(ctx, model.config.vocab_size))
    objective = objective_of(config, model, tokens, mix, max_length=max_length, seed=seed_of(ctx))
    rows = objective.rows
    course = course_of(config, rows, mix, seed_of(ctx))
    course.write(ctx, mix)
    noise = objective.noise or _short_contexts(config, max_length, course.steps)
    check_batch(model, rows, course.order(np.arange(config.global_batch_size)).tolist())
    trainer = PretrainTrainer(
        model=model,
        args=training_arguments(
            config, ctx.launch, output_dir=ctx.checkpoints, max_steps=course.steps, seed=seed_of(ctx)
        ),
        rows=rows,
        exact=exact_run(ctx, course.order, objective.evaluate, noise),
        collator=objective.collator,
        loss=objective.loss,
    )
    return {**finish(ctx, trainer, model, clock), **course.metrics(rows, mix)}


def _config(ctx: StageContext) -> PretrainStage:
    assert isinstance(ctx.job.config, PretrainStage)
    return ctx.job.config


def _short_contexts(config: PretrainStage, max_length: int, steps: int) -> ShortContexts | None:
    """Of a recipe that asks for them."""
    warmup = config.length_warmup
    if warmup is None:
        return None
    if warmup.start >= max_length:
        raise MachineError(f"length_warmup starts at {warmup.start} tokens, and rows have {max_length}; start lower")
    return ShortContexts(warmup.start, max_length, config.global_batch_size, max(1, round(warmup.until * steps)))
