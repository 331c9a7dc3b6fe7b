"""Task `reward`: completions of held-out prompts, scored by a reward function or a reward model."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError
from pipelines.evaluation import metrics
from pipelines.evaluation.subject import Subject
from pipelines.recipe.evaluation import TaskConfig
from pipelines.rewards import REWARDS
from pipelines.training.inputs import trained_classifier
from pipelines.training.rollouts import PromptRows, held_out_scores
from pipelines.training.scoring import Reward, RewardFunction, RewardModel, require_same_tokenizer

LIMIT = 1000
"""Prompts asked where the recipe names no limit."""


def score_reward(
    subject: Subject,
    config: TaskConfig,
    *,
    prompts: Path,
    model: Path,
    reward_model: Path | None,
    seed: int,
    reward_base: Path | None = None,
) -> list[dict[str, Any]]:
    """One row. Each prompt is answered once, by numbers of its own: two models of a recipe draw the same ones."""
    room = subject.max_length - config.max_completion_length
    rows = PromptRows([TokenTable.open(prompts, "holdout")], most_tokens=room)
    count = min(len(rows), config.limit or LIMIT)
    if not count:
        raise DataError(
            f"task reward: no held-out prompt of '{config.data}' leaves room for {config.max_completion_length} "
            "tokens; give the dataset a holdout, or lower max_completion_length"
        )
    scores = held_out_scores(
        subject.model,
        [rows[number] for number in range(count)],
        _reward(subject, config, model, reward_model, reward_base),
        max_new_tokens=config.max_completion_length,
        stop_ids=subject.tokens.stop_ids,
        pad_id=subject.tokens.pad_id,
        temperature=config.temperature,
        seed=seed,
    )
    value, stderr = metrics.mean(scores)
    return [
        {
            "task": f"reward/{config.data}",
            "metric": config.reward_funcs,
            "value": value,
            "stderr": stderr,
            "higher_is_better": True,
            "version": 1,
            "num_fewshot": 0,
            "limit": config.limit,
            "n": count,
            "temperature": config.temperature,
            "max_completion_length": config.max_completion_length,
            "apply_chat_template": True,
            "template_digest": subject.template_digest,
            "truncated": 0,
        }
        | subject.settings
    ]


def _reward(subject: Subject, config: TaskConfig, model: Path, reward_model: Path | None, base: Path | None) -> Reward:
    if reward_model is None:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        return RewardFunction(REWARDS[config.reward_funcs or ""], tokenizer)
    require_same_tokenizer(model, reward_model)
    scorer = trained_classifier(reward_model, base)
    return RewardModel(scorer.to(subject.model.device), subject.tokens.pad_id)  # type: ignore[arg-type]
