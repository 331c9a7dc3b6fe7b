"""Completions in, scores out: by a function on their texts, or by a reward model on their ids."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipelines.errors import DataError
from pipelines.training.generation import batch_rows

Ids = Sequence[int]
Columns = Mapping[str, Any]
"""The other columns of a prompt's row, as its data set has them."""


class Reward(Protocol):
    """Scores of completions, stop token included where there is one; `columns` has one mapping per row."""

    def __call__(
        self, prompts: Sequence[Ids], completions: Sequence[Ids], columns: Sequence[Columns]
    ) -> list[float]: ...


class RewardFunction:
    """A function with TRL's signature: f(prompts, completions, completion_ids, **columns) -> one float per row.

    Prompts and completions are given as text, without special tokens; columns as lists, one item per row."""

    def __init__(self, function: Callable[..., Sequence[float]], tokenizer: PreTrainedTokenizerBase):
        self.function, self.tokenizer = function, tokenizer

    def __call__(self, prompts: Sequence[Ids], completions: Sequence[Ids], columns: Sequence[Columns]) -> list[float]:
        name = self.function.__name__
        names = sorted({name for row in columns for name in row} - {"prompts", "completions", "completion_ids"})
        given = {name: [row.get(name) for row in columns] for name in names}
        ids = [list(completion) for completion in completions]
        try:
            scores = self.function(self._texts(prompts), self._texts(completions), completion_ids=ids, **given)
        except TypeError as error:
            raise DataError(
                f"reward function {name} with columns {names}: {error}; give the prompts what it reads"
            ) from error
        if len(scores) != len(completions):
            raise DataError(f"reward function {name} gave {len(scores)} scores for {len(completions)} completions")
        return [float(score) for score in scores]

    def _texts(self, rows: Sequence[Ids]) -> list[str]:
        return self.tokenizer.batch_decode(
            [list(map(int, row)) for row in rows], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


class RewardModel:
    """A sequence classifier with one label, read at the last token of prompt + completion, as it was trained.

    Padded on the right, and without a mask: a causal model does not see what comes after its last token. So a score
    does not depend on padding and batch, beyond rounding."""

    def __init__(self, model: PreTrainedModel, pad_id: int):
        self.model, self.pad_id = model.eval().requires_grad_(False), pad_id

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Ids], completions: Sequence[Ids], columns: Sequence[Columns]) -> list[float]:
        rows = [reward_ids(*pair) for pair in zip(prompts, completions, strict=True)]
        most = self.model.config.max_position_embeddings
        if max(map(len, rows)) > most:
            raise DataError(
                f"a prompt with its completion has {max(map(len, rows))} tokens, the reward model takes {most}"
            )
        size, scores = batch_rows(self.model.device), []
        for first in range(0, len(rows), size):
            scores += self._score(rows[first : first + size])
        return scores

    def _score(self, rows: Sequence[list[int]]) -> list[float]:
        device, lengths = self.model.device, [len(row) for row in rows]
        padded = [row + [self.pad_id] * (max(lengths) - len(row)) for row in rows]
        hidden = self.model.base_model(input_ids=torch.tensor(padded, device=device), use_cache=False).last_hidden_state
        last = torch.tensor(lengths, device=device) - 1
        return self.model.score(hidden[torch.arange(len(rows), device=device), last]).squeeze(-1).float().tolist()


def reward_ids(prompt: Ids, completion: Ids) -> list[int]:
    """What a reward model reads: the one place that says so for PPO and evaluation; training reads prompt + chosen."""
    return [*map(int, prompt), *map(int, completion)]


def require_same_tokenizer(policy: Path, reward_model: Path) -> None:
    """Raise DataError unless both folders have the same tokenizer.json: ids of one mean nothing to the other."""
    digests = {
        hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest() for folder in (policy, reward_model)
    }
    if len(digests) > 1:
        raise DataError(
            "the reward model has another tokenizer than the policy; train it from the same tokenizer stage "
            f"({policy / 'tokenizer.json'} and {reward_model / 'tokenizer.json'} differ)"
        )
