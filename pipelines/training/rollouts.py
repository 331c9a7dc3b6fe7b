"""Rollouts: prompts, their completions, and what is known of them before the first update on them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError, Diverged
from pipelines.training import ppo_losses


class PromptRows:
    """Prompts of one or several tables, numbered through, as (ids, columns); `kept` says which rows of each table."""

    def __init__(self, tables: Sequence[TokenTable], kept: Sequence[np.ndarray] | None = None):
        self.tables = list(tables)
        self._kept = [np.arange(len(table)) for table in tables] if kept is None else list(kept)
        self.sizes = [len(rows) for rows in self._kept]
        self._starts = np.cumsum([0, *self.sizes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> tuple[list[int], dict[str, Any]]:
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        row, table = int(self._kept[which][number - self._starts[which]]), self.tables[which]
        columns = table.row(row)["columns"]
        columns = json.loads(columns) if isinstance(columns, str) else columns
        return table.ids("prompt_ids", row).tolist(), {name: columns[name] for name in columns if name != "prompt"}


def fitting_rows(table: TokenTable, most: int) -> np.ndarray:
    """Rows whose prompt has at most so many tokens."""
    return np.flatnonzero(table.lengths("prompt_ids") <= most)


@dataclass(frozen=True)
class Rollout:
    """Completions with their prompts before them, padded on the right; (completions, tokens) are the new tokens only."""

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


def require_finite(scores: Tensor, rows: np.ndarray) -> None:
    """Raise Diverged, naming the prompts, unless every score is a number."""
    bad = ~scores.isfinite().cpu().numpy()
    if bad.any():
        numbers = sorted(set(rows[bad].tolist()))
        shown = ", ".join(map(str, numbers[:16])) + (f" and {len(numbers) - 16} more" if len(numbers) > 16 else "")
        raise Diverged(f"the reward of prompts {shown} is not a finite number; look at the reward on these rows")


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


def dropped_too_long(name: str, dropped: int, rows: int, *, most: int, max_dropped: float) -> None:
    """Raise DataError where more than the allowed share of prompts is too long."""
    if dropped == rows or dropped / rows > max_dropped:
        raise DataError(
            f"{name}: {dropped} of {rows} prompts are longer than {most} tokens, what max_length leaves beside "
            f"max_completion_length; raise max_length, shorten max_completion_length, or raise max_dropped ({max_dropped})"
        )


Metrics = Mapping[str, float]
