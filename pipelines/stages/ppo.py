"""Stage `ppo`: the policy is moved towards what a reward model or a reward function scores high."""

import statistics
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from transformers import PreTrainedModel

from pipelines.data.schedule import mixed
from pipelines.errors import DataError
from pipelines.recipe.stages import PpoStage
from pipelines.rewards import REWARDS
from pipelines.stages.base import Metrics, StageContext
from pipelines.training.arguments import training_arguments
from pipelines.training.drawn import write_examples
from pipelines.training.inputs import (
    Tokens,
    causal_lm,
    check_batch,
    longest,
    sources,
    starting_lm,
    tokens_of,
    trained_classifier,
)
from pipelines.training.ppo import ActorCritic, PPOSettings, PPOTrainer
from pipelines.training.rollouts import Prompt, PromptRows, held_out_scores
from pipelines.training.scoring import Reward, RewardFunction, RewardModel, require_same_tokenizer
from pipelines.training.sentinel import METRICS, read_metrics
from pipelines.training.session import Clock, exact_run, finish

MOST_HELD_OUT = 256
"""Held-out prompts that are scored, at most: the first, whose order is a hash of their content."""


def run(ctx: StageContext) -> Metrics:
    """The starting model is also the frozen reference; with peft that is the starting adapter, on the same base.

    Only the policy is saved: the value head served training."""
    clock, config = Clock(), ctx.job.config
    assert isinstance(config, PpoStage) and ctx.job.seed is not None
    tokens = tokens_of(ctx.inputs["model"])
    policy = starting_lm(ctx, tokens)
    settings = PPOSettings.of(config, stop_ids=tokens.stop_ids, pad_id=tokens.pad_id)
    most_tokens = _room_for_prompts(config, longest(config, policy))
    mix = sources(ctx, policy.config.vocab_size)
    rows, held_out = (
        PromptRows(tables, most_tokens=most_tokens)
        for tables in ([source.train for source in mix], [source.holdout for source in mix])
    )
    counts = _counts(ctx, config, rows, [source.name for source in mix])
    order = mixed(rows.sizes, [source.share for source in mix], ctx.job.seed)
    steps_per_pass = config.rollout_batch_size // config.global_batch_size
    args = training_arguments(
        config,
        ctx.launch,
        output_dir=ctx.checkpoints,
        max_steps=int(config.duration.amount) * config.num_ppo_epochs * steps_per_pass,
        seed=ctx.job.seed,
    )
    reward = _reward(ctx, config, tokens, args.device)
    evaluate = partial(_held_out, prompts=_first(held_out), reward=reward, settings=settings, seed=ctx.job.seed)
    policy.to(args.device)  # type: ignore[arg-type]  # transformers wraps `to` and loses its types
    before = evaluate(policy)
    clock.lap("scoring_before")
    trainer = PPOTrainer(
        model=ActorCritic(policy, temperature=config.temperature),
        reference=None if config.peft else causal_lm(ctx.inputs["model"], tokens, base=ctx.inputs.get("model.base")),
        reward=reward,
        settings=settings,
        args=args,
        rows=rows,
        exact=exact_run(ctx, order, evaluate),
    )
    check_batch(policy, _Ids(rows), trainer.prompts_of(0).tolist())
    metrics = finish(ctx, trainer, policy, clock)
    before = {f"{name}_before": value for name, value in before.items() if name != "holdout_rows"}
    return {**metrics, **before, **_course(ctx, speaks=args.process_index == 0), **counts}


def _counts(ctx: StageContext, config: PpoStage, rows: PromptRows, names: Sequence[str]) -> dict[str, float]:
    """Metrics of what becomes of the prompts, and how often the run goes over them."""
    counts, rollouts = rows.check(names, max_dropped=config.max_dropped), int(config.duration.amount)
    taken = rollouts * config.rollout_batch_size
    return {**counts, **write_examples(ctx, names, rows.sizes, rows=taken, steps=rollouts)}


def _room_for_prompts(config: PpoStage, max_length: int) -> int:
    if max_length <= config.max_completion_length:
        raise DataError(
            f"max_length {max_length} leaves no room for a prompt beside max_completion_length "
            f"{config.max_completion_length}; lower that, or raise max_length"
        )
    return max_length - config.max_completion_length


def _reward(ctx: StageContext, config: PpoStage, tokens: Tokens, device: torch.device) -> Reward:
    if "reward_model" not in ctx.inputs:
        return RewardFunction(REWARDS[config.reward_funcs], tokens.tokenizer)
    folder = ctx.inputs["reward_model"]
    require_same_tokenizer(ctx.inputs["model"], folder)
    model = trained_classifier(folder, ctx.inputs.get("reward_model.base"))
    return RewardModel(model.to(device), tokens.pad_id)  # type: ignore[arg-type]


def _first(rows: PromptRows) -> list[Prompt]:
    """The same number of each dataset's, in turn."""
    starts, places = [0, *torch.tensor(rows.sizes).cumsum(0).tolist()], []
    for number, size in enumerate(rows.sizes):
        places += [(turn, starts[number] + turn) for turn in range(min(size, MOST_HELD_OUT))]
    return [rows[place] for _, place in sorted(places)[:MOST_HELD_OUT]]


def _held_out(
    model: PreTrainedModel | ActorCritic, *, prompts: Sequence[Prompt], reward: Reward, settings: PPOSettings, seed: int
) -> dict[str, float]:
    """Mean score on the held-out prompts, at the temperature of training."""
    if not prompts:
        return {}
    scores = held_out_scores(
        model.policy if isinstance(model, ActorCritic) else model,
        prompts,
        reward,
        max_new_tokens=settings.max_completion_length,
        stop_ids=settings.stop_ids,
        pad_id=settings.pad_id,
        temperature=settings.temperature,
        seed=seed,
    )
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return {
        "holdout_reward": statistics.fmean(scores),
        "holdout_reward_stderr": spread / len(scores) ** 0.5,
        "holdout_rows": len(scores),
    }


def _course(ctx: StageContext, *, speaks: bool) -> Mapping[str, float]:
    """Reward and divergence of the first and the last rollout."""
    lines = [line for line in read_metrics(ctx.record / METRICS) if "reward" in line]
    if not lines:
        return {}
    if not any(line["reward_stderr"] for line in lines) and speaks:
        print(
            f"note: every completion was rewarded {lines[-1]['reward']:g}, so there was nothing to learn but to stay "
            "near the reference; start from a model that earns the reward now and then, or choose another reward",
            flush=True,
        )
    named = [("first", lines[0]), ("last", lines[-1])]
    return {f"{place}_{name}": line[name] for place, line in named for name in ("reward", "reward_stderr", "kl")}


class _Ids:
    """The prompts' ids alone."""

    def __init__(self, rows: PromptRows):
        self.rows = rows

    def __getitem__(self, number: int) -> tuple[list[int], ...]:
        return (self.rows[number][0],)
