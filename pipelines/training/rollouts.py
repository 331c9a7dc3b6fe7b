"""Rollouts: prompts, their completions, and what is known of them before the first update on them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel

from pipelines.data.collate import RowCount
from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError, Diverged
from pipelines.training import ppo_losses
from pipelines.training.generation import batch_rows, left_padded, noise, sample, unpadded
from pipelines.training.holdout import in_order
from pipelines.training.scoring import Reward

HELD_OUT = -1
"""The rollout's number in the keys of numbers for held-out prompts: training's start at 0."""


Prompt = tuple[list[int], dict[str, Any]]
"""Ids, and the other columns of the row, for the reward."""


class PromptRows:
    """Prompts of several tables that leave room for a completion, numbered through, as (ids, columns)."""

    def __init__(self, tables: Sequence[TokenTable], *, most_tokens: int):
        self.counts, self._tables, self._kept, self._most_tokens = [], list(tables), [], most_tokens
        for table in tables:
            rows = np.flatnonzero(table.lengths("prompt_ids") <= most_tokens)
            self._kept.append(rows)
            count = RowCount(rows_in=len(table), rows_used=len(rows), dropped_overlong=len(table) - len(rows))
            self.counts.append(count)
        self._starts = np.cumsum([0, *self.sizes])

    def check(self, names: Sequence[str], *, max_dropped: float) -> dict[str, int]:
        """Metrics of what became of the rows, in sum and per dataset; DataError where too many prompts are too long."""
        metrics = dict.fromkeys(("rows_in", "rows_used", "dropped_overlong"), 0)
        for name, count in zip(names, self.counts, strict=True):
            if not count.rows_used or count.dropped / count.rows_in > max_dropped:
                raise DataError(
                    f"{name}: {count.dropped} of {count.rows_in} prompts are longer than {self._most_tokens} tokens, "
                    f"which max_length leaves beside max_completion_length, and allowed are {max_dropped:.2%}; raise "
                    "max_length, lower max_completion_length, or raise max_dropped"
                )
            for figure in metrics:
                metrics[figure] += getattr(count, figure)
            metrics |= {f"source_{name}_{figure}": getattr(count, figure) for figure in ("rows_in", "rows_used")}
        return metrics

    @property
    def sizes(self) -> list[int]:
        """Rows of each table."""
        return [count.rows_used for count in self.counts]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Prompt:
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        table, row = self._tables[which], int(self._kept[which][number - self._starts[which]])
        return table.ids("prompt_ids", row).tolist(), json.loads(table.value("columns", row))


@dataclass(frozen=True)
class Rollout:
    """Completions with their prompts before them, padded on the right; `tokens` are the new ones only."""

    ids: Tensor
    """(completions, prompt and new tokens): each row's prompt, then its completion, then padding."""
    prompt_lengths: Tensor
    """(completions,)"""
    is_token: Tensor
    """(completions, tokens): true on the completion's tokens, its stop token among them."""
    ended: Tensor
    """(completions,): whether the last token is a stop token."""
    logps: Tensor
    """(completions, tokens): log-probabilities under the policy that drew them, at the sampling temperature."""
    reference_logps: Tensor
    """(completions, tokens): under the frozen reference, at the same temperature."""
    values: Tensor
    """(completions, tokens): value of the state before the token."""
    scores: Tensor
    """(completions,): as the reward gave them."""
    advantages: Tensor | None = None
    returns: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are set."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in given.items() if tensor is not None}

    def rows(self, places: np.ndarray | Tensor) -> "Rollout":
        """Some of its completions."""
        chosen = torch.as_tensor(places, device=self.ids.device)
        return Rollout(**{name: tensor[chosen] for name, tensor in self.tensors().items()})

    @property
    def lengths(self) -> Tensor:
        """(completions,): tokens of prompt and completion."""
        return self.prompt_lengths + self.is_token.sum(dim=1)

    def metrics(self) -> dict[str, float]:
        """Means over the completions. `kl` is in nats per completion, `entropy` (estimated) in nats per token."""
        count, scores = len(self.scores), self.scores.double()
        kl = torch.where(self.is_token, ppo_losses.log_ratios(self.logps, self.reference_logps), 0.0).double()
        return {
            "reward": float(scores.mean()),
            "reward_stderr": float(scores.std() / math.sqrt(count)) if count > 1 else 0.0,
            "kl": float(kl.sum(dim=1).mean()),
            "entropy": -float(ppo_losses.masked_mean(self.logps.double(), self.is_token)),
            "completion_length": float(self.is_token.sum(dim=1).double().mean()),
            "ended": float(self.ended.double().mean()),
        }


def joined(prompts: Sequence[Sequence[int]], tokens: Tensor, is_token: Tensor, pad_id: int, length: int) -> Tensor:
    """Prompts with their completions right behind them, (rows, length), padded on the right."""
    ids = torch.full((len(prompts), length), pad_id)
    for number, prompt in enumerate(prompts):
        ids[number, : len(prompt)] = torch.tensor(prompt)
    ids = ids.to(tokens.device)
    rows, turns = is_token.nonzero(as_tuple=True)
    starts = torch.tensor([len(prompt) for prompt in prompts], device=tokens.device)
    ids[rows, starts[rows] + turns] = tokens[rows, turns]
    return ids


def require_finite(scores: np.ndarray, rows: np.ndarray, *, where: str) -> None:
    """Raise Diverged, naming the prompts, unless every score is a number."""
    bad = ~np.isfinite(scores)
    if bad.any():
        numbers = sorted(set(rows[bad].tolist()))
        shown = ", ".join(map(str, numbers[:16])) + (f" and {len(numbers) - 16} more" if len(numbers) > 16 else "")
        raise Diverged(
            f"{where}: the reward of prompts {shown} is not a finite number; look at the reward on these rows"
        )


def with_advantages(
    rollout: Rollout,
    *,
    kl_coef: float,
    missing_eos_penalty: float,
    whiten_rewards: bool,
    gamma: float,
    lam: float,
) -> Rollout:
    """The rollout with advantages (whitened over all of its tokens) and returns."""
    scores = rollout.scores - missing_eos_penalty * (~rollout.ended).float()
    kl = ppo_losses.log_ratios(rollout.logps, rollout.reference_logps)
    rewards = ppo_losses.token_rewards(kl, scores, rollout.is_token, kl_coef=kl_coef)
    if whiten_rewards:
        rewards = ppo_losses.whiten(rewards, rollout.is_token, keep_mean=True)
    advantages, returns = ppo_losses.gae(rewards, rollout.values, rollout.is_token, gamma=gamma, lam=lam)
    return replace(rollout, advantages=ppo_losses.whiten(advantages, rollout.is_token), returns=returns)


def held_out_scores(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    reward: Reward,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    pad_id: int,
    temperature: float,
    seed: int,
) -> list[float]:
    """One score per prompt, of a completion drawn with the prompt's own numbers: the same before and after training,
    so that the two can be compared by pairs. Batches are the same for every number of processes, which take turns."""
    state, size, parts = PartialState(), batch_rows(model.device), []
    for start in range(0, len(prompts), size):
        if start // size % state.num_processes == state.process_index:
            some = prompts[start : start + size]
            ids, is_token = left_padded([ids for ids, _ in some], pad_id)
            numbers = noise(seed, HELD_OUT, range(start, start + len(some)), max_new_tokens)
            tokens, is_new = sample(
                model,
                ids.to(model.device),
                is_token.to(model.device),
                numbers,
                stop_ids=stop_ids,
                pad_id=pad_id,
                temperature=temperature,
            )
            scores = reward([ids for ids, _ in some], unpadded(tokens, is_new), [columns for _, columns in some])
            parts.append((start, scores))
    found = [score for scores in in_order(parts) for score in scores]
    require_finite(np.array(found), np.arange(len(found)), where="holdout")
    return found
